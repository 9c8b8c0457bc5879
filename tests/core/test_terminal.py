import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.terminal import excerpt, one_line, size, visible


def acts(character):
    """Whether a terminal does something else with it than show it."""
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}


@given(st.text(st.characters()))
def test_nothing_visible_acts(text):
    assert not any(acts(each) for each in visible(text))
    assert not any(acts(each) for each in visible(text, keep_lines=True) if each != "\n")


def test_signs_stand_for_what_acts():
    assert visible("a\nb\tc") == "a⏎b⇥c"
    assert visible("\x1b[31m\x07") == r"\x1b[31m\x07"
    assert visible("user\u202egnp.exe\u2028") == r"user\u202egnp.exe\u2028"
    assert visible("\U000e0041\u200d") == r"\U000e0041\u200d"
    assert visible("[red]é 你好[/]") == "[red]é 你好[/]"


def test_a_quantity_of_bytes_has_two_places_or_more():
    sizes = (0, 999, 1000, 9_949, 9_951, 34e6, 999_499, 999_501, 5.6e9, 1.1e12, 2e18)
    assert [size(each) for each in sizes] == [
        *("0 B", "999 B", "1.0 kB", "9.9 kB", "10 kB", "34 MB", "999 kB", "1.0 MB"),
        *("5.6 GB", "1.1 TB", "2000 PB"),
    ]


@given(st.text(max_size=300), st.integers(1, 5), st.integers(1, 50))
def test_an_excerpt_is_short_shows_all_that_acts_and_says_what_is_left_out(text, lines, most):
    said = excerpt(text, lines, most, rest="the log")
    head, _, more = said.rpartition("\n… and ")
    head = head if more.endswith("in the log") else said
    assert len(head.split("\n")) <= lines
    assert not any(acts(each) for each in head if each != "\n")
    if len(text.split("\n")) <= lines and len(text) <= most:
        assert said == visible(text.rstrip(), keep_lines=True)


def test_one_line_is_one():
    assert one_line("a\n b\r\x1b[2J" + "c" * 900, 20) == "a b \\x1b[2Jcccccccc…"
