"""The models that are scored, and how likely they find a continuation after its context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from pipeline.core.artifacts import Checkpoint, Checkpoints, HfModel, Tokenizer
from pipeline.core.errors import MismatchedInputs
from pipeline.model.hf import load_checkpoint_model, load_hf
from pipeline.model.olmo import Olmo
from pipeline.model.scoring import Scorer, row
from pipeline.tokens.tokenizer import encode, load_tokenizer

Model = Checkpoints | HfModel


class Likelihood(NamedTuple):
    """How likely a continuation is: summed natural log-probability, over so many tokens.

    `is_greedy`: every token is the likeliest at its place. `num_cut` tokens did not fit on the
    left and were not seen.
    """

    logprob: float
    num_tokens: int
    is_greedy: bool
    num_cut: int


class NamedModel(NamedTuple):
    """A model to score: the name and step its rows carry. A Hugging Face folder is step 0."""

    name: str
    step: int
    source: Model
    checkpoint: Checkpoint | None

    @property
    def weights(self) -> str:
        """Content digest of what is scored."""
        if isinstance(self.source, HfModel):
            return self.source.weights
        assert self.checkpoint is not None
        return self.checkpoint.weights

    def load(self) -> Olmo:
        """The model in float32, on a GPU if there is one, ready to score."""
        if isinstance(self.source, HfModel):
            model = load_hf(self.source)
        else:
            assert self.checkpoint is not None
            model = load_checkpoint_model(self.source, self.checkpoint)
        return model.to(default_device()).eval()


def default_device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def named_models(
    models: Mapping[str, Model], tokenizer: str, steps: Sequence[int] | str | None
) -> Iterator[NamedModel]:
    """Every model and step to score.

    Args:
        tokenizer: content digest of the tokenizer the ids are of.
        steps: of each series; "all", or without it the latest.

    Raises:
        MismatchedInputs: a model was trained with another tokenizer.
        ValueError: a series has no such step.
    """
    chosen = []
    for name, source in models.items():
        if source.tokenizer not in ("", tokenizer):
            raise MismatchedInputs(
                f"model {name!r}",
                f"Tokenizer {tokenizer[:12]}",
                f"the model was trained with tokenizer {source.tokenizer[:12]}",
            )
        if isinstance(source, HfModel):
            chosen.append(NamedModel(name, 0, source, None))
            continue
        by_step = {each.step: each for each in source.steps}
        wanted = [source.latest.step] if steps is None else by_step if steps == "all" else steps
        for step in wanted:
            if step not in by_step:
                raise ValueError(f"step {step} of {name!r} is not saved; one of {sorted(by_step)}")
            chosen.append(NamedModel(name, int(step), source, by_step[int(step)]))
    yield from chosen


def loglikelihoods(
    scorer: Scorer, tokenizer: Tokenizer, requests: Sequence[tuple[str, str]]
) -> list[Likelihood]:
    """The likelihood of each continuation after its context, in the order of the requests.

    Context and continuation are tokenized apart, and the end token stands before the context.

    Source: allenai/catwalk, `rank_classification`.
    Differs: `is_greedy` looks at the whole vocabulary; the end token stands before every context
        and not only before an empty one.
    """
    loaded = load_tokenizer(tokenizer)
    texts = list(dict.fromkeys(text for request in requests for text in request))
    ids = dict(zip(texts, encode(loaded, texts), strict=True))
    rows = []
    for context, continuation in requests:
        start = [tokenizer.end_id, *ids[context]]
        places = range(len(start), len(start) + len(ids[continuation]))
        rows.append(row(start + ids[continuation], places, scorer.max_sequence_length))
    return [
        Likelihood(float(s.logprobs.sum()), len(s.logprobs), bool(s.greedy.all()), each.num_cut)
        for each, s in zip(rows, scorer.score(rows), strict=True)
    ]
