import os
from collections import Counter

import pytest

from pipeline.core.artifacts import Artifact
from pipeline.core.engine import Local
from pipeline.core.errors import CorruptShard
from pipeline.core.shards import read_shard
from pipeline.store.memo import FileMemo
from pipeline.tokens import tokenizing
from pipeline.tokens.format import open_ids, read_index
from pipeline.tokens.tokenizer import decode, import_tokenizer, load_tokenizer
from pipeline.tokens.tokenizing import tokenize_documents
from tests.tokens.conftest import write_documents


def test_tokens_decode_to_the_documents_and_each_ends_in_the_end_token(
    documents, tokenizer, tmp_path
):
    tokens = tokenize_documents(documents, tokenizer, out=tmp_path)
    loaded, sources = load_tokenizer(tokenizer), Counter()
    for shard, of in zip(tokens.shards, documents.shards, strict=True):
        ids = open_ids(tokens.root, shard, tokens.dtype)
        texts = read_shard(documents.root, of).to_pylist()
        for place, text in zip(read_index(tokens.root, shard).to_pylist(), texts, strict=True):
            *own, end = ids[place["start"] : place["end"]].tolist()
            assert (end, place["id"]) == (tokenizer.end_id, text["id"])
            assert decode(loaded, own) == text["text"]
            sources[place["source"]] += len(own) + 1
    assert tokens.sources == sources
    assert tokens.num_tokens == sum(sources.values())
    assert tokens.num_documents == documents.num_documents
    assert Artifact.load(tmp_path) == tokens
    tokens.verify()


def test_white_space_at_the_ends_is_left_out_when_it_is_asked_for(tokenizer, tmp_path):
    padded = write_documents(tmp_path / "p", [["\n the dog\u2003", " \n", "", "runs  home"], [" "]])
    plain = write_documents(tmp_path / "d", [["the dog", "runs  home"], []])
    memo = FileMemo(tmp_path / "memo")
    whole = tokenize_documents(padded, tokenizer, out=tmp_path / "1", memo=memo)
    stripped = tokenize_documents(padded, tokenizer, strip=True, out=tmp_path / "2", memo=memo)
    wanted = tokenize_documents(plain, tokenizer, out=tmp_path / "3")
    assert (whole.num_documents, stripped.num_documents) == (5, 2)
    for own, other in zip(stripped.shards, wanted.shards, strict=True):
        ids = open_ids(stripped.root, own, stripped.dtype).tolist()
        assert ids == open_ids(wanted.root, other, wanted.dtype).tolist()
    names = [row["id"] for row in read_index(stripped.root, stripped.shards[0]).to_pylist()]
    assert names == ["0-0", "0-3"]


def test_workers_change_no_content_and_leave_no_records(documents, tokenizer, tmp_path):
    one = tokenize_documents(documents, tokenizer, out=tmp_path / "1", engine=Local(1))
    two = tokenize_documents(documents, tokenizer, out=tmp_path / "2", engine=Local(2))
    assert one.content == two.content
    assert sorted(os.listdir(tmp_path / "1")) == sorted(os.listdir(tmp_path / "2"))
    assert not [name for name in os.listdir(tmp_path / "1") if name.startswith(".")]


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.fixture
def written(monkeypatch):
    """The numbers of the shards that are written, not linked."""
    numbers, real = [], tokenizing.TokenShardWriter

    def writer(root, number, dtype):
        numbers.append(number)
        if "kill at" in numbers[:1] and number == 2:
            raise Killed
        return real(root, number, dtype)

    monkeypatch.setattr(tokenizing, "TokenShardWriter", writer)
    return numbers


def test_what_a_killed_run_finished_is_kept(documents, tokenizer, tmp_path, written):
    memo = FileMemo(tmp_path / "memo")
    whole = tokenize_documents(documents, tokenizer, out=tmp_path / "whole")
    written[:] = ["kill at"]
    with pytest.raises(Killed):
        tokenize_documents(documents, tokenizer, out=tmp_path / "cut", memo=memo)
    written.clear()
    resumed = tokenize_documents(documents, tokenizer, out=tmp_path / "cut", memo=memo)
    assert resumed == whole
    assert written == [2, 3]
    resumed.verify()


def test_only_a_new_shard_is_tokenized_and_a_damaged_memory_is_not_used(
    documents, tokenizer, tmp_path, written
):
    memo = FileMemo(tmp_path / "memo")
    tokenize_documents(documents, tokenizer, out=tmp_path / "first", memo=memo)
    written.clear()
    texts = [read_shard(documents.root, s).column("text").to_pylist() for s in documents.shards]
    more = write_documents(tmp_path / "more", [*texts, ["a new shard"]])
    made = tokenize_documents(more, tokenizer, out=tmp_path / "second", memo=memo)
    assert written == [4]
    assert made == tokenize_documents(more, tokenizer, out=tmp_path / "whole")
    made.verify()
    for kept in (tmp_path / "memo").rglob("0"):
        os.unlink(kept)
        kept.write_bytes(b"")
    written.clear()
    tokenize_documents(more, tokenizer, out=tmp_path / "third", memo=memo)
    assert written == [0, 2, 3, 4]  # shard 1 has no ids to be damaged


def test_a_damaged_tokenizer_stops_the_work(documents, tokenizer, tmp_path):
    made = import_tokenizer(tokenizer.root / "tokenizer.json", out=tmp_path / "t")
    (tmp_path / "t" / "tokenizer.json").write_text("{}")
    with pytest.raises(CorruptShard):
        tokenize_documents(documents, made, out=tmp_path / "o")
