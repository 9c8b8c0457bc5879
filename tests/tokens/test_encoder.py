import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from pipeline.data.compiled.bpe import LONGEST_PIECE
from pipeline.data.text_columns import TextColumn
from pipeline.tokens import encoder
from pipeline.tokens.encoder import Encoder, load_encoder
from pipeline.tokens.tokenizer import encode
from tests.tokens.conftest import sentences

SAMPLE = [
    *sentences(200),
    "def f(x):\n    return x  # twice\n\n\n" * 20,
    "l'été où naïve 1234 été " * 20,
]
HOSTILE = [
    " ",
    "  ",
    "     ",
    "\n",
    "\t",
    "\r\n",
    "\u00a0",
    "\u2003",
    "\u0301",
    "e\u0301",
    "'s",
    "'LL",
]
HOSTILE += [
    "<|endoftext|>",
    "|||IP_ADDRESS|||",
    "|||",
    "\x00",
    "\x85",
    "\u2028",
    "\ufeff",
    "한",
    "ᄒ",
    "½",
    "x",
]


def trained(normalizer=None, spaces=0, others=()):
    """A byte-level BPE in the manner of OLMo's: NFC, and runs of spaces as added tokens."""
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizer
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    made.train_from_iterator(SAMPLE, trainer)
    runs = [AddedToken(" " * length, special=False) for length in range(spaces, 1, -1)]
    made.add_tokens([*runs, *(AddedToken(each, special=False) for each in others)])
    made.encode_special_tokens = True
    return made


PLAIN = trained()
LIKE_OLMO = trained(normalizers.NFC(), 24, ["|||IP_ADDRESS|||"])


def differs(loaded, texts):
    fast = Encoder(loaded)
    assert fast.is_fast
    pairs = zip(texts, fast.encode(texts), encode(loaded, texts), strict=True)
    return [text for text, ours, theirs in pairs if ours.tolist() != theirs]


@pytest.mark.parametrize("loaded", [PLAIN, LIKE_OLMO], ids=["plain", "like OLMo"])
@settings(deadline=None)  # the first call may compile
@given(st.lists(st.sampled_from(HOSTILE) | st.text(max_size=8)).map("".join))
def test_ids_are_those_of_tokenizers(loaded, text):
    assert differs(loaded, [text]) == []


AROUND = [" {}1", "{} {}.", "'{}x  {}"]


@pytest.mark.parametrize("loaded", [PLAIN, LIKE_OLMO], ids=["plain", "like OLMo"])
def test_runs_of_every_length_and_their_neighbours_are_cut_alike(loaded):
    rng = random.Random(0)
    runs = [" " * n for n in range(60)] + ["\n" * n for n in range(1, 9)]
    texts = ["".join(rng.choice(runs) + rng.choice(HOSTILE) for _ in range(9)) for _ in range(2000)]
    assert differs(loaded, texts) == []


@pytest.mark.slow
@pytest.mark.parametrize("loaded", [PLAIN, LIKE_OLMO], ids=["plain", "like OLMo"])
@pytest.mark.parametrize(
    "around", ["a{} a", *(pytest.param(each, marks=pytest.mark.long) for each in AROUND)]
)
def test_every_code_point_is_cut_alike(loaded, around):
    points = (chr(n) for n in range(0x110000) if not 0xD800 <= n < 0xE000)
    assert differs(loaded, [around.replace("{}", each) for each in points]) == []


@pytest.mark.parametrize(
    "text",
    ["a" * LONGEST_PIECE, "a" * (LONGEST_PIECE + 1), "\n" * LONGEST_PIECE, " \n" * LONGEST_PIECE]
    + [" " * (2 * LONGEST_PIECE), "7=" * LONGEST_PIECE, "漢" * 5000, ""],
    ids=lambda text: f"{text[:2]!r} {len(text)}",
)
def test_a_text_without_a_break_is_encoded_in_good_time(text):
    assert differs(PLAIN, [text]) == []


def test_of_added_tokens_the_leftmost_and_then_the_longest_is_cut_out():
    made = trained(normalizers.NFC(), 24, ["||", "|||A|||", "|||", "é!", "A"])
    parts = ["|", "||", "|||", "A", "|||A|||", "é!", "e\u0301!", " ", "  ", "'s", "x"]
    rng = random.Random(1)
    texts = ["".join(rng.choice(parts) for _ in range(12)) for _ in range(2000)]
    texts.append("|||A||| " * 3000)  # more of them than there is room for at first
    assert differs(made, texts) == []


def test_pieces_that_drive_each_other_out_of_the_cache_keep_their_ids():
    rng = random.Random(2)
    words = [
        "".join(rng.choices("abcdefghijklmnop", k=rng.randrange(2, 34))) for _ in range(90_000)
    ]
    texts = [" ".join(words[at : at + 500]) for at in range(0, len(words), 500)]
    assert differs(PLAIN, [*texts, *texts[:9]]) == []


def test_pieces_that_are_left_to_tokenizers_stand_among_the_others():
    long = ["x" * (LONGEST_PIECE + 1), " " + "é" * 900, "=" * 3000, "\n" * 1500, "1" * 2000]
    more = ["one", " two", "  ", "|||IP_ADDRESS|||", "e\u0301"]
    rng = random.Random(3)
    texts = ["".join(rng.choice(long + more) for _ in range(6)) for _ in range(60)] + ["", *long]
    ids, ends = Encoder(LIKE_OLMO).encode_column(TextColumn.of(pa.array(texts)), end_id=7)
    must = [[*each, 7] for each in encode(LIKE_OLMO, texts)]
    assert [each.tolist() for each in np.split(ids, ends[:-1])] == must


def test_ids_are_the_same_in_small_blocks(monkeypatch):
    monkeypatch.setattr(encoder, "BLOCK_IDS", 5)
    monkeypatch.setattr(encoder, "MOST_LEFT", 2)
    rng = random.Random(4)
    parts = ["a1 |||IP_ADDRESS|||  " * 700, "x" * (LONGEST_PIECE + 1), "one two", "é" * 900, "\n"]
    texts = ["".join(rng.choice(parts) for _ in range(rng.randrange(9))) for _ in range(40)]
    blocks = list(Encoder(LIKE_OLMO).blocks(TextColumn.of(pa.array(texts)), end_id=7))
    assert len(blocks) > 40 and max(len(ids) for ids, _ in blocks) < 10 * LONGEST_PIECE
    ids, ends = (np.concatenate(each) for each in zip(*blocks, strict=True))
    must = [[*each, 7] for each in encode(LIKE_OLMO, texts)]
    assert [each.tolist() for each in np.split(ids, ends[:-1])] == must


def test_a_column_may_be_a_part_of_an_array_and_an_empty_one():
    array = pa.array(["nothing", "of this", "naïve e\u0301té  x", "", "last"])
    for part in (array[2:4], array[2:3], array[5:], array[:0]):
        column = TextColumn.of(part)
        ids, ends = Encoder(LIKE_OLMO).encode_column(column)
        must = encode(LIKE_OLMO, part.to_pylist())
        assert ids.tolist() == [each for one in must for each in one]
        assert np.diff(ends, prepend=0).tolist() == [len(each) for each in must]


def test_threads_share_an_encoder():
    fast = Encoder(LIKE_OLMO)
    texts = [each for each in SAMPLE for _ in range(20)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: fast.encode(texts), range(8)))
    must = encode(LIKE_OLMO, texts)
    assert all([each.tolist() for each in one] == must for one in made)


def test_a_token_that_bpe_never_makes_is_left_out():
    # "abc" would be (ab, c), but b and c merge first: no text gives it
    alphabet = {each: n for n, each in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary = alphabet | {"bc": 256, "ab": 257, "abc": 258}
    made = tokenizers.Tokenizer(models.BPE(vocabulary, [("b", "c"), ("a", "b"), ("ab", "c")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert encode(made, ["abc"]) == [[alphabet["a"], 256]]
    assert differs(made, ["abc", "ab", "xabcabc", "abbc"]) == []


def test_the_order_of_merges_counts_and_not_that_of_ids():
    alphabet = {each: n for n, each in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary = alphabet | {"bc": 257, "ab": 256}
    made = tokenizers.Tokenizer(models.BPE(vocabulary, [("b", "c"), ("a", "b")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert differs(made, ["abc", "abab", "bcab"]) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda made: setattr(made, "pre_tokenizer", pre_tokenizers.Whitespace()),
        lambda made: setattr(made, "pre_tokenizer", pre_tokenizers.ByteLevel()),  # a space in front
        lambda made: setattr(made, "normalizer", normalizers.Lowercase()),
        lambda made: made.add_tokens([AddedToken("x", lstrip=True, special=False)]),
        lambda made: made.add_tokens([AddedToken("   ", special=False)]),  # three and not two
        lambda made: made.add_tokens([AddedToken(" x", special=False)]),
        lambda made: made.add_tokens([AddedToken("e\u0301x", special=False)]),
        lambda made: made.add_tokens([AddedToken("qe", special=False, normalized=False)]),
    ],
    ids=[
        "words",
        "prefix",
        "lower case",
        "strips",
        "three spaces",
        "a space and more",
        "a token that is not in NFC",
        "a token that a mark may join",
    ],
)
def test_another_kind_of_tokenizer_goes_through_tokenizers(change):
    made = trained()
    change(made)
    fast = Encoder(made)
    assert not fast.is_fast
    text = "The x   Quick  brown\n fox qe\u0301x"
    assert fast.encode([text])[0].tolist() == encode(made, [text])[0]


def test_the_encoder_of_a_tokenizer_is_made_once(tokenizer):
    assert load_encoder(tokenizer) is load_encoder(tokenizer)
