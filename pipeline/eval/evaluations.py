"""What is measured of a model in training, as the steps of the same names measure checkpoints.

The classes are values, which a plan reads: what computes is imported where it begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.core.artifacts import Documents, Questions, Tokenizer
from pipeline.core.errors import MismatchedInputs
from pipeline.data.document import MetadataField
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
    tokenizer: Tokenizer
    name: str = ""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every is {self.every}; it must be at least 1")

    def require(self, model: OlmoConfig, tokenizer: str) -> None:
        """Raises MismatchedInputs where a model that reads a tokenizer's ids cannot be measured.

        Args:
            tokenizer: its content digest; empty where it is not known.
        """
        what = f"the evaluation {self.name!r}"
        if tokenizer not in ("", self.tokenizer.content):
            raise MismatchedInputs(
                what,
                "the training",
                f"its tokenizer is {self.tokenizer.content[:12]}, the model reads the ids of "
                f"{tokenizer[:12]}",
            )
        if model.vocab_size < self.tokenizer.vocab_size:
            raise MismatchedInputs(
                what,
                "OlmoConfig",
                f"its tokenizer has {self.tokenizer.vocab_size} ids, the model "
                f"{model.vocab_size} rows of the vocabulary",
            )

    def begin(self) -> Measure:
        """Read what it is measured on; gives what makes the rows of `scores.parquet`.

        They are without `model` and `step`.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class PerplexityEvery(Periodic):
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
        if self.max_documents is not None and self.max_documents < 1:
            raise ValueError(f"max_documents is {self.max_documents}; it must be at least 1")

    def begin(self) -> Measure:
        from pipeline.eval.perplexity import TEXT_SCHEMA, domain_texts, score_domains
        from pipeline.eval.tables import Tables

        texts = domain_texts(self.tokenizer, self.documents, self.max_documents, self.group_by)

        def measure(scorer: Scorer) -> list[dict[str, Any]]:
            tables = Tables(TEXT_SCHEMA)
            score_domains(texts, scorer, tables)
            return tables.measures()

        return measure


@dataclass(frozen=True, kw_only=True)
class RankEvalEvery(Periodic):
    """Accuracy on every task, under all normalizations, as the step `rank_eval`."""

    questions: Questions
    name: str = "rank_eval"

    def begin(self) -> Measure:
        from pipeline.eval.ranking import ANSWERS_SCHEMA, rank_tasks, tasks_of
        from pipeline.eval.scoring import loglikelihoods
        from pipeline.eval.tables import Tables

        tasks = tasks_of(self.questions)

        def measure(scorer: Scorer) -> list[dict[str, Any]]:
            tables = Tables(ANSWERS_SCHEMA)
            rank_tasks(tasks, lambda asked: loglikelihoods(scorer, self.tokenizer, asked), tables)
            return tables.measures()

        return measure
