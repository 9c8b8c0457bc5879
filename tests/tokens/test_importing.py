import csv
import gzip
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.artifacts import Artifact
from pipeline.core.engine import Local
from pipeline.core.errors import ChangedData, CorruptShard
from pipeline.core.keys import digest
from pipeline.store.memo import FileMemo
from pipeline.tokens import importing
from pipeline.tokens.format import open_ids, read_index
from pipeline.tokens.importing import TokenFiles, import_tokens
from pipeline.tokens.mixing import mix_tokens
from pipeline.tokens.tokenizing import tokenize_documents

URL = "https://example.org/part-0.npy"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def write_ids(path, ids, dtype="<u2"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.array(ids, dtype).tobytes())
    return TokenFiles(str(path), "olmo", dtype="uint16" if dtype == "<u2" else "uint32")


def write_table(path, rows):
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path.write_bytes(gzip.compress(text.getvalue().encode()))


def held(tokens):
    """Id and token ids of each document."""
    for shard in tokens.shards:
        ids = open_ids(tokens.root, shard, tokens.dtype)
        for row in read_index(tokens.root, shard).to_pylist():
            yield row["id"], ids[row["start"] : row["end"]].tolist()


def test_what_we_tokenized_comes_back_from_its_files(documents, tokenizer, tmp_path):
    own = tokenize_documents(documents, tokenizer, out=tmp_path / "own")
    files = TokenFiles(str(tmp_path / "own/*.npy"), "olmo", licence="ODC-By")
    made = import_tokens(files, tokenizer, out=tmp_path / "made")
    assert [ids for _, ids in held(made)] == [ids for _, ids in held(own)]
    assert (made.num_tokens, made.num_documents) == (own.num_tokens, own.num_documents)
    assert made.sources == {"olmo": own.num_tokens}
    assert [each.sha256 for each in made.shards] == [each.sha256 for each in own.shards]
    assert Artifact.load(made.root) == made
    made.verify()
    mix = mix_tokens({"a": own, "b": made}, sequence_length=8, out=tmp_path / "mix")
    assert len(mix.parts) == 2


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 299), max_size=9), max_size=9),
    st.integers(1, 7),
    st.booleans(),
    st.sampled_from(["<u2", "<u4"]),
)
def test_documents_are_whole_wherever_a_block_ends(
    tmp_path_factory, tokenizer, texts, block, table, dtype
):
    root = tmp_path_factory.mktemp("law")
    texts = [[id for id in text if id != tokenizer.end_id] + [tokenizer.end_id] for text in texts]
    files = write_ids(root / "a.npy", [id for text in texts for id in text], dtype)
    ends = np.cumsum([len(text) for text in texts], dtype=int).tolist()
    names = [f"a.npy:{n}" for n in range(1, len(texts) + 1)]
    if table:
        names = [f'é "{n}",' for n in range(len(texts))]
        starts = [0, *ends[:-1]]
        rows = zip(starts, ends, names, ["s"] * len(ends), range(1, len(ends) + 1), strict=False)
        write_table(root / "a.csv.gz", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importing, "BLOCK_IDS", block)
        made = import_tokens(files, tokenizer, out=root / "made")
    assert list(held(made)) == list(zip(names, texts, strict=True))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x01\x00\x02", r"a\.npy: has 3 bytes; an id of uint16 takes 2"),
        (
            np.array([5, 6, 300, 0], "<u2").tobytes(),
            r"a\.npy record 2: the id is 300; it must be b",
        ),
        (b"\x93NUMPY\x01\x00", "has a NumPy header"),
        (
            np.array([5, 0, 6, 7], "<u2").tobytes(),
            r"a\.npy record 2: the last 2 ids have no end, 0",
        ),
    ],
)
def test_a_file_that_is_none_of_the_tokenizers_ids_is_refused_by_place(
    tokenizer, tmp_path, content, message
):
    (tmp_path / "a.npy").write_bytes(content)
    files = TokenFiles(str(tmp_path / "a.npy"), "olmo")
    assert (tokenizer.end_id, tokenizer.vocab_size) == (0, 300)
    with pytest.raises(CorruptShard, match=message):
        import_tokens(files, tokenizer, out=tmp_path / "made")
    assert not (tmp_path / "made/00000.npy").exists()


def test_the_end_of_a_file_may_be_kept_without_its_end_token(tokenizer, tmp_path):
    write_ids(tmp_path / "a.npy", [5, 0, 6, 7])
    files = TokenFiles(str(tmp_path / "a.npy"), "olmo", unfinished="keep")
    made = import_tokens(files, tokenizer, out=tmp_path / "made")
    assert list(held(made)) == [("a.npy:1", [5, 0]), ("a.npy:2", [6, 7])]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, 2, "a", "s", 1)], r"record 1: the documents end at 2; the file has 4 tokens"),
        ([(0, 2, "a", "s", 1), (2, 6, "b", "s", 2)], "end at 6; the file has 4"),
        ([(0, 2, "a", "s", 1), (3, 4, "b", "s", 2)], "record 2: is from 3 to 4; it must follow 2"),
        ([(0, 3, "a", "s", 1), (3, 4, "b", "s", 2)], "record 1: the document ends in 6"),
        ([("x", 2, "a", "s", 1)], "record 1: is 'x,2,a,s,1'"),
        ([(0,)], "record 1: is '0'; it must be start,end,id"),
    ],
)
def test_a_table_that_is_not_of_the_file_is_refused_by_its_row(tokenizer, tmp_path, rows, message):
    files = write_ids(tmp_path / "a.npy", [5, 0, 6, 0])
    write_table(tmp_path / "a.csv.gz", rows)
    with pytest.raises(
        CorruptShard, match=r"a\.csv\.gz " + message if "rec" in message else message
    ):
        import_tokens(files, tokenizer, out=tmp_path / "made")


def test_one_more_file_is_the_only_one_that_is_copied(tokenizer, tmp_path, monkeypatch):
    memo, copied = FileMemo(tmp_path / "memo"), []
    real = importing._ImportFile._copied
    monkeypatch.setattr(
        importing._ImportFile,
        "_copied",
        lambda self, n, piece: copied.append(piece.name) or real(self, n, piece),
    )
    for name in "ac":
        write_ids(tmp_path / f"{name}.npy", [5, 0, ord(name), 0])
    files = TokenFiles(str(tmp_path / "*.npy"), "olmo")
    before = digest(files)
    one = import_tokens(files, tokenizer, out=tmp_path / "1", memo=memo)
    copied.clear()
    write_ids(tmp_path / "b.npy", [7, 0])
    two = import_tokens(files, tokenizer, out=tmp_path / "2", memo=memo)
    assert copied == ["b.npy"] and digest(files) != before
    assert two.num_tokens == one.num_tokens + 2
    two.verify()
    write_table(tmp_path / "b.csv.gz", [(0, 2, "named", "s", 1)])  # a table counts as bytes too
    three = import_tokens(files, tokenizer, out=tmp_path / "3", memo=memo)
    assert "named" in [name for name, _ in held(three)]


@pytest.mark.parametrize("new", [b"\x09\x00\x00\x00", None])
def test_a_file_that_changes_or_goes_while_it_is_copied_is_refused(
    tokenizer, tmp_path, monkeypatch, new
):
    files, path = write_ids(tmp_path / "a.npy", [5, 0]), tmp_path / "a.npy"
    real = TokenFiles.digest_now

    def change(self, piece):
        path.unlink() if new is None else path.write_bytes(new)
        return real(self, piece)

    monkeypatch.setattr(TokenFiles, "digest_now", change)
    with pytest.raises(ChangedData, match=r"a\.npy changed"):
        import_tokens(files, tokenizer, out=tmp_path / "made")


def test_urls_are_pinned_with_their_tables():
    with pytest.raises(ValueError, match="revision is missing"):
        TokenFiles(URL, "olmo").fingerprint()
    assert TokenFiles(URL, "olmo", revision="1").outside().keys() == {URL}
    both = TokenFiles(URL, "olmo", revision="1", offsets=True).outside()
    assert both.keys() == {URL, URL.replace(".npy", ".csv.gz")}


@pytest.mark.slow
def test_workers_change_no_imported_tokens(tokenizer, tmp_path):
    for name in "abc":
        write_ids(tmp_path / f"{name}.npy", [5, 0, ord(name), 0])
    files = TokenFiles(str(tmp_path / "*.npy"), "olmo")
    one, two = (
        import_tokens(files, tokenizer, out=tmp_path / str(n), engine=Local(n)) for n in (1, 2)
    )
    assert one == two
