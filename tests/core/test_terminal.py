import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.terminal import visible


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
