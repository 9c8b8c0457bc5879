import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.estimates import mean, ratio

numbers = st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(1, 1000)), min_size=2, max_size=20)


def test_a_ratio_is_of_sums_and_its_error_shrinks_with_items():
    value, error, number = ratio([1.0, 3.0], [2, 2])
    assert (value, error, number) == (1.0, pytest.approx(0.5), 2)
    assert ratio([1.0, 3.0] * 50, [2, 2] * 50).error < error / 5


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
def test_a_mean_has_the_usual_error(values):
    found = mean(values)
    assert found.value == pytest.approx(np.mean(values), abs=1e-9)
    expected = np.std(values, ddof=1) / math.sqrt(len(values))
    assert found.error == pytest.approx(expected, abs=1e-9)


@given(numbers, st.integers(2, 5))
def test_items_that_say_the_same_count_once_if_they_are_a_group(items, times):
    sums, counts = zip(*items, strict=True)
    alone = ratio(sums, counts)
    groups = [str(place) for place in range(len(items)) for _ in range(times)]
    again = [[x for x in each for _ in range(times)] for each in (sums, counts)]
    together = ratio(*again, groups)
    assert together == pytest.approx(alone, rel=1e-6, abs=1e-9)
    assert ratio(sums, counts, [""] * len(items)) == alone
    assert ratio(sums, counts, [str(place) for place in range(len(items))]) == alone


def test_one_group_has_no_error_to_tell():
    assert math.isnan(mean([1.0]).error)
    assert math.isnan(mean([1.0, 2.0], ["a", "a"]).error)
    with pytest.raises(ValueError, match="counts of 0 items sum to 0"):
        mean([])


def test_two_errors_to_each_side_hold_the_truth_as_often_as_they_should():
    rng, held, blind = np.random.default_rng(1), 0, 0
    for _ in range(400):
        sizes = rng.integers(1, 12, 40)
        groups = [str(place) for place, size in enumerate(sizes) for _ in range(size)]
        shift = np.repeat(rng.normal(size=len(sizes)), sizes)
        values = list(shift + rng.normal(size=len(groups)))
        found = mean(values, groups)
        held += abs(found.value) < 2 * found.error
        blind += abs(found.value) < 2 * mean(values).error
    assert held / 400 > 0.92
    assert blind / 400 < 0.75
