"""What is measured of a model in training, as the steps of the same names measure checkpoints.

The classes are values, which a plan reads: what computes is imported where it begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.core.artifacts import Documents, Examples, Pairs, Questions, Tokenizer
from pipeline.core.errors import MismatchedInputs
from pipeline.data.document import MetadataField
from pipeline.eval.tables import Tables
from pipeline.model.config import OlmoConfig

if TYPE_CHECKING:
    from pipeline.model.scoring import Scorer

Measure = Callable[["Scorer"], list[dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Periodic:
    """A measurement every so many updates, before the first one and after the last.

    Args:
        every: so many updates.
        name: that its figures go by; by default its type.
    """

    every: int
    name: str = ""

    def __post_init__(self) -> None:
        for name in ("every", "max_documents", "limit"):
            value = getattr(self, name, None)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")

    @property
    def ids_of(self) -> str:
        """Content digest of the tokenizer whose ids are scored."""
        raise NotImplementedError

    def require(self, model: OlmoConfig, tokenizer: str) -> None:
        """Raises MismatchedInputs where a model that reads a tokenizer's ids cannot be measured.

        Args:
            tokenizer: its content digest; empty where it is not known.
        """
        if tokenizer not in ("", self.ids_of):
            raise MismatchedInputs(
                f"the evaluation {self.name!r}",
                "the training",
                f"its tokenizer is {self.ids_of[:12]}, the model reads the ids of {tokenizer[:12]}",
            )

    def begin(self) -> Measure:
        """Read what it is measured on; gives what makes the rows of `scores.parquet`.

        They are without `model` and `step`.
        """
        raise NotImplementedError


def measuring(schema: pa.Schema, score: Callable[[Scorer, Tables], None]) -> Measure:
    """What measures with a function that adds to tables, whose items are of a schema."""

    def measure(scorer: Scorer) -> list[dict[str, Any]]:
        tables = Tables(schema)
        score(scorer, tables)
        return tables.measures()

    return measure


@dataclass(frozen=True, kw_only=True)
class OfText(Periodic):
    """One that is measured on text, with a tokenizer."""

    tokenizer: Tokenizer

    @property
    def ids_of(self) -> str:
        return self.tokenizer.content

    def require(self, model: OlmoConfig, tokenizer: str) -> None:
        """Raises MismatchedInputs also where the model has too few rows of the vocabulary."""
        super().require(model, tokenizer)
        if model.vocab_size < self.tokenizer.vocab_size:
            raise MismatchedInputs(
                f"the evaluation {self.name!r}",
                "OlmoConfig",
                f"its tokenizer has {self.tokenizer.vocab_size} ids, the model "
                f"{model.vocab_size} rows of the vocabulary",
            )


@dataclass(frozen=True, kw_only=True)
class PerplexityEvery(OfText):
    """Perplexity and bits per byte of held-out documents, by domain, as the step `perplexity`.

    Args:
        max_documents, group_by: as of the step.
    """

    documents: dict[str, Documents]
    max_documents: int | None = None
    group_by: MetadataField | None = None
    name: str = "perplexity"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.documents:
            raise ValueError("documents is empty; it must hold at least one item")

    def begin(self) -> Measure:
        from pipeline.eval.perplexity import TEXT_SCHEMA, domain_texts, score_domains

        texts = domain_texts(self.tokenizer, self.documents, self.max_documents, self.group_by)
        return measuring(TEXT_SCHEMA, partial(score_domains, texts))


@dataclass(frozen=True, kw_only=True)
class RankEvalEvery(OfText):
    """Accuracy on every task, under all normalizations, as the step `rank_eval`."""

    questions: Questions
    name: str = "rank_eval"

    def begin(self) -> Measure:
        from pipeline.eval.ranking import ANSWERS_SCHEMA, rank_tasks, tasks_of
        from pipeline.eval.scoring import loglikelihoods

        tasks = tasks_of(self.questions)

        def score(scorer: Scorer, tables: Tables) -> None:
            rank_tasks(tasks, partial(loglikelihoods, scorer, self.tokenizer), tables)

        return measuring(ANSWERS_SCHEMA, score)


@dataclass(frozen=True, kw_only=True)
class AnswerScoresEvery(Periodic):
    """Bits per byte of held-out answers, as the step `answer_scores`."""

    examples: Examples
    limit: int | None = None
    name: str = "answer_scores"

    @property
    def ids_of(self) -> str:
        return self.examples.tokenizer

    def begin(self) -> Measure:
        from pipeline.eval.perplexity import TEXT_SCHEMA, sampled_rows, score_answers

        rows = sampled_rows(self.examples, self.limit)
        return measuring(TEXT_SCHEMA, partial(score_answers, rows))


@dataclass(frozen=True, kw_only=True)
class PairScoresEvery(Periodic):
    """The share of held-out pairs whose chosen answer is likelier, as the step `pair_scores`."""

    pairs: Pairs
    limit: int | None = None
    name: str = "pair_scores"

    @property
    def ids_of(self) -> str:
        return self.pairs.tokenizer

    def begin(self) -> Measure:
        from pipeline.eval.perplexity import PAIR_SCHEMA, sampled_rows, score_pairs

        return measuring(PAIR_SCHEMA, partial(score_pairs, sampled_rows(self.pairs, self.limit)))
