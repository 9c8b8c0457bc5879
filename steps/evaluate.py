"""Steps that score models; torch is imported where they run."""

from __future__ import annotations

from typing import Literal

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
from pipeline.eval import tasks
from pipeline.eval.benchmarks import TaskSource
from pipeline.eval.tasks import function_questions, ingest_tasks, task_documents
from steps.base import PipelineStep


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
        self, documents: Documents, num_choices: int = 4, limit: int = 400, seed: int = 0
    ) -> Questions:
        return function_questions(
            documents, num_choices=num_choices, limit=limit, seed=seed, out=self.out
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
        models: dict[str, Checkpoints | HfModel],
        tokenizer: Tokenizer,
        questions: Questions,
        steps: list[int] | None = None,
    ) -> Scores:
        from pipeline.eval.ranking import rank_eval

        return rank_eval(models, tokenizer, questions, steps=steps, out=self.out, memo=self.memo)


@Step.register("perplexity")
class Perplexity(PipelineStep):
    """Perplexity and bits per byte of held-out documents, by domain, over checkpoints."""

    VERSION = "001"

    def run(
        self,
        models: dict[str, Checkpoints | HfModel],
        tokenizer: Tokenizer,
        documents: dict[str, Documents],
        steps: list[int] | Literal["all"] | None = None,
        max_documents: int | None = None,
    ) -> Scores:
        from pipeline.eval.perplexity import perplexity

        return perplexity(
            models,
            tokenizer,
            documents,
            steps=steps,
            max_documents=max_documents,
            out=self.out,
        )


@Step.register("answer_scores")
class AnswerScores(PipelineStep):
    """Bits per byte of held-out answers."""

    VERSION = "001"

    def run(
        self, models: dict[str, Checkpoints], examples: Examples, limit: int | None = None
    ) -> Scores:
        from pipeline.eval.perplexity import answer_scores

        return answer_scores(models, examples, limit=limit, out=self.out)


@Step.register("pair_scores")
class PairScores(PipelineStep):
    """The share of held-out pairs whose chosen answer is the likelier one, per byte."""

    VERSION = "001"

    def run(self, models: dict[str, Checkpoints], pairs: Pairs, limit: int | None = None) -> Scores:
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
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
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
