"""Evaluation items: what is shown to a model, what it may continue with, and which one is right."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import xxhash

from pipeline.core.artifacts import Documents, Questions, SourceCount
from pipeline.core.errors import CorruptShard
from pipeline.core.shards import ShardWriter, read_batches, shard_name, write_shard
from pipeline.data.document import DOCUMENT_SCHEMA, MetadataField

TEXT, TEXTS = pa.string(), pa.list_(pa.string())
QUESTION_SCHEMA = pa.schema(
    [("task", TEXT), ("id", TEXT), ("contexts", TEXTS), ("continuations", TEXTS)]
    + [("gold", pa.int32()), ("unconditional", TEXTS), ("text", TEXT), ("licence", TEXT)]
    + [("group", TEXT)]
)
FUNCTIONS = "functions"
VERSION = "002"  # of how questions are ranked; here, where it is read without torch
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """One multiple-choice item; choice i is `continuations[i]` after `contexts[i]`.

    `unconditional[i]` is the context that says nothing of the question, for the measure that
    subtracts how likely a choice is by itself. `text` is what must not stand in training text.
    Questions of one `group` are not independent; one whose group is "" stands alone.
    """

    task: str
    id: str
    contexts: list[str]
    continuations: list[str]
    gold: int
    unconditional: list[str] | None
    text: str
    licence: str
    group: str = ""

    def __post_init__(self) -> None:
        count = len(self.continuations)
        if len(self.contexts) != count or len(self.unconditional or self.contexts) != count:
            raise ValueError(f"question {self.id!r} has {count} continuations, other contexts")
        if not 0 <= self.gold < count:
            raise ValueError(f"gold of {self.id!r} is {self.gold}; it must be below {count}")


@dataclass(frozen=True)
class Task:
    """A named task: how a raw record becomes a question, and the measure it is known by.

    `primary` is "raw", "per_token", "per_character", "per_byte" or "unconditional".
    """

    name: str
    question: Callable[[Record, int], Question]
    primary: str
    licence: str


class TaskSource(Protocol):
    """Where questions come from."""

    def fingerprint(self) -> str:
        """What changes when the outside data does."""
        ...

    def questions(self) -> Iterable[Question]:
        """Every question, task by task."""
        ...


def ingest_tasks(source: TaskSource, *, out: Path) -> Questions:
    """Store the questions of a source."""
    return _stored(source.questions(), Path(out))


def function_questions(
    documents: Documents,
    *,
    num_choices: int = 4,
    seed: int = 0,
    limit: int = 400,
    group_by: MetadataField | None = None,
    out: Path,
) -> Questions:
    """Multiple choice on functions: which answer belongs to this one?

    Each document's metadata has `messages`, a question of the user and its answer. The wrong
    choices are answers to other documents, and they, the place of the right one and which
    documents are asked about follow from a hash of `seed` and the document's id.

    Args:
        limit: at most so many questions.
        group_by: what is equal in documents that are not independent.

    Raises:
        CorruptShard: a document has no such conversation.
    """
    if num_choices < 2 or limit < 1:
        raise ValueError(f"num_choices is {num_choices}, limit is {limit}; must be >= 2 and >= 1")
    asked = _conversations(documents, group_by)
    answers = sorted({each.answer for each in asked})
    if len(answers) < num_choices:
        raise ValueError(f"num_choices is {num_choices}; there are {len(answers)} other answers")
    asked.sort(key=lambda each: (_hash(seed, each.id), each.id))
    made = []
    for name, prompt, answer, licence, group in asked[:limit]:
        choices: list[str] = []
        draw = 0
        while len(choices) < num_choices - 1:
            other = answers[_hash(seed, name, draw) % len(answers)]
            draw += 1
            if other != answer and other not in choices:
                choices.append(other)
        gold = _hash(seed, name, "gold") % num_choices
        choices.insert(gold, answer)
        made.append(
            Question(
                task=FUNCTIONS,
                id=name,
                contexts=[f"<|user|>\n{prompt}\n<|assistant|>\n"] * num_choices,
                continuations=choices,
                gold=gold,
                unconditional=["<|assistant|>\n"] * num_choices,
                text=f"{prompt}\n{answer}",
                licence=licence,
                group=group,
            )
        )
    return _stored(made, Path(out))


def task_documents(questions: Questions, *, out: Path) -> Documents:
    """The text of questions as Documents, one a question, for finding it in training text."""
    counts: dict[str, list[int]] = {task: [0, 0] for task in questions.tasks}
    shards = []
    for number, shard in enumerate(questions.shards):
        with ShardWriter(Path(out), shard_name(number), DOCUMENT_SCHEMA) as writer:
            for batch in read_batches(questions.root, shard, ["task", "id", "text"]):
                rows: dict[str, list[Any]] = {name: [] for name in DOCUMENT_SCHEMA.names}
                for row in batch.to_pylist():
                    counts[row["task"]][0] += 1
                    counts[row["task"]][1] += len(row["text"].encode())
                    values = (row["id"], row["text"], row["task"], "", "", "{}")
                    for name, value in zip(DOCUMENT_SCHEMA.names, values, strict=True):
                        rows[name].append(value)
                writer.write(rows)
        shards.append(writer.shard)
    return Documents.of(
        Path(out),
        num_documents=sum(number for number, _ in counts.values()),
        num_text_bytes=sum(size for _, size in counts.values()),
        sources=[
            SourceCount(task, questions.licences[task], "evaluation", number, size)
            for task, (number, size) in counts.items()
        ],
        shards=shards,
    )


def read_questions(questions: Questions) -> list[Question]:
    """Every question of the artifact, in order."""
    return [
        Question(**row)
        for shard in questions.shards
        for batch in read_batches(questions.root, shard)
        for row in batch.to_pylist()
    ]


def primary_metric(task: str) -> str:
    """The measure a task is known by; per byte where nothing else is published."""
    return TASKS[task].primary if task in TASKS else "per_byte"


def sample(items: list[Any], limit: int | None, name: Callable[[Any], str]) -> list[Any]:
    """At most `limit` items in their order, chosen by the hash of their names."""
    if limit is None or len(items) <= limit:
        return items
    by_hash = sorted(range(len(items)), key=lambda place: (_hash(name(items[place])), place))
    return [items[place] for place in sorted(by_hash[:limit])]


# ---------------------------------------------------------------------------- named tasks
# Formats: allenai/catwalk, `catwalk/dependencies/lm_eval/tasks`.


def _made(
    task: str,
    record: Record,
    index: int,
    context: str | list[str],
    choices: list[str],
    gold: int,
    text: str,
) -> Question:
    return Question(
        task=task,
        id=str(record.get("id") or f"{index:06d}"),
        contexts=[context] * len(choices) if isinstance(context, str) else context,
        continuations=choices,
        gold=gold,
        unconditional=["Answer:"] * len(choices),
        text=text,
        licence=TASKS[task].licence,
    )


def _arc(task: str) -> Callable[[Record, int], Question]:
    def question(record: Record, index: int) -> Question:
        choices, asked = record["choices"], record["question"]
        gold = list(choices["label"]).index(record["answerKey"])
        texts = [f" {text}" for text in choices["text"]]
        context = f"Question: {asked}\nAnswer:"
        return _made(task, record, index, context, texts, gold, f"{asked}\n{choices['text'][gold]}")

    return question


def boolq(record: Record, index: int) -> Question:
    """A yes-or-no question about a passage."""
    context = f"{record['passage']}\nQuestion: {record['question']}?\nAnswer:"
    text = f"{record['passage']}\n{record['question']}?"
    return _made("boolq", record, index, context, [" no", " yes"], int(record["answer"]), text)


def hellaswag(record: Record, index: int) -> Question:
    """How does the scene go on?"""
    scene = f"{record['ctx_a']} {record['ctx_b'].capitalize()}"
    context = _unbracketed(f"{record['activity_label']}: {scene}")
    endings = [f" {_unbracketed(each)}" for each in record["endings"]]
    gold = int(record["label"])
    return _made("hellaswag", record, index, context, endings, gold, context + endings[gold])


def openbookqa(record: Record, index: int) -> Question:
    """A question of elementary science, its bare stem continued."""
    choices, stem = record["choices"], record["question_stem"]
    gold = list(choices["label"]).index(record["answerKey"].strip())
    texts = [f" {text}" for text in choices["text"]]
    return _made("openbookqa", record, index, stem, texts, gold, stem + texts[gold])


def piqa(record: Record, index: int) -> Question:
    """Which of two ways reaches a goal?"""
    context = f"Question: {record['goal']}\nAnswer:"
    choices = [f" {record['sol1']}", f" {record['sol2']}"]
    gold = int(record["label"])
    text = f"{record['goal']}\n{record['sol1']}\n{record['sol2']}"
    return _made("piqa", record, index, context, choices, gold, text)


def sciq(record: Record, index: int) -> Question:
    """A question of science after the passage that answers it; the right choice is the last."""
    context = f"{record['support']}\nQuestion: {record['question']}\nAnswer:".strip()
    names = ("distractor1", "distractor2", "distractor3", "correct_answer")
    choices = [f" {record[name]}" for name in names]
    text = f"{record['support']}\n{record['question']}\n{record['correct_answer']}".strip()
    return _made("sciq", record, index, context, choices, 3, text)


def winogrande(record: Record, index: int) -> Question:
    """Which of two names fills the blank? The contexts differ, what follows is the same."""
    sentence = record["sentence"]
    before, after = sentence.split("_", 1)
    options = [record["option1"], record["option2"]]
    gold = int(record["answer"]) - 1
    contexts = [before + option for option in options]
    choices = [" " + after.strip()] * 2
    return _made(
        "winogrande", record, index, contexts, choices, gold, before + options[gold] + after
    )


def mmlu(record: Record, index: int) -> Question:
    """A question of one of 57 subjects; the letter of the right choice follows.

    Source: Hendrycks et al. 2021, "MMLU"; its code puts two spaces before the subject.
    """
    subject, choices = record["subject"].replace("_", " "), record["choices"]
    listed = "".join(f"{x}. {text}\n" for x, text in zip("ABCD", choices, strict=True))
    context = (
        f"The following are multiple choice questions (with answers) about  {subject}.\n\n"
        f"{record['question']}\n{listed}Answer:"
    )
    gold = int(record["answer"])
    text = f"{record['question']}\n{choices[gold]}"
    letters = [f" {letter}" for letter in "ABCD"]
    return _made("mmlu", record, index, context, letters, gold, text)


def _unbracketed(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


TASKS = {
    task.name: task
    for task in (
        Task("arc_easy", _arc("arc_easy"), "unconditional", "CC-BY-SA-4.0"),
        Task("arc_challenge", _arc("arc_challenge"), "unconditional", "CC-BY-SA-4.0"),
        Task("boolq", boolq, "raw", "CC-BY-SA-3.0"),
        Task("hellaswag", hellaswag, "per_token", "MIT"),
        Task("openbookqa", openbookqa, "unconditional", "Apache-2.0"),
        Task("piqa", piqa, "per_token", "AFL-3.0"),
        Task("sciq", sciq, "raw", "CC-BY-NC-3.0"),
        Task("mmlu", mmlu, "raw", "MIT"),
        Task("winogrande", winogrande, "per_token", "CC-BY-4.0"),
    )
}


# ---------------------------------------------------------------------------- shards


def _stored(made: Iterable[Question], out: Path) -> Questions:
    rows: dict[str, list[Any]] = {name: [] for name in QUESTION_SCHEMA.names}
    tasks: dict[str, int] = {}
    licences: dict[str, set[str]] = {}
    for question in made:
        tasks[question.task] = tasks.get(question.task, 0) + 1
        licences.setdefault(question.task, set()).add(question.licence)
        for name, value in asdict(question).items():
            rows[name].append(value)
    return Questions.of(
        out,
        num_questions=sum(tasks.values()),
        tasks=tasks,
        licences={task: ", ".join(sorted(names)) for task, names in licences.items()},
        shards=[write_shard(out, shard_name(0), rows, QUESTION_SCHEMA)],
    )


class _Asked(NamedTuple):
    id: str
    prompt: str
    answer: str
    licence: str
    group: str


def _conversations(documents: Documents, group_by: MetadataField | None) -> list[_Asked]:
    """The first question and answer of each document's conversation."""
    licences = {each.source: each.licence for each in documents.sources}
    found = []
    for shard in documents.shards:
        for batch in read_batches(documents.root, shard, ["id", "source", "metadata"]):
            for row in batch.to_pylist():
                try:
                    said: dict[str, str] = {}
                    for message in json.loads(row["metadata"])["messages"]:
                        said.setdefault(message["role"], message["content"].strip())
                    pair = said["user"], said["assistant"]
                    group = group_by.of(row["metadata"]) if group_by else ""
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    reason = f"no conversation in its metadata ({error})"
                    raise CorruptShard(documents.root / shard.path, row["id"], reason) from error
                if all(pair):
                    licence = licences.get(row["source"], "unknown")
                    found.append(_Asked(row["id"], *pair, licence, group))
    return found


def _hash(*parts: object) -> int:
    return xxhash.xxh3_64_intdigest("\0".join(map(str, parts)).encode())
