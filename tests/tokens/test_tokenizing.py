import os
from collections import Counter

import pytest

from pipeline.core.artifacts import Artifact
from pipeline.core.engine import Local
from pipeline.core.errors import CorruptShard
from pipeline.core.shards import read_shard
from pipeline.tokens import tokenizing
from pipeline.tokens.format import open_ids, read_index
from pipeline.tokens.tokenizer import decode, import_tokenizer, load_tokenizer
from pipeline.tokens.tokenizing import tokenize_documents
from tests.tokens.conftest import sentences, write_documents


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


def test_workers_change_no_content_and_leave_no_records(documents, tokenizer, tmp_path):
    one = tokenize_documents(documents, tokenizer, out=tmp_path / "1", engine=Local(1))
    two = tokenize_documents(documents, tokenizer, out=tmp_path / "2", engine=Local(2))
    assert one.content == two.content
    assert sorted(os.listdir(tmp_path / "1")) == sorted(os.listdir(tmp_path / "2"))
    assert not [name for name in os.listdir(tmp_path / "1") if name.startswith(".")]


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def tokenize_until(monkeypatch, documents, tokenizer, out, at_shard):
    """Run and be killed in a shard; then run again and tell which shards are written anew."""
    written = []
    real = tokenizing.TokenShardWriter

    def writer(root, number, dtype):
        written.append(number)
        if number == at_shard:
            raise Killed
        return real(root, number, dtype)

    monkeypatch.setattr(tokenizing, "TokenShardWriter", writer)
    with pytest.raises(Killed):
        tokenize_documents(documents, tokenizer, out=out)
    written.clear()
    at_shard = None
    return written


def test_what_a_killed_run_finished_is_kept(documents, tokenizer, tmp_path, monkeypatch):
    whole = tokenize_documents(documents, tokenizer, out=tmp_path / "whole")
    written = tokenize_until(monkeypatch, documents, tokenizer, tmp_path / "cut", 2)
    resumed = tokenize_documents(documents, tokenizer, out=tmp_path / "cut")
    assert resumed == whole
    assert written == [2, 3]


def test_what_was_finished_and_then_damaged_is_made_again(
    documents, tokenizer, tmp_path, monkeypatch
):
    whole = tokenize_documents(documents, tokenizer, out=tmp_path / "whole")
    written = tokenize_until(monkeypatch, documents, tokenizer, tmp_path / "cut", 3)
    (tmp_path / "cut" / "00000.npy").write_bytes(b"")
    (tmp_path / "cut" / ".00002.done.json").write_text("{")
    assert tokenize_documents(documents, tokenizer, out=tmp_path / "cut") == whole
    assert written == [0, 2, 3]


def test_what_was_finished_of_other_documents_is_made_again(
    documents, tokenizer, tmp_path, monkeypatch
):
    written = tokenize_until(monkeypatch, documents, tokenizer, tmp_path / "cut", 3)
    other = write_documents(tmp_path / "other", [sentences(40), ["new"]])
    made = tokenize_documents(other, tokenizer, out=tmp_path / "cut")
    assert written == [1]  # shard 0 has the same documents
    assert made == tokenize_documents(other, tokenizer, out=tmp_path / "whole")


def test_a_damaged_tokenizer_stops_the_work(documents, tokenizer, tmp_path):
    made = import_tokenizer(tokenizer.root / "tokenizer.json", out=tmp_path / "t")
    (tmp_path / "t" / "tokenizer.json").write_text("{}")
    with pytest.raises(CorruptShard):
        tokenize_documents(documents, made, out=tmp_path / "o")
