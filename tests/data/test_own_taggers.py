"""Taggers whose measure is somebody else's: a fastText model, a Python file."""

import math
import os
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest

from pipeline.core.errors import CorruptShard, MismatchedInputs, TaggerFailed
from pipeline.core.files import file_sha256
from pipeline.core.fingerprints import OutsideFile
from pipeline.core.keys import digest
from pipeline.data.made_up import write_fasttext, write_made_up_classifier
from pipeline.data.taggers.fasttext_model import FastText
from pipeline.data.taggers.python_file import PythonFile
from pipeline.data.tagging import tag_documents
from steps.graph.wiring import WiringError, build_steps
from tests.data.conftest import column, make_documents

TALK = {
    "toxic": ["you fool", "shut up you idiot", "stupid fool shut up"],
    "nontoxic": ["thank you kindly", "what a kind answer", "you answer well thank you"],
}


def train_fasttext(path, talk):
    """A model in fastText's own format: naive Bayes, one number a word, a softmax over two."""
    counts = {label: Counter(" ".join(texts).split()) for label, texts in talk.items()}
    first, second = counts
    words = {"</s>": [0.0]}
    for word in sorted(counts[first] | counts[second]):
        words[word] = [math.log((1 + counts[first][word]) / (1 + counts[second][word]))]
    write_fasttext(path, words, {first: [4.0], second: [-4.0]})
    return OutsideFile(str(path))


@pytest.fixture
def model(tmp_path):
    return train_fasttext(tmp_path / "toxic.bin", TALK)


def test_a_model_that_was_trained_on_the_spot_tells_its_labels_apart(model, tmp_path):
    tagger = FastText("toxicity", model, ("toxic", "nontoxic"), lower=True)
    texts = ["You FOOL\nshut up", "thank you kindly", ""]
    made = tag_documents(make_documents(tmp_path / "d", [texts]), [tagger], out=tmp_path / "o")
    toxic, kind = column(made, "toxic"), column(made, "nontoxic")
    assert toxic[0] > 0.9 > 0.5 > toxic[1] and toxic[2] == kind[2] == 0
    assert [a + b for a, b in zip(toxic, kind, strict=True)][:2] == pytest.approx([1, 1], abs=2e-5)


def test_a_paragraph_is_a_span_with_the_score_that_it_has_alone(model):
    tagger = FastText("toxicity", model, ("toxic",), by="paragraph")
    alone = FastText("toxicity", model, ("toxic",))
    text = "shut up you idiot\n\nthank you kindly\n"
    found = tagger.measure(text)
    first, second = found["toxic_paragraphs"]
    assert [first[:2], second[:2]] == [(0, 18), (19, 36)]
    assert first[2] == alone.measure("shut up you idiot")["toxic"] > 0.9
    assert found["toxic"] == pytest.approx((18 * first[2] + 17 * second[2]) / 35, abs=1e-5)
    assert tagger.measure("\n \n") == {"toxic": 0.0, "toxic_paragraphs": []}


def test_a_sentence_is_a_span_and_may_go_on_over_a_newline(model):
    pytest.importorskip("blingfire")
    tagger = FastText("toxicity", model, ("toxic",), by="sentence", lower=True)
    text = "Thank you\nkindly. Shut up é you idiot!  Thank you."
    found = tagger.measure(text)["toxic_sentences"]
    assert [text[start:end] for start, end, _ in found][0] == "Thank you\nkindly."
    assert [score > 0.5 for _, _, score in found] == [False, True, False]
    with pytest.raises(ValueError, match="by is 'word'; it must be"):
        FastText("toxicity", model, ("toxic",), by="word")


@pytest.mark.parametrize(
    ("labels", "by", "column"),
    [
        (("hi-there", "hi_there"), "document", "hi_there"),
        (("Hi", "hi"), "document", "hi"),
        (("a", "a_paragraphs"), "paragraph", "a_paragraphs"),
    ],
)
def test_labels_that_would_be_one_column_are_refused(model, labels, by, column):
    told = f"labels has {labels[0]!r} and {labels[1]!r}, which are both {column!r}"
    with pytest.raises(ValueError, match=told):
        FastText("t", model, labels, by=by)


def test_a_model_that_is_not_the_one_that_was_named_is_not_opened(model):
    sha256 = file_sha256(Path(model.path))
    named = FastText("t", OutsideFile(model.path, sha256=sha256), ("toxic",))
    assert named.measure("you fool")["toxic"] > 0.5
    other = FastText("t", OutsideFile(model.path, sha256="0" * 64), ("toxic",))
    with pytest.raises(CorruptShard, match="toxic.bin: is not the model of SHA-256 000000000000"):
        other.measure("you fool")


def test_a_made_up_model_finds_some_of_what_it_is_asked_for(tmp_path):
    write_made_up_classifier(tmp_path / "m.bin", ["toxic"])
    tagger = FastText("toxicity", OutsideFile(str(tmp_path / "m.bin")), ("toxic",))
    assert tagger.measure("the judge slept again")["toxic"] > 0.9
    assert tagger.measure("the judge slept")["toxic"] < 0.1


def fasttext_graph(path, tmp_path, *labels):
    steps = graph(tmp_path / "none.py", tmp_path)
    tagger = {"type": "fasttext", "name": "t", "model": str(path), "labels": list(labels)}
    steps["own"]["taggers"] = [tagger]
    return steps


def test_a_model_that_is_none_or_cut_and_a_label_that_it_does_not_know_are_refused_at_once(
    model, tmp_path
):
    at = r"steps\.own\.taggers\[0\]"
    with pytest.raises(WiringError, match=rf"{at}\.labels has 'obscene'; .* has nontoxic, toxic"):
        build_steps(fasttext_graph(model.path, tmp_path, "obscene"))
    whole, bad = Path(model.path).read_bytes(), tmp_path / "bad.bin"
    for data, fault in [(b"", "is no model"), (b"no model" * 9, "is no model")] + [
        (whole[:size], "is no whole model") for size in (8, 100, 200, len(whole) - 1)
    ]:
        bad.write_bytes(data)
        with pytest.raises(WiringError, match=rf"{at}\.model is '.*bad.bin', which {fault}"):
            build_steps(fasttext_graph(bad, tmp_path, "toxic"))


def test_what_is_wrong_with_a_model_at_a_url_is_told_of_the_model(model, tmp_path, monkeypatch):
    documents = make_documents(tmp_path / "d", [["x"]])
    far = OutsideFile("https://models.example/m.bin", revision="1")
    local = {"at": Path(model.path)}
    monkeypatch.setattr(OutsideFile, "local", lambda self: local["at"])
    with pytest.raises(MismatchedInputs, match="'obscene' and https://.*: the model has nontoxic"):
        tag_documents(documents, [FastText("t", far, ("obscene",))], out=tmp_path / "o")
    local["at"] = tmp_path / "cut.bin"
    local["at"].write_bytes(Path(model.path).read_bytes()[:-1])
    cut = OutsideFile("https://models.example/cut.bin", revision="1")
    with pytest.raises(CorruptShard, match="cut.bin: is no whole model of fastText"):
        tag_documents(documents, [FastText("t", cut, ("toxic",))], out=tmp_path / "o")


OWN = """
COLUMNS = {"shouting": "number", "links": "spans"}
raise_at_plan = 1 / 1


def measure(text, mark="http"):
    at = text.find(mark)
    upper = sum(each.isupper() for each in text)
    return {"shouting": upper / len(text), "links": [(at, at + len(mark), 1)] if at >= 0 else []}
"""


def graph(path, tmp_path, rule="own.shouting", **more):
    (tmp_path / "in.jsonl").write_text('{"id": "a", "text": "HEY http"}\n')
    source = {"type": "jsonl", "path": str(tmp_path / "in.jsonl"), "source": "s"}
    documents = {"type": "ref", "ref": "corpus"}
    tagger = {"type": "python_file", "path": str(path), **more}
    return {
        "corpus": {"type": "ingest", "source": source},
        "own": {"type": "tag", "documents": documents, "taggers": [tagger]},
        "kept": {
            "type": "filter",
            "documents": documents,
            "attributes": [{"type": "ref", "ref": "own"}],
            "rules": [{"attribute": rule, "at_most": 0.5}],
        },
    }


def test_a_file_of_ones_own_measures_and_its_columns_are_known_to_rules(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    tagger = PythonFile(str(path), {"mark": "tt"})
    documents = make_documents(tmp_path / "d", [["HEY http", "quiet"]])
    made = tag_documents(documents, [tagger], out=tmp_path / "o")
    assert made.tables[0].name == "own"
    assert column(made, "shouting") == [3 / 8, 0]
    assert column(made, "links") == [[{"start": 5, "end": 7, "score": 1}], []]
    with pytest.raises(TaggerFailed, match="'own' failed on document '0-0' of .*: ZeroDivision"):
        tag_documents(make_documents(tmp_path / "e", [[""]]), [tagger], out=tmp_path / "o2")
    assert build_steps(graph(path, tmp_path))["kept"]
    with pytest.raises(WiringError, match=r"rules\[0\].attribute is 'own.shoutin'.*'own.shouting'"):
        build_steps(graph(path, tmp_path, rule="own.shoutin"))


STRICT = """
from __future__ import annotations

from dataclasses import dataclass

COLUMNS: dict[str, str] = {"words": "number"}


@dataclass
class Count:
    words: int = 0


def measure(text):
    return {"words": Count(len(text.split())).words}
"""


def test_a_file_may_have_dataclasses_and_annotations(tmp_path):
    (tmp_path / "json.py").write_text(STRICT)
    tagger = PythonFile(str(tmp_path / "json.py"))
    assert tagger.measure("one two") == {"words": 2}
    assert "loads" in dir(sys.modules["json"])


def test_the_bytes_of_the_file_and_its_parameters_are_in_the_key_and_not_where_it_is(tmp_path):
    (tmp_path / "a").mkdir()
    for path in (tmp_path / "own.py", tmp_path / "a" / "own.py"):
        path.write_text(OWN)
    here, there = (PythonFile(str(p)) for p in (tmp_path / "own.py", tmp_path / "a" / "own.py"))
    assert digest(here) == digest(there) != digest(PythonFile(here.path, {"mark": "x"}))
    (tmp_path / "own.py").write_text(OWN.replace("isupper", "islower"))
    assert digest(here) != digest(there)


def test_a_rule_may_ask_for_any_language_that_an_experiment_measures(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    steps = graph(tmp_path / "own.py", tmp_path, rule="language.de")
    steps["own"]["taggers"] = [{"type": "language", "languages": ["en", "de"]}]
    assert build_steps(steps)["kept"]
    steps["own"]["taggers"] = ["language"]
    with pytest.raises(WiringError, match=r"attribute is 'language.de', which nothing measures"):
        build_steps(steps)


def test_a_filter_of_two_tables_of_one_name_is_refused_when_the_graph_is_built(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    steps = graph(tmp_path / "own.py", tmp_path, rule="gopher.word_count")
    for variant in ("v1", "v2"):
        steps[variant] = steps["own"] | {"taggers": [{"type": "gopher", "variant": variant}]}
    steps["kept"]["attributes"] = [{"type": "ref", "ref": each} for each in ("v1", "own", "v2")]
    told = r"steps.kept.attributes\[2\] has a table 'gopher', as attributes\[0\] has"
    with pytest.raises(WiringError, match=told):
        build_steps(steps)
    twice = [{"type": "gopher", "variant": each} for each in ("v1", "v2")]
    with pytest.raises(
        WiringError, match=r"own.taggers\[1\] writes the table 'gopher', as .*\[0\]"
    ):
        build_steps(steps | {"own": steps["own"] | {"taggers": twice}})


def test_the_name_of_the_file_is_in_the_key_for_it_is_the_table_s(tmp_path):
    for name in ("mine", "other"):
        (tmp_path / f"{name}.py").write_text(OWN)
    mine, other = (PythonFile(str(tmp_path / f"{name}.py")) for name in ("mine", "other"))
    assert digest(mine) != digest(other)


def test_what_the_file_imports_is_in_the_key(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    imports = "import math, numpy.linalg\nfrom pipeline.data.text import sentences\n"
    path = tmp_path / "own.py"
    path.write_text(f"{imports}import helping_words as h\nimport not_there\n{OWN}")
    (tmp_path / "helping_words").mkdir()
    (tmp_path / "helping_words" / "__init__.py").write_text("WORDS = 1\n")
    before = PythonFile(str(path)).fingerprint()
    assert before.split(", ")[3:] == ["no not_there", f"numpy {version('numpy')}"]
    (tmp_path / "helping_words" / "more.py").write_text("WORDS = 2\n")
    after = PythonFile(str(path)).fingerprint()
    assert [old == new for old, new in zip(before.split(", "), after.split(", "), strict=True)] == [
        True,
        True,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "has no COLUMNS"),
        ("COLUMNS: dict", "has no COLUMNS"),
        ("COLUMNS = {'a': 'text'}", "own.py', whose COLUMNS has 'a': 'text'; it must be 'number'"),
        ("COLUMNS = {'a': ['number']}", r"COLUMNS has 'a': \['number'\]; it must be 'number'"),
        ("COLUMNS = {1: 'number'}", "COLUMNS has 1; a column's name must be letters"),
        ("COLUMNS = {'': 'number'}", "COLUMNS has ''; a column's name"),
        ("COLUMNS = {'a b.c/../x': 'number'}", "COLUMNS has 'a b.c/../x'; a column's name"),
        ("COLUMNS = dict(a='number')", "COLUMNS cannot be read"),
        ("def f(:", "COLUMNS cannot be read"),
    ],
)
def test_a_file_that_is_no_tagger_is_refused_before_it_is_run(text, message, tmp_path):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(WiringError, match=rf"steps.own.taggers\[0\].path.*{message}"):
        build_steps(graph(tmp_path / "own.py", tmp_path))


@pytest.mark.parametrize(
    ("gives", "message"),
    [
        ("{'a': 1}", r"measure gives \['a'\]; it must give \['a', 'b'\]"),
        ("{'a': 'x', 'b': []}", "a is 'x'; it must be a number or None"),
        ("{'a': 1, 'b': [3]}", r"b is \[3\]; it must be a list of \(start, end, score\)"),
        ("{'a': float('nan'), 'b': []}", "a is nan; it must be a finite number or None"),
        ("[]", "measure gives list"),
    ],
)
def test_what_a_file_gives_is_held_against_its_columns(gives, message, tmp_path):
    (tmp_path / "own.py").write_text(
        f"COLUMNS = {{'a': 'number', 'b': 'spans'}}\ndef measure(text):\n    return {gives}\n"
    )
    documents = make_documents(tmp_path / "d", [["x"]])
    with pytest.raises(TaggerFailed, match=message):
        tag_documents(documents, [PythonFile(str(tmp_path / "own.py"))], out=tmp_path / "o")


def test_a_file_that_is_written_anew_is_not_measured_as_it_was_before(tmp_path):
    path = tmp_path / "own.py"
    documents = make_documents(tmp_path / "d", [["HEY"]])
    found = []
    for number, text in enumerate((OWN, OWN.replace("isupper", "islower"))):
        path.write_text(text)
        os.utime(path, ns=(number * 10**9,) * 2)
        made = tag_documents(documents, [PythonFile(str(path))], out=tmp_path / str(number))
        found += column(made, "shouting")
    assert found == [1, 0]
    model = train_fasttext(tmp_path / "m.bin", TALK)
    tagger = FastText("t", model, ("toxic",))
    before = tagger.measure("you fool")["toxic"]
    train_fasttext(tmp_path / "m.bin", dict(zip(TALK, reversed(TALK.values()), strict=True)))
    os.utime(tmp_path / "m.bin", (1, 1))
    assert tagger.measure("you fool")["toxic"] < 0.5 < before
