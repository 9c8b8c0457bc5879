import gzip
import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.keys import canonical, digest
from pipeline.data.document import Document
from pipeline.data.ingest import ingest_documents
from pipeline.data.rules import Sample, sample_place
from pipeline.data.sources.cut import Cut, Widened
from pipeline.data.sources.hf_dataset import HfDataset
from pipeline.data.sources.rows import Jsonl, Malformed, Piece
from pipeline.store.memo import FileMemo


@dataclass(frozen=True)
class Listed:
    """A source in memory: names of pieces, each with the ids of its documents."""

    held: dict
    source: str = "listed"
    licence: str = "MIT"
    provenance: str = "here"
    text: str = "some text"

    VERSION: ClassVar[str] = "001"

    def fingerprint(self):
        return json.dumps(self.held)

    def pieces(self):
        return [Piece(name, name, f"digest of {name}") for name in self.held]

    def digest_now(self, piece):
        return piece.digest

    def read(self, piece):
        for each in self.held[piece.name]:
            yield Document(each, self.text, self.source)


def ids(cut):
    return [each.id for piece in cut.pieces() for each in cut.read(piece)]


HELD = st.dictionaries(
    st.text("abc", min_size=1),
    st.lists(st.integers(0, 999).map(str), unique=True, max_size=30),
    min_size=1,
    max_size=6,
)


@given(HELD, st.integers(1, 4), st.integers(1, 20), st.integers(1, 40))
def test_a_cut_is_a_part_of_its_source_in_order(held, pieces, documents, records):
    cut = Cut(Listed(held), max_pieces=pieces, max_documents=documents, max_records=records)
    kept = [each.name for each in cut.pieces()]
    assert kept == [name for name in held if name in kept]
    assert len(kept) == min(pieces, len(held))
    share = -(-documents // len(kept))
    for piece in cut.pieces():
        found = [each.id for each in cut.read(piece)]
        read = held[piece.name][:records]
        assert found == [each for each in read if each in found]
        assert len(found) == min(share, len(read))


@given(HELD, st.integers(1, 20), st.integers(0, 20))
def test_a_smaller_cut_is_in_a_larger_one(held, documents, more):
    small, large = (Cut(Listed(held), max_documents=n) for n in (documents, documents + more))
    assert set(ids(small)) <= set(ids(large))


@given(st.lists(st.integers(0, 999).map(str), unique=True, min_size=1), st.randoms())
def test_which_documents_are_kept_does_not_depend_on_their_order(names, random):
    mixed = list(names)
    random.shuffle(mixed)
    one, other = (Cut(Listed({"a": each}), max_documents=5) for each in (names, mixed))
    assert set(ids(one)) == set(ids(other))


def test_text_beyond_the_limit_is_left_out_but_for_one_document():
    source = Listed({"a": [str(n) for n in range(20)]}, text="x" * 100)
    assert len(ids(Cut(source, max_bytes=350))) == 3
    assert len(ids(Cut(source, max_bytes=10))) == 1


def test_what_is_no_document_is_still_told(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a", "text": "x"}\n{\n{"id": "b", "text": "y"}\n')
    cut = Cut(Jsonl(str(path), "s"))
    found = [each for piece in cut.pieces() for each in cut.read(piece)]
    assert sum(isinstance(each, Malformed) for each in found) == 1 and len(found) == 3


def test_only_the_chosen_files_are_in_the_key(tmp_path):
    for number in range(5):
        with gzip.open(tmp_path / f"{number}.jsonl.gz", "wt") as file:
            file.write(json.dumps({"id": str(number), "text": "x"}) + "\n")
    cut = Cut(Jsonl(str(tmp_path / "*.gz"), "s"), max_pieces=2)
    chosen = {each.name for each in cut.pieces()}
    before = canonical(cut)
    for path in tmp_path.glob("*.gz"):
        if path.name not in chosen:
            path.write_bytes(b"another")
    assert canonical(cut) == before
    (tmp_path / min(chosen)).write_bytes(b"another")
    assert canonical(cut) != before


def test_another_file_changes_the_share_of_the_one_that_was_there(tmp_path):
    memo, counts = FileMemo(tmp_path / "memo"), []
    for number in range(2):
        rows = [json.dumps({"id": f"{number}-{n}", "text": "x"}) + "\n" for n in range(8)]
        (tmp_path / f"{number}.jsonl").write_text("".join(rows))
        cut = Cut(Jsonl(str(tmp_path / "*.jsonl"), "s"), max_documents=8)
        out = tmp_path / f"out{number}"
        counts.append([s.num_records for s in ingest_documents(cut, out=out, memo=memo).shards])
    assert counts == [[8], [4, 4]]


def test_the_key_tells_datasets_and_revisions_apart():
    sources = [HfDataset(name, "s", revision=r) for name in ("a/b", "a/c") for r in "12"]
    sources += [Jsonl(f"https://x.org/{name}", "s", revision=r) for name in "ab" for r in "12"]
    assert len({digest(Cut(each)) for each in sources}) == len(sources)


@pytest.mark.parametrize("name", ["max_pieces", "max_documents", "max_bytes", "max_records"])
def test_a_cut_keeps_at_least_one_of_everything(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        Cut(Listed({"a": []}), **{name: 0})


SAMPLES = st.lists(
    st.tuples(st.sampled_from(["id", "text"]), st.floats(0, 1), st.floats(0, 1)).map(
        lambda each: Sample(each[0], *sorted(each[1:]), "seed")
    ),
    min_size=1,
    max_size=8,
)


@given(SAMPLES, st.lists(st.text(), max_size=30))
def test_what_rules_part_stays_parted_in_the_same_way(samples, values):
    widened = Widened(samples)
    bounds = {}
    for old in samples:
        new = widened(old)
        for before, after in (
            (old.from_fraction, new.from_fraction),
            (old.to_fraction, new.to_fraction),
        ):
            assert bounds.setdefault((old.sample_by, before), after) == after
    for field in ("id", "text"):
        moved = sorted((old, new) for (by, old), new in bounds.items() if by == field)
        assert [new for _, new in moved] == sorted(new for _, new in moved)


def test_a_rare_part_is_widened_and_what_is_large_enough_stays():
    rare = [Sample("id", 0, 0.99, "s"), Sample("id", 0.99, 1, "s")]
    one, two = map(Widened(rare), rare)
    assert one.to_fraction == two.from_fraction == pytest.approx(0.99 / 1.24, abs=1e-6)
    found = sum(sample_place("s", str(n)) >= two.from_fraction for n in range(1000))
    assert 150 < found < 250
    half = Sample("id", 0.5, 1, "s")
    assert Widened([half])(half) == half
