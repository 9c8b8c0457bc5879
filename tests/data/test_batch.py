"""Many texts measured at once are measured as each would be alone, in plain Python."""

import math
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.data.batch import Texts, as_array, rounded
from pipeline.data.compiled import characters
from pipeline.data.taggers.c4 import C4
from pipeline.data.taggers.gopher import Gopher
from pipeline.data.taggers.lengths import Lengths
from pipeline.data.taggers.pii import Pii
from tests.data import plain_taggers as plain

LISTED = ["bad", "kök", "σας", "kiss", "very bad thing", "a b", "İi x", "\U0001f595"]
SPACES = "\t\n\r\x0b\x1c\x1f \x85\xa0\u1680\u2003\u2028\u3000"
PIECES = [
    *"abkKABC019.,;:?!\"'()#*-_@{\x00éÉßΣσς\u212aİıſ\u2026\u0663\U0001d7d8\U0001f595\u0301中",
    *SPACES,
    *("\n", " ") * 6,
    *(
        "the ",
        "and ",
        "be\0 ",
        "of ",
        "lorem ipsum ",
        "Lorem\x00Ipsum",
        "JavaScript ",
        "javascripts",
    ),
    *("a.b@c.org ", "a@b@c.org\n", "@c.de)  ", ".@.", "x@y.z. ", "(@b.c ", ". @a..b, "),
    *(" (206) 555-0123", " 2065550123", "206.555 0123", "1.2.3.4", "256.1.1.299", "999.1.1.1"),
    *(
        "BAD ",
        "very bad thing",
        "a B",
        "\u03a3\u03b1\u03a3 ",
        "\u212aiss ",
        "k\u00d6k ",
        "one two\n" * 3,
    ),
]
TEXT = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)


@pytest.fixture(scope="module")
def taggers(tmp_path_factory):
    """Pairs of a tagger and the function that says what it must measure."""
    path = tmp_path_factory.mktemp("lists") / "list.txt"
    path.write_text("\n".join(LISTED), encoding="utf-8")
    listed = [each.lower() for each in LISTED]
    return [
        (Gopher(), plain.gopher),
        (Gopher("v2"), lambda text: plain.gopher(text, "v2")),
        (C4(naughty_words=str(path)), lambda text: plain.c4(text, "v1", listed)),
        (C4("v2"), lambda text: plain.c4(text, "v2")),
        (Pii(), plain.pii),
        (Lengths(), plain.lengths),
    ]


def require_equal(taggers, texts):
    batch = Texts.of(pa.array(texts, pa.string()))
    assert list(batch) == texts
    for tagger, expected in taggers:
        made = tagger.measure_all(batch)
        assert list(made) == list(tagger.COLUMNS)
        columns = {name: as_array(column).to_pylist() for name, column in made.items()}
        for place, text in enumerate(texts):
            found = {name: column[place] for name, column in columns.items()}
            wanted = {
                name: [dict(zip(("start", "end", "score"), s, strict=True)) for s in value]
                if isinstance(value, list)
                else value
                for name, value in expected(text).items()
            }
            assert found == wanted, (tagger, text)


@settings(deadline=None)
@given(st.lists(TEXT, max_size=4))
@example(["", "\n", "\n\n", " ", "\u3000\u3000", ""])
@example(["\r\n" * 5, " \n \n ", "\r\n\r\n"])  # blank lines that repeat, and no word
@example(["....@....a.b c", "(@b.c d", ")@x.y z", "a@b.c.  \n @d.e\n", "a@.. b"])
def test_a_batch_is_measured_as_each_text_alone_in_plain_python(taggers, texts):
    require_equal(taggers, texts)


@settings(deadline=None)
@given(st.lists(st.text(alphabet=".@,( )\nab", max_size=12), max_size=20))
def test_addresses_are_found_as_the_expression_finds_them(texts):
    require_equal([(Pii(), plain.pii)], texts)


@settings(deadline=None)
@given(st.lists(st.text(alphabet="0129.-() \n\u0663", max_size=24), max_size=20))
def test_numbers_are_found_as_the_expressions_find_them(texts):
    require_equal([(Pii(), plain.pii)], texts)


@settings(deadline=None)
@given(st.lists(st.text(max_size=40), max_size=4))
def test_any_text_is_measured_as_in_plain_python(taggers, texts):
    require_equal(taggers, texts)


def test_long_words_and_many_repeats_are_measured_as_in_plain_python(taggers):
    rng = random.Random(1)
    words = [" ".join(rng.choices("abcdef", k=n)) for n in (3, 40, 500, 3000)]
    lines = ["\n".join(rng.choices(["one two three", "", "- four", "five…"], k=300))]
    require_equal(taggers, [*words, *lines, "x" * 5000 + " y", "?" * 10_001 + "\na b@c.de \n"])


@pytest.mark.slow
def test_thirty_thousand_hostile_texts_are_measured_as_in_plain_python(taggers):
    rng = random.Random(2)
    for _ in range(300):
        texts = ["".join(rng.choices(PIECES, k=rng.randint(0, 60))) for _ in range(100)]
        require_equal(taggers, texts)


def test_every_character_is_of_the_kinds_that_python_says():
    table = characters.kind_table()
    kinds = {characters.SPACE: "isspace", characters.ALPHA: "isalpha"}
    kinds[characters.DECIMAL] = "isdecimal"
    for point in range(0x110000):
        for kind, test in kinds.items():
            known = bool(table[point] & kind) if point < len(table) else False
            if known != getattr(chr(point), test)():
                raise AssertionError((hex(point), test))
        # what C4 takes for granted when it looks for characters that have a lower case
        if chr(point) != chr(point).lower():
            assert point < len(table) and (chr(point).isupper() or chr(point).istitle())


def test_a_slice_of_a_column_is_measured_alone():
    whole = pa.array(["one", "zwei é", "", "three\n"])
    for kind in (pa.string(), pa.large_string()):
        texts = Texts.of(whole.cast(kind).slice(1, 2))
        assert list(texts) == ["zwei é", ""]
        assert Lengths().measure_all(texts)["num_bytes"].tolist() == [7, 0]
    assert len(Texts.of(whole.slice(4))) == 0


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), min_size=1))
@example([0.000005, 2.5e-6, 1.000015, 0.285715, 1e22, 0.1 + 0.2, 123456.123455])
def test_values_are_rounded_as_python_rounds_them(values):
    values += [each / 200_000 for each in range(-50, 50)] + [n / 7 for n in range(50)]
    values = [each for each in values if math.isfinite(each * 1e5)]
    assert rounded(np.array(values)).tolist() == [round(each, 5) for each in values]
