import random
from functools import partial

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.engine import Local
from pipeline.data.decontamination import decontaminate, overlap
from pipeline.data.decontamination.decontaminate import HITS, find_overlaps
from pipeline.data.text import pieces
from pipeline.store.memo import FileMemo
from tests.data.conftest import column, make_documents


def words(rng, num):
    return [f"w{rng.randrange(10**6)}" for _ in range(num)]


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(seed=st.integers(0, 99), before=st.integers(0, 20), num=st.integers(1, 30))
def test_a_planted_run_of_words_is_found_where_it_is_long_enough(
    seed, before, num, tmp_path_factory
):
    root, rng = tmp_path_factory.mktemp("overlap"), random.Random(seed)
    planted = words(rng, num)
    item = words(rng, 5) + planted + words(rng, 5)
    text = words(rng, before) + [word.upper() + "," for word in planted] + words(rng, 9)
    documents = make_documents(root / "d", [[" ".join(text), " ".join(words(rng, 40))]])
    evaluation = make_documents(root / "e", [[" ".join(item)]])
    found = find_overlaps(documents, evaluation, min_words=13, out=root / "o")
    runs = max(0, num - 12)
    assert column(found, "num_overlaps") == [runs, 0]
    covered = num if runs else 0
    assert abs(column(found, "overlap_fraction")[0] - covered / len(text)) < 1e-12


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(text=st.text("ab \n", max_size=60), item=st.text("ab \n", max_size=60))
def test_however_little_is_held_the_same_is_found(text, item, tmp_path_factory):
    root = tmp_path_factory.mktemp("held")
    documents = make_documents(root / "d", [[text]])
    asked = {item: {"messages": [{"role": "assistant", "content": "a b a"}]}}
    evaluation = make_documents(root / "e", [[item, "b b a\na"]], metadata=asked)
    whole = find_overlaps(documents, evaluation, min_words=4, out=root / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "pieces", partial(pieces, size=3))
        patch.setattr(overlap, "HELD_WORDS", 3)
        patch.setattr(decontaminate, "HELD_WORDS", 2)
        parts = find_overlaps(documents, evaluation, min_words=4, out=root / "parts")
    assert parts.content == whole.content
    assert pq.read_table(root / "parts" / HITS) == pq.read_table(root / "whole" / HITS)


def test_a_whole_line_of_evaluation_text_is_a_span(tmp_path):
    line = " ".join(f"v{i}" for i in range(13))
    texts = [f"above\n{line}\nbelow", f"x {line}\n", f"{line.upper()}\n", line]
    documents = make_documents(tmp_path / "d", [texts])
    evaluation = make_documents(tmp_path / "e", [[f"before\n{line}\nafter"]])
    found = find_overlaps(documents, evaluation, out=tmp_path / "o")
    assert column(found, "paragraphs") == [
        [{"start": 6, "end": 6 + len(line) + 1, "score": 1}],
        [],
        [],
        [{"start": 0, "end": len(line), "score": 1}],
    ]
    assert column(found, "num_overlaps") == [1, 1, 1, 1]
    assert column(found, "num_paragraphs") == [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        ("a b c d e f g h i j k l m", True),
        ("a b c d e f g h i j k l", False),  # 12 words
        ("a, b, c, d, e, f, g", True),  # punctuation is a word
        ("can't 3.14 e.g. d e f g h i j k", False),
        (" a b c d e f g h i j k l m ", True),
        ("- " * 20, False),
        ("☀ ✂ ❤ 🙂 🚀 . , ! ? - _ ( )", False),
        ("🙂 🚀 . , ! ? - _ ( ) [ ] 1", True),
        ("🥰 € + $ " * 4, False),  # symbols, too
        ("中文字中文字中文字中文字中", True),
        ("", False),
    ],
)
def test_paragraphs_are_those_that_paloma_s_rule_takes(line, is_one, tmp_path):
    evaluation = make_documents(tmp_path / "e", [[f"x\n{line}\ny"]])
    documents = make_documents(tmp_path / "d", [[f"before\n{line}\nafter", f"{line}.", f" {line}"]])
    found = find_overlaps(documents, evaluation, out=tmp_path / "o")
    assert column(found, "num_paragraphs") == [float(is_one), 0, 0]


def test_nothing_to_look_for_is_nothing_found_and_workers_change_nothing(tmp_path):
    rng = random.Random(1)
    texts = [" ".join(words(rng, 30)) for _ in range(8)]
    documents = make_documents(tmp_path / "d", [texts[:4], texts[4:], []])
    empty = make_documents(tmp_path / "e", [])
    found = find_overlaps(documents, empty, out=tmp_path / "o")
    assert column(found, "num_overlaps") == [0] * 8
    evaluation = make_documents(tmp_path / "e2", [texts[3:5]])
    made = [
        find_overlaps(documents, evaluation, out=tmp_path / str(n), engine=Local(n)) for n in (1, 2)
    ]
    assert made[0].content == made[1].content
    assert [bool(n) for n in column(made[0], "num_overlaps")] == [i in (3, 4) for i in range(8)]
    assert not list((tmp_path / "1").glob(".*"))


def test_a_shard_is_looked_through_once_for_the_same_evaluation_text(tmp_path, monkeypatch):
    rng, memo, looked = random.Random(2), FileMemo(tmp_path / "memo"), []
    real = decontaminate._FindInShard._find
    monkeypatch.setattr(
        decontaminate._FindInShard,
        "_find",
        lambda self, number, paths: looked.append(number) or real(self, number, paths),
    )
    texts = [" ".join(words(rng, 30)) for _ in range(4)]
    before = make_documents(tmp_path / "d", [texts[:2], texts[2:3]])
    after = make_documents(tmp_path / "d2", [texts[:2], texts[2:3], texts[3:]])
    evaluation = make_documents(tmp_path / "e", [texts[1:2]])
    first = find_overlaps(before, evaluation, out=tmp_path / "1", memo=memo)
    more = find_overlaps(after, evaluation, out=tmp_path / "2", memo=memo)
    assert pq.read_table(tmp_path / "2" / HITS) == pq.read_table(tmp_path / "1" / HITS)
    assert looked == [0, 1, 2]
    assert more.tables[0].shards[:2] == first.tables[0].shards
    assert more == find_overlaps(after, evaluation, out=tmp_path / "3")
    del looked[:]
    find_overlaps(after, evaluation, min_words=12, out=tmp_path / "4", memo=memo)
    other = make_documents(tmp_path / "e2", [texts[2:3]])
    found = find_overlaps(after, other, out=tmp_path / "5", memo=memo)
    assert looked == [0, 1, 2, 0, 1, 2]
    assert [bool(n) for n in column(found, "num_overlaps")] == [False, False, True, False]


def test_a_line_that_is_a_short_answer_of_an_evaluated_conversation_is_a_span(tmp_path):
    answered = {
        "a": {"messages": [{"role": "user", "content": "what of it then"}]},
        "b": {
            "messages": [
                {"role": "user", "content": "what of it then"},
                {"role": "assistant", "content": "The size of\nthe queue."},
                {"role": "assistant", "content": "yes, yes"},
            ]
        },
        "c": {"prompt": [], "chosen": "Nothing at all.", "rejected": "nothing at the"},
        "d": {"messages": "none", "chosen": 3},
    }
    evaluation = make_documents(tmp_path / "e", [list(answered)], metadata=answered)
    texts = [
        'def size():\n    """the size OF the queue"""\n',
        "the size of the queue it is",
        "what of it then\nyes yes\nnothing at the\nNothing, at all",
    ]
    documents = make_documents(tmp_path / "d", [texts])
    found = find_overlaps(documents, evaluation, out=tmp_path / "o")
    assert column(found, "num_answers") == [1, 0, 1]
    marked = [
        text[each["start"] : each["end"]].strip()
        for text, spans in zip(texts, column(found, "answers"), strict=True)
        for each in spans
    ]
    assert marked == ['"""the size OF the queue"""', "Nothing, at all"]
    assert column(found, "num_overlaps") == column(found, "num_paragraphs") == [0, 0, 0]


def test_each_evaluation_item_is_named_with_the_documents_that_it_hits(tmp_path):
    rng = random.Random(5)
    shared, own = words(rng, 13), words(rng, 14)
    answer = {"x": {"messages": [{"role": "assistant", "content": "Some three words"}]}}
    items = [" ".join(shared), " ".join(words(rng, 20)), " ".join(own + shared), "x"]
    evaluation = make_documents(tmp_path / "e", [items[:1], items[1:]], "tasks", metadata=answer)
    texts = [
        f"before\n{' '.join(shared)}\nafter",
        "nothing of it",
        f"İ {' '.join(own)}\nsome THREE words",
    ]
    documents = make_documents(tmp_path / "d", [texts[:1], texts[1:]])
    find_overlaps(documents, evaluation, out=tmp_path / "o")
    hits = pq.read_table(tmp_path / "o" / HITS).to_pylist()
    assert {row["item_source"] for row in hits} == {"tasks"}
    named = [(row["document"], row["item"], *list(row.values())[4:7]) for row in hits]
    assert named == [
        ("0-0", "0-0", 1, 1, 0),
        ("0-0", "1-1", 1, 0, 0),
        ("1-1", "1-1", 2, 0, 0),
        ("1-1", "1-2", 0, 0, 1),
    ]
    assert [(row["start"], row["text"]) for row in hits[:2]] == [
        (7, texts[0][7:-6]),
        (7, texts[0][7:-6]),
    ]
    assert hits[2]["start"] == 2 and hits[3]["text"] == "some THREE words"


def test_what_many_items_share_names_the_first_of_them(tmp_path):
    line = " ".join(words(random.Random(6), 13))
    evaluation = make_documents(tmp_path / "e", [[line] * 130, [f"{line} a", f"{line} b"]])
    documents = make_documents(tmp_path / "d", [[line]])
    find_overlaps(documents, evaluation, out=tmp_path / "o")
    hits = pq.read_table(tmp_path / "o" / HITS)
    assert hits["item"].to_pylist() == [f"0-{number}" for number in range(100)]
    assert set(hits["num_items"].to_pylist()) == {132}


def test_evaluation_text_is_indexed_in_parts_and_what_is_found_is_the_same(tmp_path, monkeypatch):
    rng = random.Random(7)
    texts = ["\n".join(" ".join(words(rng, 20)) for _ in range(3)) for _ in range(40)]
    documents = make_documents(tmp_path / "d", [texts[::2]])
    evaluation = make_documents(tmp_path / "e", [texts[:9], texts[5:30]])
    whole = find_overlaps(documents, evaluation, out=tmp_path / "1")
    monkeypatch.setattr("pipeline.data.decontamination.overlap.PART_BYTES", 1000)
    monkeypatch.setattr("pipeline.data.decontamination.overlap.HELD_PAIRS", 50)
    (tmp_path / "2" / ".index").mkdir(parents=True)
    (tmp_path / "2" / ".index" / "overlaps-0.part").write_bytes(b"of a run that was killed")
    parts = find_overlaps(documents, evaluation, out=tmp_path / "2")
    assert parts.content == whole.content and sum(column(whole, "num_overlaps")) > 100
    hits = [pq.read_table(tmp_path / each / HITS) for each in "12"]
    assert hits[0] == hits[1] and hits[0].num_rows > 15
