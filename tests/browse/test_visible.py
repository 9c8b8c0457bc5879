import io
import math

from hypothesis import given
from hypothesis import strategies as st

from pipeline.browse.terminal import print_view
from pipeline.browse.views import Bars, Bytes, Facts, Grid, Marked, Plot, Prose, View
from pipeline.browse.visible import as_age, as_number, as_seconds, bars, curve
from pipeline.core.terminal import shortened, size
from tests.core.test_terminal import acts


@given(st.text(st.characters(), max_size=400), st.text(st.characters(), max_size=40))
def test_no_text_of_data_reaches_the_terminal_raw_or_as_markup(text, name):
    view = View(
        name,
        [
            Facts({name: text}),
            Grid(name, [name, "b"], [[text, 1], [[text], None]]),
            Prose(name, text),
            Prose(name, Marked([(text, True), (text, False)])),
            Plot(name, [1.0, 2.0], 0.0, 1.0),
        ],
    )
    out = io.StringIO()
    print_view(view, file=out)
    assert not any(acts(each) for each in out.getvalue() if each != "\n")


def test_markup_in_data_is_shown_as_it_is():
    out = io.StringIO()
    print_view(
        View("t", [Grid("g", ["a"], [["[bold red]x[/] [link=http://e]y[/link]"]])]), file=out
    )
    assert "[bold red]x[/] [link=http://e]y[/link]" in out.getvalue()


def test_a_view_is_json_as_well():
    view = View("t", [Facts({"a": Bytes(5), "b": math.nan}), Grid("g", ["x"], [[Bars([1, 2])]])])
    assert view.to_json() == {"title": "t", "a": 5, "b": None, "g": [{"x": [1, 2]}]}


def test_numbers_read_as_people_write_them():
    assert [size(n) for n in (0, 999, 1000, 9_120_334, 123_456_789, 999_999)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "9.1 MB",
        "123 MB",
        "1.0 MB",
    ]
    assert [as_number(n) for n in (1234567, 0.5, 3.0, 1.23456e-9, math.inf)] == [
        "1,234,567",
        "0.5",
        "3",
        "1.235e-09",
        "inf",
    ]
    assert [as_seconds(n) for n in (0.25, 45, 150, 7300, 200000)] == [
        "0.2 s",
        "45 s",
        "2 min",
        "2 h",
        "2 d",
    ]
    assert as_age(2000.0, now=1000.0) == "0.0 s"  # a clock that was put back
    assert shortened("abcdef", 4) == "abc…" and shortened("abcd", 4) == "abcd"


@given(st.lists(st.integers(0, 1000), max_size=20))
def test_a_bar_is_empty_only_where_the_count_is(counts):
    assert [each == " " for each in bars(counts)] == [count == 0 for count in counts]


@given(st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), max_size=300))
def test_a_curve_fits_its_frame_and_touches_its_ends(values):
    lines = curve(values, width=20, height=5)
    finite = [each for each in values if math.isfinite(each)]
    assert len(lines) == (5 if finite else 0)
    assert all(len(line) <= 20 for line in lines)
    if finite and len(values) <= 40:
        assert any(ord(each) > 0x2800 for each in lines[0])
        if min(finite) < max(finite):
            assert any(ord(each) > 0x2800 for each in lines[-1])
