from hypothesis import given
from hypothesis import strategies as st

from pipeline.data import text as module
from pipeline.data.taggers import SpanList
from pipeline.data.text import lines, pieces

TEXTS = st.text(st.sampled_from("ab  \n\n\r\t\x0b\x1c\x85\u2028\u00a0é漢")).map(lambda t: t * 3)


@given(TEXTS, st.integers(1, 9))
def test_pieces_make_the_text_and_begin_where_something_ends(text, size):
    parts = list(pieces(text, size))
    assert "".join(parts) == text
    for before, after in zip(parts, parts[1:], strict=False):
        assert len(before) > size and not before[-1].isspace() and after[0] in " \n"


@given(TEXTS, st.integers(1, 9), st.booleans())
def test_lines_are_those_of_python(text, size, keepends):
    real, module.PIECE = module.PIECE, size
    try:
        assert list(lines(text, keepends)) == text.splitlines(keepends)
    finally:
        module.PIECE = real


def test_a_list_of_spans_is_one_of_tuples():
    rows = [(0, 3, 0.5), (3, 9, 1.0)]
    made = SpanList(rows)
    assert made == rows and len(made) == 2 and made[1] == rows[1] and made[1:] == rows[1:]
    assert made.scored([0.25, 0.0]) == [(0, 3, 0.25), (3, 9, 0.0)] and made != rows[:1]
