import gzip
import json
import math
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.engine import Local
from pipeline.core.errors import CorruptShard, MismatchedInputs
from pipeline.core.shards import read_shard
from pipeline.data.dolma import lines as dolma_lines
from pipeline.data.dolma.attributes import import_attributes
from pipeline.data.dolma.export import export_dolma
from pipeline.data.ingest import ingest_documents
from pipeline.data.sources.rows import Jsonl
from pipeline.store.memo import FileMemo
from tests.data.conftest import column, make_attributes, make_documents

N = {"exp.n": "spans"}
COLUMNS = {"count": "number", "spots": "spans"}


def lines_of(path):
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def rows_of(attributes, table=0):
    return [
        row
        for shard in attributes.tables[table].shards
        for row in read_shard(attributes.root, shard).to_pylist()
    ]


def span(start, end, score=1.0):
    return {"start": start, "end": end, "score": score}


def measured(root, shards=(["one é", "two"], [], ["three"])):
    """Documents with a table of both kinds of columns."""
    documents = make_documents(root / "documents", shards, metadata={"two": {"url": "u"}})
    rows = [
        [
            {
                "count": None if text == "two" else float(len(text)),
                "spots": [span(0, 1, 0.25), span(2, 3)] if text != "two" else [],
            }
            for text in texts
        ]
        for texts in shards
    ]
    return documents, make_attributes(root / "attributes", documents, "marks", COLUMNS, rows)


def test_documents_and_attributes_stand_line_by_line_in_dolmas_folders(tmp_path):
    documents, attributes = measured(tmp_path)
    made = export_dolma(documents, {"exp": attributes}, out=tmp_path / "out")
    assert [each.path for each in made.documents] == [f"documents/0000{n}.jsonl.gz" for n in "012"]
    assert lines_of(made.root / made.documents[0].path) == [
        {"id": "0-0", "text": "one é", "source": "s", "added": "", "created": "", "metadata": {}},
        {
            **{"id": "0-1", "text": "two", "source": "s", "added": "", "created": ""},
            "metadata": {"url": "u"},
        },
    ]
    assert lines_of(made.root / "attributes/exp/00000.jsonl.gz") == [
        {
            "id": "0-0",
            "attributes": {
                "exp__marks__count": [[0, 5, 5.0]],
                "exp__marks__spots": [[0, 1, 0.25], [2, 3, 1.0]],
            },
            "source": "s",
        },
        {"id": "0-1", "attributes": {}, "source": "s"},
    ]
    assert lines_of(made.root / "attributes/exp/00001.jsonl.gz") == []
    made.verify()
    memo = FileMemo(tmp_path / "memo")
    for number, workers in ((1, 2), (2, 1)):
        again = export_dolma(
            documents,
            {"exp": attributes},
            out=tmp_path / str(number),
            engine=Local(workers),
            memo=memo,
        )
        assert again.content == made.content
        again.verify()


def test_a_configuration_of_somebodys_mix_may_name_the_columns(tmp_path):
    documents, attributes = measured(tmp_path)
    names = {"marks.count": "rules__v1__word_count"}
    made = export_dolma(documents, {"exp": attributes}, names=names, out=tmp_path / "out")
    (first, _) = lines_of(made.root / "attributes/exp/00000.jsonl.gz")
    assert first["attributes"].keys() == {"rules__v1__word_count", "exp__marks__spots"}
    for bad, message in (
        ({"marks.none": "x"}, "'marks.none', which is no column"),
        ({"marks.count": "a-b"}, "'a-b' is no name in Dolma"),
        ({"marks.count": "exp__marks__spots"}, "would be the name of two columns"),
    ):
        with pytest.raises(ValueError, match=message):
            export_dolma(documents, {"exp": attributes}, names=bad, out=tmp_path / "no")
    other = make_documents(tmp_path / "other", [["x"]])
    with pytest.raises(MismatchedInputs):
        export_dolma(other, {"exp": attributes}, out=tmp_path / "no")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9).map(float)


@st.composite
def measured_texts(draw):
    """Shards of (text, number or None, spans)."""
    shards = draw(st.lists(st.lists(TEXTS, max_size=4), min_size=1, max_size=3))
    rows = []
    for texts in shards:
        rows.append([])
        for text in texts:
            bounds = st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))
            spans = draw(st.lists(st.tuples(bounds.map(sorted), NUMBERS), max_size=3))
            found = [span(*bound, score) for bound, score in spans]
            rows[-1].append({"count": draw(st.none() | NUMBERS), "spots": found})
    return shards, rows


@settings(max_examples=40, deadline=None)
@given(measured_texts(), st.text(string.ascii_letters, min_size=1, max_size=5))
def test_what_goes_out_and_comes_in_is_the_same(tmp_path_factory, made, experiment):
    root = tmp_path_factory.mktemp("round")
    shards, rows = made
    documents = make_documents(root / "documents", shards)
    attributes = make_attributes(root / "attributes", documents, "marks", COLUMNS, rows)
    folder = export_dolma(documents, {experiment: attributes}, out=root / "dolma").root
    back = ingest_documents(Jsonl(str(folder / "documents/*"), "s"), out=root / "back")
    for name in ("id", "text", "metadata"):
        assert column(back, name) == column(documents, name)
    kinds = {f"marks.{name}": kind for name, kind in COLUMNS.items()}
    folders = {experiment: folder / "attributes" / experiment}
    found = import_attributes(documents, folders, columns=kinds, out=root / "found")
    assert found == attributes
    if back.content == documents.content:  # an empty shard is no shard there
        assert import_attributes(back, folders, columns=kinds, out=root / "2") == attributes


def write_dolma(root, lines, name="exp", file="a.jsonl.gz"):
    path = root / "attributes" / name / file
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()))
    return path.parent


def said(id, **attributes):
    return {"id": id, "attributes": attributes, "source": "s"}


def test_names_and_kinds_are_found_from_the_files(tmp_path):
    documents = make_documents(tmp_path / "d", [["abc", "de"], ["fghi"]])
    tags = write_dolma(
        tmp_path,
        [
            said("0-0", exp__t_v1__n=[[0, 3, 1.5]], exp__t_v2____label__x=[[0, 2, 1]]),
            "",
            said("0-1"),
            said("1-0", exp__t_v1__n=[[0, 4, 2.5]], exp__t_v1__s=[[0, 4, 1.0], [1, 2, 0.5]]),
        ],
    )
    spans = {"bff": [[1, 6, 1]]}  # in bytes, as dolma writes some
    dups = write_dolma(tmp_path, [said("0-0", **spans), said("0-1"), said("1-0")], "dups")
    made = import_attributes(documents, {"exp": tags, "dups": dups}, out=tmp_path / "out")
    assert {each.name: each.columns for each in made.tables} == {
        "dups": {"bff": "spans"},
        "t_v1": {"n": "number", "s": "spans"},
        "t_v2": {"__label__x": "spans"},
    }
    assert rows_of(made)[0] == {"bff": [span(1, 3)]}
    assert [row["n"] for row in rows_of(made, 1)] == [1.5, None, 2.5]
    made.require_describes(documents)


@pytest.mark.slow
def test_workers_change_no_imported_content(tmp_path):
    documents = make_documents(tmp_path / "d", [["abc", "de"], ["fghi"]])
    lines = [said(id, exp__t__n=[[0, 1, 1.5]]) for id in ("0-0", "0-1", "1-0")]
    folder = write_dolma(tmp_path, lines[:2])
    write_dolma(tmp_path, lines[2:], file="b.jsonl.gz")
    one, two = (
        import_attributes(documents, {"exp": folder}, out=tmp_path / str(n), engine=Local(n))
        for n in (1, 2)
    )
    assert one == two


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [said("0-0"), said("x"), said("1-0")],
            r"a\.jsonl\.gz record 2: is about 'x'; document 1 ",
        ),
        ([said("0-0"), said("0-1")], "its files have 2 lines; the documents are 3"),
        ([said("0-0"), "{", said("1-0")], "record 2: not JSON"),
        ([said("0-0"), {"id": "0-1"}, said("1-0")], "record 2: has no attributes"),
        ([said("0-0"), {"id": 1, "attributes": {}}, said("1-0")], "record 2: its id is 1"),
        ([said("0-0", a=[[0, 1]]), said("0-1"), said("1-0")], r"record 1: 'a' is \[\[0, 1\]\]"),
        ([said("0-0", a=[[9, 10, 1.0]]), said("0-1"), said("1-0")], "of 3 characters"),
        ([said("0-0", a=3), said("0-1"), said("1-0")], "it must be spans"),
        ([said("0-0", a=[[0, 1, math.inf]]), said("0-1"), said("1-0")], "record 1: not JSON"),
        ([said("0-0", a=[[0, 1, math.nan]]), said("0-1"), said("1-0")], "record 1: not JSON"),
    ],
)
def test_lines_of_other_documents_are_named_by_file_and_record(tmp_path, lines, message):
    documents = make_documents(tmp_path / "d", [["abc", "de"], ["fghi"]])
    folder = write_dolma(tmp_path, lines)
    with pytest.raises(CorruptShard, match=message):
        import_attributes(documents, {"exp": folder}, out=tmp_path / "out")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.data())
def test_some_of_the_documents_find_their_lines(tmp_path_factory, kept, data):
    """`kept` has for each line 0, if its document is left out, or the number of its shard."""
    root = tmp_path_factory.mktemp("part")
    bounds = sorted(data.draw(st.lists(st.integers(0, len(kept)), min_size=1, max_size=2)))
    shards = [[], [], []]
    order = sorted(shard for shard in kept if shard)
    for shard in order:
        shards[shard - 1].append(f"text {len(shards[shard - 1])}")
    documents = make_documents(root / "d", shards)
    ids = iter(column(documents, "id"))
    lines = [
        said(next(ids) if shard else "gone", n=[[1, 2, float(n)]]) for n, shard in enumerate(kept)
    ]
    files = [lines[a:b] for a, b in zip([0, *bounds], [*bounds, len(lines)], strict=True)]
    for number, some in enumerate(files):
        folder = write_dolma(root, some, file=f"{number}.jsonl.gz")
    made = import_attributes(documents, {"exp": folder}, part=True, out=root / "out", columns=N)
    assert [row["n"][0]["score"] for row in rows_of(made)] == [n for n, s in enumerate(kept) if s]
    if "gone" not in [each["id"] for each in lines]:
        whole = import_attributes(documents, {"exp": folder}, out=root / "all", columns=N)
        assert whole == made


def test_a_document_without_a_line_is_named(tmp_path):
    documents = make_documents(tmp_path / "d", [["a", "b"]])
    folder = write_dolma(tmp_path, [said("0-1"), said("0-0")])
    with pytest.raises(CorruptShard, match="exp: no line after .* is about '0-1' of 00000.parquet"):
        import_attributes(documents, {"exp": folder}, part=True, out=tmp_path / "out")


def test_a_missing_file_of_attributes_is_an_error(tmp_path):
    documents = make_documents(tmp_path / "d", [["abc"]])
    folder = write_dolma(tmp_path, [said("0-0")])
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        (tmp_path / "documents").mkdir(exist_ok=True)
        (tmp_path / "documents" / name).write_bytes(b"")
    with pytest.raises(CorruptShard, match=r"exp/b\.jsonl\.gz: is missing"):
        import_attributes(documents, {"exp": folder}, out=tmp_path / "out")


def test_two_folders_with_one_table_are_refused(tmp_path):
    documents = make_documents(tmp_path / "d", [["abc"]])
    one = write_dolma(tmp_path, [said("0-0", one__t__a=[[0, 3, 1]])], "one")
    two = write_dolma(tmp_path, [said("0-0", two__t__a=[[0, 3, 1]])], "two")
    folders = {"one": one, "two": two}
    for columns in (None, {"t.a": "number"}):
        with pytest.raises(Exception, match="'one' and 'two' have a table 't' each"):
            import_attributes(documents, folders, columns=columns, out=tmp_path / "out")
    with pytest.raises(ValueError, match="columns has 't.a': 'text'"):
        import_attributes(documents, folders, columns={"t.a": "text"}, out=tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["exp__../../../escaped__c", "exp__{0}/absolute__c", "exp__a.b__c", "a/b"]
)
def test_a_name_that_leads_out_of_the_folder_is_refused_before_anything_is_written(tmp_path, name):
    documents = make_documents(tmp_path / "d", [["abc"]])
    name = name.format(tmp_path)
    lines = [said("0-0", **{name: [[0, 3, 1]], "exp__t__n": [[0, 3, 1]]})]
    folder = write_dolma(tmp_path, lines)
    out = tmp_path / "deep/down/out"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="an attribute of 'exp' has '.*a name must be of letters"):
        import_attributes(documents, {"exp": folder}, out=out)
    for columns in ({"../t.n": "number"}, {"t.n": "number", "t.a/b": "number"}):
        with pytest.raises(ValueError, match="columns has '"):
            import_attributes(documents, {"exp": folder}, columns=columns, out=out)
    for bad in ("../exp", "dot.name"):
        with pytest.raises(ValueError, match=f"folders has '{bad}'"):
            import_attributes(documents, {bad: folder}, out=out)
    assert sorted(tmp_path.rglob("*")) == before
    kept = import_attributes(documents, {"exp": folder}, columns={"t.n": "number"}, out=out)
    assert rows_of(kept) == [{"n": 1.0}]


@pytest.mark.parametrize("part", [False, True])
def test_a_file_about_many_shards_is_read_once_a_pass(tmp_path, monkeypatch, part):
    shards = [[str(n)] for n in range(6)]
    documents = make_documents(tmp_path / "d", [*shards[:3], [], *shards[3:]])
    ids = column(documents, "id")
    lines = [said(id, n=[[0, 1, float(place)]]) for place, id in enumerate(ids)]
    folder = write_dolma(tmp_path, lines[:4])
    write_dolma(tmp_path, lines[4:], file="b.jsonl.gz")
    opened, real = [], dolma_lines.open_outside
    monkeypatch.setattr(dolma_lines, "open_outside", lambda p: opened.append(p[-10:]) or real(p))
    made = import_attributes(documents, {"exp": folder}, part=part, out=tmp_path / "out")
    assert opened == ["a.jsonl.gz", "b.jsonl.gz"] * 3  # to count, to find the kinds, to write
    assert [row["n"] for row in rows_of(made)] == list(range(6))
