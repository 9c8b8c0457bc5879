"""Multiple choice: the choice a model finds likeliest, under every usual way to compare lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import pyarrow as pa

from pipeline.core.artifacts import Checkpoints, HfModel, Questions, Scores, Tokenizer
from pipeline.core.estimates import mean
from pipeline.core.keys import Json, canonical, digest
from pipeline.core.shards import read_shard, write_shard
from pipeline.eval.scoring import Likelihood, NamedModel, loglikelihoods, named_models
from pipeline.eval.tables import MODEL, Tables
from pipeline.eval.tasks import VERSION, Question, primary_metric, read_questions
from pipeline.model.scoring import BATCH_TOKENS, Scorer
from pipeline.store.memo import FileMemo

NUMBERS = pa.list_(pa.float64())
ANSWERS_SCHEMA = pa.schema(
    [*MODEL, ("task", pa.string()), ("id", pa.string()), ("group", pa.string())]
    + [("logprobs", NUMBERS), ("unconditional_logprobs", NUMBERS)]
    + [("num_tokens", pa.list_(pa.int32())), ("gold", pa.int32()), ("chosen", pa.int32())]
    + [("value", pa.float64()), ("num_cut", pa.int64())]
)
LIKELIHOODS = pa.schema(
    [("logprob", pa.float64()), ("num_tokens", pa.int64()), ("is_greedy", pa.bool_())]
    + [("num_cut", pa.int64())]
)
Requests = list[tuple[str, str]]  # contexts and continuations
SCRATCH = "likelihoods.parquet"  # of one task, on its way to or from the memo


def rank_eval(
    models: Mapping[str, Checkpoints | HfModel],
    tokenizer: Tokenizer,
    questions: Questions,
    *,
    steps: Sequence[int] | str | None = None,
    batch_tokens: int = BATCH_TOKENS,
    out: Path,
    memo: FileMemo | None = None,
) -> Scores:
    """Accuracy on every task, under all normalizations from one pass.

    `accuracy` is the task's primary measure and the one `chosen` and `value` (1 if right) follow;
    `accuracy_raw`, `_per_token`, `_per_character`, `_per_byte` and `_unconditional` are all of
    them; `chance` is what guessing gives. The first wins a tie. Standard errors are over groups of
    questions, where the questions have them.

    Each task is scored by itself, and not again where these weights were asked the same before.

    Args:
        steps: of each series; "all", or without it the latest.

    Source: allenai/catwalk, `metrics/accuracy.py`; Groeneveld et al. 2024, "OLMo", table 3.
    """
    tasks = tasks_of(questions)
    tables = Tables(ANSWERS_SCHEMA)
    for named in named_models(models, tokenizer.content, steps):
        tables.name_model(named.name, named.step)
        rank_tasks(tasks, _Remembering(named, tokenizer, batch_tokens, Path(out), memo), tables)
    return tables.stored("rank", Path(out))


def tasks_of(questions: Questions) -> dict[str, list[Question]]:
    """The questions of each task."""
    tasks: dict[str, list[Question]] = {}
    for each in read_questions(questions):
        tasks.setdefault(each.task, []).append(each)
    return tasks


@dataclass
class _Remembering:
    """The likelihoods of one model, loaded when it must score something that is not remembered."""

    named: NamedModel
    tokenizer: Tokenizer
    batch_tokens: int
    out: Path
    memo: FileMemo | None

    @cached_property
    def scorer(self) -> Scorer:
        return Scorer(self.named.load(), self.batch_tokens)

    def __call__(self, requests: Requests) -> list[Likelihood]:
        if self.memo is None:
            return self._computed(requests)
        key: dict[str, Json] = {
            "rank": VERSION,
            "weights": self.named.weights,
            "model": canonical(self.named.source.model),
            "tokenizer": self.tokenizer.content,
            "requests": digest(requests),
            "batch_tokens": self.batch_tokens,
        }
        shard = self.memo.fetch(key, self.out, SCRATCH)
        if shard is None:
            found = zip(*self._computed(requests), strict=True)
            columns = dict(zip(Likelihood._fields, map(list, found), strict=True))
            shard = write_shard(self.out, SCRATCH, columns, LIKELIHOODS)
            self.memo.keep(key, self.out, shard)
        rows = read_shard(self.out, shard).to_pylist()
        (self.out / SCRATCH).unlink()
        return [Likelihood(**each) for each in rows]

    def _computed(self, requests: Requests) -> list[Likelihood]:
        return loglikelihoods(self.scorer, self.tokenizer, requests)


def rank_tasks(
    tasks: Mapping[str, Sequence[Question]],
    likelihoods: Callable[[Requests], list[Likelihood]],
    tables: Tables,
) -> None:
    """Add what `rank_eval` says of a model, task by task.

    Args:
        likelihoods: the model's, of each continuation after its context.
    """
    for task, asked in tasks.items():
        _rank_task(task, asked, likelihoods, tables)


def _rank_task(
    task: str,
    asked: Sequence[Question],
    likelihoods: Callable[[Requests], list[Likelihood]],
    tables: Tables,
) -> None:
    """Add an answer for each question of a task, and a score for each measure."""
    requests = [
        (context, continuation)
        for each in asked
        for contexts in (each.contexts, each.unconditional or [])
        for context, continuation in zip(contexts, each.continuations, strict=bool(contexts))
    ]
    found = iter(likelihoods(requests))
    measures: dict[str, list[float]] = {}
    for question in asked:
        own = list(islice(found, len(question.contexts)))
        alone = list(islice(found, len(question.unconditional or [])))
        chosen = chosen_by(question, own, alone or None)
        primary = chosen[primary_metric(task)]
        for metric, place in chosen.items():
            measures.setdefault(f"accuracy_{metric}", []).append(float(place == question.gold))
        measures.setdefault("accuracy", []).append(float(primary == question.gold))
        measures.setdefault("chance", []).append(1 / len(question.contexts))
        tables.answer(
            task=task,
            id=question.id,
            group=question.group,
            logprobs=[each.logprob for each in own],
            unconditional_logprobs=[each.logprob for each in alone] if alone else None,
            num_tokens=[each.num_tokens for each in own],
            gold=question.gold,
            chosen=primary,
            value=float(primary == question.gold),
            num_cut=sum(each.num_cut for each in own),
        )
    groups = [question.group for question in asked]
    for metric in ["accuracy", *sorted(measures.keys() - {"accuracy"})]:
        accuracy = mean(measures[metric], groups)
        tables.score(
            task=task,
            metric=metric,
            value=accuracy.value,
            unit="fraction",
            num_items=len(asked),
            standard_error=0.0 if metric == "chance" else accuracy.error,
            num_groups=accuracy.num_groups,
        )


def chosen_by(
    question: Question, own: Sequence[Likelihood], alone: Sequence[Likelihood] | None
) -> dict[str, int]:
    """The place of the chosen continuation under each measure.

    Without unconditional likelihoods, "unconditional" is left out. Lengths in characters and bytes
    count the continuation's leading space.
    """
    raw = [each.logprob for each in own]
    texts = question.continuations
    lengths = {
        "per_token": [each.num_tokens for each in own],
        "per_character": [len(text) for text in texts],
        "per_byte": [len(text.encode()) for text in texts],
    }
    measures = {"raw": raw}
    for name, counts in lengths.items():
        measures[name] = [value / max(1, n) for value, n in zip(raw, counts, strict=True)]
    if alone is not None:
        measures["unconditional"] = [a - b.logprob for a, b in zip(raw, alone, strict=True)]
    return {name: values.index(max(values)) for name, values in measures.items()}
