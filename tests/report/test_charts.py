import math
import re
import xml.etree.ElementTree as ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report.charts import (
    _Axis,
    escaped,
    line_chart,
    linear_ticks,
    log_ticks,
    running_mean,
    thinned,
)

numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(st.text(max_size=40), st.lists(st.tuples(numbers, numbers), max_size=20)),
    st.text(max_size=50),
    st.booleans(),
    st.booleans(),
    numbers,
)
def test_any_series_under_any_name_is_well_formed_svg(series, title, log_x, log_y, spread):
    bands = {name: [(x, y - spread, y + spread) for x, y in of] for name, of in series.items()}
    svg = line_chart(series, bands=bands, title=title, log_x=log_x, log_y=log_y)
    ElementTree.fromstring(svg)
    places = re.findall(r' (?:x1|x2|y1|y2|cx|cy|d|points)="([^"]*)"', svg)
    assert not any("nan" in place or "inf" in place for place in places)


def test_a_band_lies_inside_the_drawing():
    svg = line_chart({"a": [(0, 1), (1, 2)]}, bands={"a": [(0, -9, 9), (1, 1, 3)]}, height=300)
    (outline,) = re.findall(r'<polygon points="([^"]*)"', svg)
    assert all(0 <= float(point.split(",")[1]) <= 300 for point in outline.split())
    assert len(outline.split()) == 4


@settings(deadline=None)
@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_few_and_inside_the_axis(low, length):
    high = low + length
    ticks = linear_ticks(low, high)
    assert 1 <= len(ticks) <= 9
    slack = 1e-6 * max(abs(low), abs(high))
    assert all(low - slack <= tick <= high + slack for tick in ticks) or low == high


@settings(deadline=None)
@given(st.floats(1e-9, 1e9), st.floats(1.1, 1e9))
def test_ticks_of_a_logarithmic_axis_are_inside_it(low, ratio):
    ticks = log_ticks(low, low * ratio)
    assert 1 <= len(ticks) <= 8
    assert all(low * 0.999 <= tick <= low * ratio * 1.001 for tick in ticks)


def test_a_gap_breaks_the_line():
    svg = line_chart({"a": [(0, 1), (1, 2), (2, math.nan), (3, 1), (4, 2)]})
    (path,) = re.findall(r'<path d="([^"]*)"', svg)
    assert path.count("M") == 2


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=3000))
def test_thinning_leaves_few_points_and_stays_in_their_range(points):
    few = thinned(points, 100)
    assert len(few) <= 100
    assert min(y for _, y in points) - 1e-9 <= min(y for _, y in few)
    assert max(y for _, y in few) <= max(y for _, y in points) + 1e-9


@settings(deadline=None)
@given(st.text())
def test_escaped_text_is_no_markup(text):
    shown = escaped(text)
    assert not set("<>\"'") & set(shown)
    ElementTree.fromstring(f"<p>{shown}</p>")


@settings(deadline=None)
@given(st.floats(-5, 5), st.floats(-5, 5), st.integers(1, 60), st.integers(0, 20))
def test_a_running_mean_leaves_a_straight_line_as_it_is(start, slope, number, reach):
    points = [(float(x), start + slope * x) for x in range(number)]
    for (_, mean), (_, y) in zip(running_mean(points, reach), points, strict=True):
        assert math.isclose(mean, y, abs_tol=1e-9)


def test_a_running_mean_keeps_gaps():
    means = running_mean([(0, 2.0), (1, math.nan), (2, 8.0), (3, 1.0)], 1)
    assert math.isnan(means[1][1])
    assert means[2] == (2, 4.5)


def test_an_axis_of_two_numbers_beside_each_other_has_a_place_for_both():
    low, high = 4.0, math.nextafter(4.0, 5.0)
    axis = _Axis(low, high, True, 0.0, 100.0)
    assert all(0 <= axis(each) <= 100 for each in (low, high))
