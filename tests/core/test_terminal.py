import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.terminal import plain


@given(st.text())
def test_nothing_that_moves_a_cursor_or_turns_text_around_is_left(text):
    shown = plain(text)
    assert all(unicodedata.category(each)[0] != "C" for each in shown)
    assert "\u2028" not in shown and "\u2029" not in shown


def test_what_is_escaped_can_still_be_read():
    assert plain("a\n\x1b[31mred\u202eevil\U000e0041 é漢") == (
        r"a\n\x1b[31mred\u202eevil\U000e0041 é漢"
    )
