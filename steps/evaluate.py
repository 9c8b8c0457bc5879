"""Steps that score models; torch is imported where they run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from tango.step import Step

from pipeline.core.artifacts import (
    Checkpoints,
    Documents,
    Examples,
    Generations,
    HfModel,
    Pairs,
    Questions,
    Scores,
    Tokenizer,
)
from pipeline.data.document import MetadataField
from pipeline.eval import tasks
from pipeline.eval.benchmarks import TaskSource
from pipeline.eval.tasks import function_questions, ingest_tasks, task_documents
from pipeline.train.config import check_saved
from steps.base import PipelineStep
from steps.graph.ranges import NOT_EMPTY, Count, Positive, Range, Seed
from steps.train import TrainingStep

Selection = Annotated[list[Count], NOT_EMPTY]


def check_selection(arguments: dict[str, Any], path: str) -> None:
    """Raises ValueError for steps that a model of this graph will not have."""
    wanted = arguments["steps"] if isinstance(arguments["steps"], list) else []
    for name, model in arguments["models"].items():
        if isinstance(model, TrainingStep):
            check_saved(wanted, model.kwargs["train"], name, f"{path}.steps")


@Step.register("ingest_tasks")
class IngestTasks(PipelineStep):
    """Published evaluation sets become Questions."""

    VERSION = "001"

    def run(self, source: TaskSource) -> Questions:
        return ingest_tasks(source, out=self.out)


@Step.register("function_questions")
class FunctionQuestions(PipelineStep):
    """Multiple choice on functions: which first sentence belongs to this code?"""

    VERSION = "001"

    def run(
        self,
        documents: Documents,
        num_choices: Annotated[int, Range(2)] = 4,
        limit: Positive = 400,
        seed: Seed = 0,
        group_by: MetadataField | None = None,
    ) -> Questions:
        return function_questions(
            documents,
            num_choices=num_choices,
            limit=limit,
            seed=seed,
            group_by=group_by,
            out=self.out,
        )


@Step.register("task_documents")
class TaskDocuments(PipelineStep):
    """Evaluation text as Documents, for decontamination."""

    VERSION = "001"

    def run(self, questions: Questions) -> Documents:
        return task_documents(questions, out=self.out)


@Step.register("rank_eval")
class RankEval(PipelineStep):
    """Multiple choice by the likelihood of each answer."""

    VERSION = tasks.VERSION

    def run(
        self,
        models: Annotated[dict[str, Checkpoints | HfModel], NOT_EMPTY],
        tokenizer: Tokenizer,
        questions: Questions,
        steps: Selection | None = None,
    ) -> Scores:
        from pipeline.eval.ranking import rank_eval

        return rank_eval(models, tokenizer, questions, steps=steps, out=self.out, memo=self.memo)

    def check(self, path: str) -> None:
        """Raises ValueError for a checkpoint that will not be there."""
        check_selection(self.kwargs, path)


@Step.register("perplexity")
class Perplexity(PipelineStep):
    """Perplexity and bits per byte of held-out documents, by domain, over checkpoints."""

    VERSION = "001"

    def run(
        self,
        models: Annotated[dict[str, Checkpoints | HfModel], NOT_EMPTY],
        tokenizer: Tokenizer,
        documents: Annotated[dict[str, Documents], NOT_EMPTY],
        steps: Selection | Literal["all"] | None = None,
        max_documents: Positive | None = None,
        group_by: MetadataField | None = None,
    ) -> Scores:
        from pipeline.eval.perplexity import perplexity

        return perplexity(
            models,
            tokenizer,
            documents,
            steps=steps,
            max_documents=max_documents,
            group_by=group_by,
            out=self.out,
        )

    def check(self, path: str) -> None:
        """Raises ValueError for a checkpoint that will not be there."""
        check_selection(self.kwargs, path)


@Step.register("answer_scores")
class AnswerScores(PipelineStep):
    """Bits per byte of held-out answers."""

    VERSION = "001"

    def run(
        self,
        models: Annotated[dict[str, Checkpoints], NOT_EMPTY],
        examples: Examples,
        limit: Positive | None = None,
    ) -> Scores:
        from pipeline.eval.perplexity import answer_scores

        return answer_scores(models, examples, limit=limit, out=self.out)


@Step.register("pair_scores")
class PairScores(PipelineStep):
    """The share of held-out pairs whose chosen answer is the likelier one, per byte."""

    VERSION = "001"

    def run(
        self,
        models: Annotated[dict[str, Checkpoints], NOT_EMPTY],
        pairs: Pairs,
        limit: Positive | None = None,
    ) -> Scores:
        from pipeline.eval.perplexity import pair_scores

        return pair_scores(models, pairs, limit=limit, out=self.out)


@Step.register("generate")
class Generate(PipelineStep):
    """Text that a checkpoint writes."""

    VERSION = "001"

    def run(
        self,
        checkpoints: Checkpoints,
        tokenizer: Tokenizer,
        prompts: list[str],
        max_new_tokens: Positive = 64,
        temperature: Annotated[float, Range(0)] = 0.0,
        seed: Seed = 0,
    ) -> Generations:
        from pipeline.eval.generate import generate_text

        return generate_text(
            checkpoints,
            tokenizer,
            prompts,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            out=self.out,
        )
