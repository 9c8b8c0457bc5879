import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.keys import canonical
from pipeline.data.taggers.c4 import C4
from pipeline.data.taggers.gopher import Gopher
from pipeline.data.taggers.language import Language
from pipeline.data.taggers.lengths import Lengths
from pipeline.data.taggers.pii import Pii
from pipeline.data.text import paragraphs

TOP = "fraction_of_characters_in_most_common_{}grams"
DUPLICATE = "fraction_of_characters_in_duplicate_{}grams"
A = "the cat sat on the cat sat on the mat"
B = "# one\n\n\n- two\n* three…\n# one\n"
C = " ".join(["a b c d e"] * 3)

# What dolma 1.2.1 gave for these texts; what is not named is 0.
GOPHER = {
    A: {
        **dict(zip(map(TOP.format, (2, 3, 4)), (0.42857, 0.64286, 0.78571), strict=True)),
        DUPLICATE.format(5): 0.33735,
        "character_count": 37,
        "word_count": 10,
        "median_word_length": 3,
        "fraction_of_words_with_alpha_character": 1,
        "required_word_count": 3,
    },
    B: {
        **dict(zip(map(TOP.format, (2, 3, 4)), (0.42105, 0.26316, 0.42105), strict=True)),
        DUPLICATE.format(9): None,
        DUPLICATE.format(10): None,
        "character_count": 29,
        "word_count": 8,
        "median_word_length": 2,
        "symbol_to_word_ratio": 0.375,
        "fraction_of_words_with_alpha_character": 0.5,
        "fraction_of_characters_in_duplicate_lines": 0.52632,
        "fraction_of_lines_starting_with_bullet_point": 0.28571,
        "fraction_of_lines_ending_with_ellipsis": 0.14286,
        "fraction_of_duplicate_lines": 0.71429,
    },
    C: {
        **dict(zip(map(TOP.format, (2, 3, 4)), (0.4, 0.6, 0.8), strict=True)),
        **dict(
            zip(
                map(DUPLICATE.format, range(5, 11)),
                (1, 1, 0.88889, 0.75, 0.57143, 0.33333),
                strict=True,
            )
        ),
        "character_count": 29,
        "word_count": 15,
        "median_word_length": 1,
        "fraction_of_words_with_alpha_character": 1,
    },
    "": {name: None for name in Gopher.COLUMNS if name.endswith("grams")},
    "a b": {TOP.format(2): 1.0, TOP.format(3): None, TOP.format(4): None}
    | {DUPLICATE.format(n): None for n in range(5, 11)}
    | {
        "character_count": 3,
        "word_count": 2,
        "median_word_length": 1,
        "fraction_of_words_with_alpha_character": 1,
    },
}


@pytest.mark.parametrize("text", GOPHER)
def test_gopher_gives_dolmas_numbers(text):
    expected = dict.fromkeys(Gopher.COLUMNS, 0.0) | GOPHER[text]
    assert Gopher().measure(text) == expected


def test_gopher_v2_takes_no_blank_lines_for_lines():
    made = Gopher("v2").measure(B)
    assert made["fraction_of_lines_starting_with_bullet_point"] == 0.4
    assert made["fraction_of_lines_ending_with_ellipsis"] == 0.2
    assert made["fraction_of_duplicate_lines"] == 0.4
    with pytest.raises(ValueError, match="variant is 'v3'"):
        Gopher("v3")


def test_of_equally_common_ngrams_the_first_in_the_text_counts():
    top = TOP.format(2)
    assert Gopher().measure("a b longer word a b longer word")[top] == 0.16667
    assert Gopher().measure("longer word a b longer word a b")[top] == 0.83333


def spans(*found):
    return [(start, end, 1.0) for start, end in found]


def test_c4_gives_dolmas_spans():
    text = "Hello there my friend.\nClick here\nUse JavaScript { now\n"
    made = C4().measure(text)
    assert made == {
        "lines_with_no_ending_punctuation": spans((23, 34), (34, 55), (55, 55)),
        "lines_with_too_few_words": spans((23, 34), (55, 55)),
        "has_naughty_word": None,
        "has_javascript": 1,
        "has_lorem_ipsum": 0,
        "has_curly_brace": 1,
        "line_count": 4,
    }
    assert C4().measure("any javascripts")["has_javascript"] == 0
    assert C4("v2").measure("any javascripts")["has_javascript"] == 1


def test_c4_finds_words_whole_and_phrases_anywhere(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("bad\nvery bad thing\n")
    c4 = C4(naughty_words=str(path))
    assert c4.measure("This is BAD .")["has_naughty_word"] == 1
    assert c4.measure("badly, bad,")["has_naughty_word"] == 0
    assert c4.measure("avery bad things")["has_naughty_word"] == 1
    before = canonical(c4)
    path.write_text("worse\n")
    assert canonical(c4) != before
    with pytest.raises(ValueError, match="is no file"):
        C4(naughty_words=str(tmp_path / "none"))


def test_pii_gives_dolmas_spans():
    text = "mail foo@b.co\nnext 555-123-4567 and 10.1.2.3. Also (x@y.org)\n"
    assert Pii().measure(text) == {
        "email_address": spans((4, 14), (50, 61)),
        "phone_number": spans((18, 31)),
        "ip_address": spans((36, 44)),
        "doc_count": 4,
        "doc_frac": 1.68852,
    }
    assert Pii().measure("")["doc_frac"] == -1
    assert Pii().measure("999.1.1.1")["ip_address"] == spans((1, 9))
    assert Pii().measure("?" * 10_001 + "\na b@c.de \n")["doc_count"] == 0


def test_language_tells_english_from_german():
    english = Language().measure("This is a sentence\nthat anybody can read.")
    german = Language().measure("Das ist ein Satz, den nicht jeder lesen kann.")
    assert english["en"] > 0.8 > 0.2 > german["en"]
    assert english["en"] + english["not_en"] == pytest.approx(1)
    assert Language().measure(" \n") == {"en": 0, "not_en": 1}


def test_lengths_count_their_units():
    assert Lengths().measure("é b\nc") == {
        "num_characters": 5,
        "num_bytes": 6,
        "num_words": 3,
        "num_lines": 2,
    }
    assert Lengths().measure("")["num_lines"] == 0


@pytest.mark.parametrize("tagger", [Gopher(), Gopher("v2"), C4(), Pii(), Language(), Lengths()])
@settings(deadline=None)
@given(text=st.text(max_size=60) | st.text(alphabet="ab.\n1@ ?", max_size=60))
def test_every_column_is_there_and_every_span_lies_in_its_text(tagger, text):
    made = tagger.measure(text)
    assert made.keys() == tagger.COLUMNS.keys()
    for name, kind in tagger.COLUMNS.items():
        if kind == "spans":
            assert all(0 <= start <= end <= len(text) for start, end, _ in made[name])
        else:
            assert made[name] is None or math.isfinite(made[name])


@given(st.text(alphabet="ab\n\r ", max_size=30))
def test_paragraphs_are_the_whole_text(text):
    pieces = [text[start:end] for start, end in paragraphs(text)]
    assert "".join(pieces) == text
    assert all(piece.count("\n") == piece.endswith("\n") for piece in pieces)
