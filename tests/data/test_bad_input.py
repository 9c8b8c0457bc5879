"""What is wrong with files is named by file and record, or set aside and counted."""

import gzip
import json
import os
import subprocess
import sys

import pytest

from pipeline.core.errors import ChangedData, CorruptShard, ShardFailed
from pipeline.data.filtering import filter_documents
from pipeline.data.ingest import SET_ASIDE, ingest_documents
from pipeline.data.rules import Keep, Replace
from pipeline.data.sources.rows import Jsonl, ParquetFiles
from pipeline.data.taggers.gopher import Gopher
from pipeline.data.taggers.pii import Pii
from pipeline.data.tagging import tag_documents
from pipeline.store.memo import FileMemo
from pipeline.tokens.format import open_ids
from pipeline.tokens.tokenizer import decode, load_tokenizer, train_tokenizer
from pipeline.tokens.tokenizing import tokenize_documents
from tests.data.conftest import column
from tests.small_disk import small_disk

ODD = [
    "a NUL \x00 within",
    "\x00",
    "שלום עולם, مرحبا بالعالم \u202e turned \u202c round",
    "e\u0301 \u0344 Z\u0351\u036b\u0343a\u0322l\u0353go 👩\u200d🔬🏽",
    "\U0010ffff \ufeff \u2028\u2029\x85\x0b\x0c",
    "\r\n\r \n",
    " " * 5000,
    "\t",
    "",
]


def line(id, text="some text", **more):
    return json.dumps({"id": id, "text": text, **more}).encode() + b"\n"


def write(path, *lines):
    content = b"".join(lines)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return Jsonl(str(path), "web")


def aside(made):
    rows = [json.loads(each) for each in (made.root / SET_ASIDE).read_text().splitlines()]
    return {each["record"]: each["reason"] for each in rows}


def test_a_damaged_file_is_named_and_a_later_run_goes_on(tmp_path, monkeypatch):
    for name in "abc":
        write(tmp_path / f"{name}.jsonl.gz", *(line(f"{name}{n}", "word " * n) for n in range(300)))
    whole = (tmp_path / "b.jsonl.gz").read_bytes()
    source, memo = Jsonl(str(tmp_path / "*.gz"), "web"), FileMemo(tmp_path / "memo")
    flipped = whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]
    for damaged in (whole[:-9], whole[:-1], whole[:50], flipped, b"no gzip"):
        (tmp_path / "b.jsonl.gz").write_bytes(damaged)
        with pytest.raises(CorruptShard, match=r"b\.jsonl\.gz"):
            ingest_documents(source, out=tmp_path / "1", memo=memo)
    (tmp_path / "b.jsonl.gz").write_bytes(whole)
    read, real = [], Jsonl.read
    monkeypatch.setattr(Jsonl, "read", lambda self, p: read.append(p.name) or real(self, p))
    made = ingest_documents(source, out=tmp_path / "1", memo=memo)
    assert made.num_documents == 900
    assert read == ["b.jsonl.gz", "c.jsonl.gz"]  # the first was done, and remembered


def test_records_that_are_no_documents_are_set_aside_with_their_places(tmp_path):
    source = write(
        tmp_path / "a.jsonl",
        line("1"),
        b'{"id": "2", "text": "\xff\xfe"}\n',
        b"not JSON\n",
        b'{"id": "4"}\n',
        b'{"id": "5", "text": null}\n',
        b"\n  \n",
        line("1", "again"),
        b'{"id": "9", "text": "\\ud83d"}\n',
        b'{"id": "10", "text": "cut o',
    )
    with pytest.raises(CorruptShard, match=r"a\.jsonl record 2: not JSON .*can't decode byte 0xff"):
        ingest_documents(source, out=tmp_path / "1")
    with pytest.raises(CorruptShard, match=r"6 records are malformed, max_malformed is 5"):
        ingest_documents(source, out=tmp_path / "1", max_malformed=5)
    made = ingest_documents(source, out=tmp_path / "2", max_malformed=7)
    assert (made.num_documents, made.num_malformed) == (1, 7)
    reasons = aside(made)
    assert [each.split(" (")[0] for each in list(reasons.values())] == [
        "not JSON",
        "not JSON",
        "has no 'text'",
        "has no 'text'",
        "its id '1' stands there already",
        "'text' has half a surrogate pair at 0",
        "not JSON",
    ]
    assert list(reasons)[:4] == [2, 3, 4, 5] and list(reasons)[5:] == [9, 10]


def test_odd_characters_are_the_same_to_the_end(tmp_path):
    source = write(tmp_path / "a.jsonl", *(line(str(n), text) for n, text in enumerate(ODD)))
    made = ingest_documents(source, out=tmp_path / "1")
    assert column(made, "text") == ODD
    measured = tag_documents(made, [Gopher(), Pii()], out=tmp_path / "2")
    rules = [Keep("gopher.word_count", at_least=0), Replace("pii.email_address", "x")]
    kept = filter_documents(made, [measured], rules, out=tmp_path / "3")
    assert column(kept, "text") == [text for text in ODD]
    tokenizer = train_tokenizer(kept, vocab_size=300, out=tmp_path / "4")
    tokens = tokenize_documents(kept, tokenizer, out=tmp_path / "5")
    ids = open_ids(tokens.root, tokens.shards[0], tokens.dtype).tolist()
    assert decode(load_tokenizer(tokenizer), ids) == "".join(f"{t}<|endoftext|>" for t in ODD)


def test_bytes_that_are_no_text_in_a_parquet_file_are_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    bad = pa.array([b"good", b"\xff\xfe"]).view(pa.string())
    pq.write_table(pa.table({"id": ["a", "b"], "text": bad}), tmp_path / "a.parquet")
    source = ParquetFiles(str(tmp_path / "a.parquet"), "web")
    with pytest.raises(CorruptShard, match=r"a\.parquet record 2: is not readable .*0xff"):
        ingest_documents(source, out=tmp_path / "1")
    made = ingest_documents(source, out=tmp_path / "2", max_malformed=1)
    assert column(made, "text") == ["good"]


def test_an_empty_file_and_an_empty_shard_are_no_trouble_to_any_step(tmp_path):
    for name, lines in (("a", []), ("b", [b"\n\n"]), ("c", [line("1", "word " * 9), line("2")])):
        write(tmp_path / f"{name}.jsonl.gz", *lines)
    (tmp_path / "d.jsonl").write_bytes(b"")
    for pattern, count in (("*", 2), ("[abd]*", 0)):
        out = tmp_path / f"out{count}"
        made = ingest_documents(Jsonl(str(tmp_path / f"{pattern}.jsonl*"), "web"), out=out / "1")
        assert made.num_documents == count
        measured = tag_documents(made, [Gopher()], out=out / "2")
        rules = [Keep("gopher.word_count", at_least=100)]
        none = filter_documents(made, [measured], rules, out=out / "3")
        assert none.num_documents == 0
        again = tag_documents(none, [Gopher()], out=out / "4")
        filter_documents(none, [again], rules, out=out / "5")
        tokenizer = train_tokenizer(none, vocab_size=258, out=out / "6")
        tokens = tokenize_documents(none, tokenizer, out=out / "7")
        assert (tokens.num_tokens, tokens.num_documents) == (0, 0)
        tokens.verify()


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_file_that_vanishes_is_named(tmp_path, monkeypatch, when):
    source = write(tmp_path / "a.jsonl", line("1"))
    real = Jsonl.read

    def read(self, piece):
        if when == "before":
            os.unlink(piece.path)
        yield from real(self, piece)
        if when == "during":
            os.unlink(piece.path)

    monkeypatch.setattr(Jsonl, "read", read)
    kind = CorruptShard if when == "before" else ChangedData
    with pytest.raises(kind, match=r"a\.jsonl"):
        ingest_documents(source, out=tmp_path / "1", memo=FileMemo(tmp_path / "memo"))


def test_a_disk_that_fills_up_is_told_and_a_later_run_goes_on(tmp_path):
    with small_disk(tmp_path / "disk", "size=3m") as disk:
        for name in "ab":
            texts = [os.urandom(30_000).hex() for _ in range(40)]
            write(tmp_path / f"{name}.jsonl", *(line(f"{name}{n}", t) for n, t in enumerate(texts)))
        source, memo = Jsonl(str(tmp_path / "*.jsonl"), "web"), FileMemo(disk / "memo")
        filler = disk / "filler"
        filler.write_bytes(bytes(1 << 20))
        with pytest.raises((OSError, ShardFailed), match="No space left on device") as raised:
            ingest_documents(source, out=disk / "out", shard_bytes=1 << 20, memo=memo)
        assert "No space left on device" in str(raised.value)
        left = [each.name for each in (disk / "out").iterdir()]
        assert not [each for each in left if each.startswith(".")], left
        filler.unlink()
        made = ingest_documents(source, out=disk / "out", shard_bytes=1 << 20, memo=memo)
        made.verify()
        assert made.num_documents == 80


# ------------------------------------------------------------------------ large

MEASURED = """
import sys
from pathlib import Path
from pipeline.data.ingest import ingest_documents
from pipeline.data.sources.rows import Jsonl
out = Path(sys.argv[2])
made = ingest_documents(Jsonl(sys.argv[1], "web"), out=out, max_malformed=1)
status = Path("/proc/self/status").read_text()  # `getrusage` has the memory of the parent too
peak = int(status.split("VmHWM:")[1].split()[0]) << 10
print(made.num_documents, made.num_text_bytes, made.num_malformed, peak)
"""


def ingested(path, out):
    """Documents, bytes of text and malformed records of a file, and the memory that it took."""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("there is no /proc to tell the memory of a process")
    command = [sys.executable, "-c", MEASURED, str(path), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return tuple(map(int, done.stdout.split()))


@pytest.mark.slow
def test_a_document_of_100_megabytes_is_one(tmp_path):
    write(tmp_path / "a.jsonl", line("0"), line("big", "a word\n" * 15_000_000), line("2"))
    count, size, malformed, peak = ingested(tmp_path / "a.jsonl", tmp_path / "out")
    assert (count, size, malformed) == (3, 105_000_018, 0)
    assert peak < 1500 << 20


@pytest.mark.slow
def test_ten_million_empty_lines_take_no_memory(tmp_path):
    source = tmp_path / "a.jsonl.gz"
    write(source, line("1"), b"\n" * 10_000_000, line("2"), b"no JSON")
    count, _, malformed, peak = ingested(source, tmp_path / "out")
    assert (count, malformed) == (2, 1)
    assert peak < 400 << 20
    with pytest.raises(CorruptShard, match=r"record 10000003: not JSON"):
        ingest_documents(Jsonl(str(source), "web"), out=tmp_path / "2")


@pytest.mark.slow
def test_a_file_that_blows_up_to_gigabytes_is_malformed_and_not_held(tmp_path):
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(line("1"))
        for _ in range(3 << 9):
            file.write(bytes(1 << 20))
        file.write(b"\n" + line("2"))
    assert path.stat().st_size < 2 << 20
    count, _, malformed, peak = ingested(path, tmp_path / "out")
    assert (count, malformed) == (2, 1)
    assert peak < 1 << 30


@pytest.mark.slow
def test_memory_does_not_grow_with_a_file(tmp_path):
    row = line("{}", "words of a text that is long enough to weigh something " * 40)
    peaks = []
    for number, count in enumerate((10_000, 100_000)):
        path = tmp_path / f"{number}.jsonl"
        with open(path, "wb") as file:
            for place in range(count):
                file.write(row.replace(b"{}", str(place).encode()))
        peaks.append(ingested(path, tmp_path / str(number))[3])
    assert peaks[1] < peaks[0] + (60 << 20)
