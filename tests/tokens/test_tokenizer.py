import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.artifacts import Artifact
from pipeline.core.errors import CorruptShard
from pipeline.tokens.tokenizer import (
    decode,
    encode,
    import_tokenizer,
    load_tokenizer,
    train_tokenizer,
)
from tests.tokens.conftest import sentences, write_documents


@pytest.fixture(scope="module")
def loaded(tokenizer):
    return load_tokenizer(tokenizer)


@given(text=st.text() | st.text("<|endoftpading >e\n", max_size=40))
def test_decoding_gives_back_the_text_and_no_special_ids(loaded, tokenizer, text):
    (ids,) = encode(loaded, [text])
    assert decode(loaded, ids) == text
    assert not {tokenizer.end_id, tokenizer.pad_id} & set(ids)


def test_text_that_spells_a_special_token_is_special_only_where_allowed(loaded, tokenizer):
    text = "a<|endoftext|>b"
    assert tokenizer.end_id in encode(loaded, [text], allow_special=True)[0]
    assert tokenizer.end_id not in encode(loaded, [text])[0]


def test_special_tokens_have_the_first_ids(documents, tmp_path):
    made = train_tokenizer(
        documents, vocab_size=270, out=tmp_path, special_tokens=["<|user|>", "<|endoftext|>"]
    )
    opened = load_tokenizer(made)
    assert (made.end_id, made.pad_id, opened.token_to_id("<|user|>")) == (0, 1, 2)
    assert made.vocab_size == 270 == opened.get_vocab_size()
    assert Artifact.load(tmp_path) == made


TRAIN = """
import sys
from pathlib import Path
from pipeline.core.artifacts import Artifact
from pipeline.tokens.tokenizer import train_tokenizer
print(train_tokenizer(Artifact.load(Path(sys.argv[1])), vocab_size=300, out=sys.argv[2]).content)
"""


@pytest.mark.parametrize("parallel", ["false", "true"])
def test_training_is_the_same_in_any_process_with_any_threads(
    documents, tokenizer, tmp_path, parallel
):
    command = [sys.executable, "-c", TRAIN, str(documents.root), str(tmp_path)]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": parallel}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == tokenizer.content


def test_where_documents_lie_does_not_change_a_sample(tmp_path):
    from pipeline.tokens.tokenizer import _sample

    one = write_documents(tmp_path / "one", [[f"text {i}" for i in range(200)]])
    two = write_documents(tmp_path / "two", [[f"text {i}" for i in range(200)], sentences(50)])
    first, second = list(_sample(one, 0.3)), list(_sample(two, 0.3))
    assert 30 < len(first) < 90
    assert second[: len(first)] == first
    assert set(first) < set(_sample(one, 0.6))


def test_an_imported_tokenizer_is_the_published_one(tokenizer, tmp_path):
    path = tokenizer.root / "tokenizer.json"
    assert import_tokenizer(path, out=tmp_path / "a") == tokenizer
    with pytest.raises(ValueError, match="end_token is '</s>'"):
        import_tokenizer(path, out=tmp_path / "b", end_token="</s>")
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(CorruptShard, match="not a tokenizer"):
        import_tokenizer(tmp_path / "broken.json", out=tmp_path / "c")


def test_a_changed_tokenizer_is_not_loaded(tokenizer, tmp_path):
    made = import_tokenizer(tokenizer.root / "tokenizer.json", out=tmp_path)
    with open(tmp_path / "tokenizer.json", "a") as file:
        file.write(" ")
    with pytest.raises(CorruptShard):
        load_tokenizer(made)


@pytest.mark.parametrize(
    "change", [{"vocab_size": 257}, {"sample_fraction": 0}, {"pad_token": "<|endoftext|>"}]
)
def test_impossible_tokenizers_are_refused(documents, tmp_path, change):
    with pytest.raises(ValueError, match="must"):
        train_tokenizer(documents, **{"vocab_size": 300, **change}, out=tmp_path)
