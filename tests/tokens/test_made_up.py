import pytest

from pipeline.data.made_up import made_up_text
from pipeline.tokens.made_up import write_made_up_tokenizer
from pipeline.tokens.tokenizer import decode, encode, import_tokenizer, load_tokenizer

TEXTS = [made_up_text("x", number) for number in range(32)]


@pytest.mark.parametrize("vocab_size", [258, 2048, 70_000])
def test_ids_cover_the_range_that_is_asked_for_and_text_comes_back(tmp_path, vocab_size):
    path = tmp_path / "tokenizer.json"
    write_made_up_tokenizer(path, TEXTS, vocab_size=vocab_size)
    tokenizer = import_tokenizer(path, out=tmp_path / "out")
    assert tokenizer.vocab_size == vocab_size
    assert {tokenizer.end_id, tokenizer.pad_id} == {vocab_size - 2, vocab_size - 1}
    loaded = load_tokenizer(tokenizer)
    texts = [*TEXTS, "<|unused 300|> spelled out", "a<|endoftext|>b"]
    for text, ids in zip(texts, encode(loaded, texts), strict=True):
        assert decode(loaded, ids) == text
        assert tokenizer.end_id not in ids


def test_a_vocabulary_without_room_for_every_byte_is_refused(tmp_path):
    with pytest.raises(ValueError, match="vocab_size is 257; it must be at least 258"):
        write_made_up_tokenizer(tmp_path / "t.json", TEXTS, vocab_size=257)
