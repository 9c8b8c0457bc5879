"""Steps from text to the integers that training reads."""

from __future__ import annotations

from typing import Annotated, Any

from tango.step import Step

from pipeline.core.artifacts import (
    Documents,
    Examples,
    OrderTable,
    Pairs,
    ReadingOrder,
    Tokenizer,
    TokenMix,
    Tokens,
)
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.fingerprints import OutsideFile
from pipeline.data.document import MetadataField
from pipeline.tokens import importing, tokenizing
from pipeline.tokens.chat import prepare_examples, prepare_pairs
from pipeline.tokens.importing import TokenFiles, import_tokens
from pipeline.tokens.inspecting import inspect_order, told_steps
from pipeline.tokens.mixing import check_proportions, check_repeats, mix_tokens
from pipeline.tokens.olmo_indices import (
    import_order,
    num_instances_in,
    order_of,
    require_held,
)
from pipeline.tokens.olmo_order import OlmoShuffle
from pipeline.tokens.order import FEISTEL, MOST_BATCH, MOST_STEPS, OrderRule
from pipeline.tokens.tokenizer import LEAST_VOCAB, import_tokenizer, train_tokenizer
from pipeline.tokens.tokenizing import tokenize_documents
from steps.base import PipelineStep
from steps.graph.ranges import NOT_EMPTY, Positive, Range, Seed


@Step.register("train_tokenizer")
class TrainTokenizer(PipelineStep):
    """A byte-level BPE tokenizer trained on a sample of documents, chosen by hash."""

    VERSION = "001"

    def run(
        self,
        documents: Documents,
        vocab_size: Annotated[int, Range(LEAST_VOCAB)],
        sample_fraction: Annotated[float, Range(above=0, most=1)] = 1.0,
    ) -> Tokenizer:
        return train_tokenizer(
            documents, vocab_size=vocab_size, sample_fraction=sample_fraction, out=self.out
        )


@Step.register("import_tokenizer")
class ImportTokenizer(PipelineStep):
    """A published tokenizer.json."""

    VERSION = "001"

    def run(
        self,
        path: OutsideFile,
        end_token: str = "<|endoftext|>",
        pad_token: str = "<|padding|>",
    ) -> Tokenizer:
        return import_tokenizer(
            path.local(), end_token=end_token, pad_token=pad_token, out=self.out
        )


@Step.register("tokenize")
class Tokenize(PipelineStep):
    """Documents become token ids, each ending in the end token."""

    VERSION = tokenizing.VERSION

    def run(
        self,
        documents: Documents,
        tokenizer: Tokenizer,
        strip: bool = False,
        engine: Engine = LOCAL,
    ) -> Tokens:
        return tokenize_documents(
            documents, tokenizer, strip=strip, out=self.out, engine=engine, memo=self.memo
        )


@Step.register("import_tokens")
class ImportTokens(PipelineStep):
    """Token shards that OLMo's or Dolma's tools wrote."""

    VERSION = importing.VERSION

    def run(self, files: TokenFiles, tokenizer: Tokenizer, engine: Engine = LOCAL) -> Tokens:
        return import_tokens(files, tokenizer, out=self.out, engine=engine, memo=self.memo)


@Step.register("mix")
class Mix(PipelineStep):
    """Several Tokens in given proportions; copies nothing."""

    VERSION = "001"

    def run(
        self,
        tokens: Annotated[dict[str, Tokens], NOT_EMPTY],
        sequence_length: Positive,
        proportions: dict[str, float] | None = None,
        repeats: dict[str, float] | None = None,
        num_instances: Positive | None = None,
    ) -> TokenMix:
        return mix_tokens(
            tokens,
            sequence_length=sequence_length,
            proportions=proportions,
            repeats=repeats,
            num_instances=num_instances,
            out=self.out,
        )

    def check(self, path: str) -> None:
        """Raises ValueError for proportions or repeats that are not of its parts, or for both."""
        proportions, repeats = self.kwargs["proportions"], self.kwargs["repeats"]
        if proportions is not None and repeats is not None:
            raise ValueError(f"{path}.repeats and proportions are both given; it must be one")
        if proportions is not None:
            check_proportions(proportions, self.kwargs["tokens"], f"{path}.proportions")
        if repeats is not None:
            check_repeats(repeats, self.kwargs["tokens"], f"{path}.repeats")

    def longest_row(self) -> tuple[str, int]:
        """The parameter that bounds the tokens of a row, and what it is."""
        return f"steps.{self.name}.sequence_length", self.kwargs["sequence_length"]


@Step.register("import_order")
class ImportOrder(PipelineStep):
    """The reading order that a run of ai2-olmo wrote, `train_data/global_indices.npy`."""

    VERSION = "001"

    def run(self, path: OutsideFile) -> ReadingOrder:
        return import_order(path.local(), out=self.out)


def require_read_once(order: OrderRule | Step[Any], mix: Step[Any], path: str) -> None:
    """Raises ValueError where an order of ai2-olmo is given a mix with repeats or proportions."""
    if not isinstance(order, OlmoShuffle | Step):
        return
    repeats = mix.kwargs.get("repeats") or {}
    drawn = {
        "proportions": mix.kwargs.get("proportions") is not None,
        "repeats": any(each != 1 for each in repeats.values()),
    }
    for name in (name for name, is_given in drawn.items() if is_given):
        raise ValueError(
            f"{path}.order is one of ai2-olmo, which reads each part of a mix once; "
            f"steps.{mix.name}.{name} must be left out"
        )


def require_long_enough(
    order: OrderRule | Step[Any], num_steps: int, batch_size: int, told: str
) -> None:
    """Raises ValueError where a file of indices, as far as its size is known, ends too early.

    Args:
        told: what asks for so many steps, as `steps.base.train.stop_at is 9`.
    """
    if isinstance(order, ImportOrder):
        num_instances = num_instances_in(order.kwargs["path"])
        if num_instances is not None:
            file = f"steps.{order.name}.path"
            require_held(num_instances, num_steps, batch_size, told, file)


@Step.register("inspect_order")
class InspectOrder(PipelineStep):
    """Which documents each optimizer step reads; the first is 1."""

    VERSION = "002"

    def run(
        self,
        mix: TokenMix,
        batch_size: Annotated[int, Range(1, MOST_BATCH)],
        seed: Seed,
        num_steps: Annotated[int, Range(1, MOST_STEPS)],
        first_step: Annotated[int, Range(1, MOST_STEPS)] = 1,
        world_size: Positive = 1,
        order: OrderRule | ReadingOrder = FEISTEL,
    ) -> OrderTable:
        return inspect_order(
            mix,
            batch_instances=batch_size,
            seed=seed,
            num_steps=num_steps,
            first_step=first_step,
            world_size=world_size,
            order=order_of(order),
            out=self.out,
        )

    def check(self, path: str) -> None:
        """Raises ValueError for a mix that OLMo's order cannot read, or an order that ends."""
        given = self.kwargs
        require_read_once(given["order"], given["mix"], path)
        told = f"{path}.{told_steps(given['num_steps'], given['first_step'])}"
        last = given["first_step"] - 1 + given["num_steps"]
        require_long_enough(given["order"], last, given["batch_size"], told)


@Step.register("prepare_examples")
class PrepareExamples(PipelineStep):
    """Conversations become token ids with a mask of what is learned."""

    VERSION = "001"

    def run(
        self,
        documents: Documents,
        tokenizer: Tokenizer,
        max_length: Annotated[int, Range(2)],
        group_by: MetadataField | None = None,
        engine: Engine = LOCAL,
    ) -> Examples:
        return prepare_examples(
            documents,
            tokenizer,
            max_length=max_length,
            group_by=group_by,
            out=self.out,
            engine=engine,
        )

    def longest_row(self) -> tuple[str, int]:
        """The parameter that bounds the tokens of a row, and what it is."""
        return f"steps.{self.name}.max_length", self.kwargs["max_length"]


@Step.register("prepare_pairs")
class PreparePairs(PipelineStep):
    """Preferences become pairs of token ids, chosen and rejected."""

    VERSION = "002"

    def run(
        self,
        documents: Documents,
        tokenizer: Tokenizer,
        max_length: Annotated[int, Range(2)],
        group_by: MetadataField | None = None,
        engine: Engine = LOCAL,
    ) -> Pairs:
        return prepare_pairs(
            documents,
            tokenizer,
            max_length=max_length,
            group_by=group_by,
            out=self.out,
            engine=engine,
        )

    def longest_row(self) -> tuple[str, int]:
        """The parameter that bounds the tokens of a row, and what it is."""
        return f"steps.{self.name}.max_length", self.kwargs["max_length"]
