import math
import statistics

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.core.estimates import ratio
from pipeline.report import scores as scoring
from pipeline.report.scores import paired_difference
from pipeline.report.tables import Measure
from tests.report.conftest import (
    ANSWER_ROWS,
    TEXT_ROWS,
    as_table,
    make_scores,
    score,
)

RUNS = ["base", "sft", "dpo"]


def rows_of(model, values, step=1, task="t"):
    return [
        {"model": model, "step": step, "task": task, "id": id, "value": value}
        for id, value in values.items()
    ]


def texts_of(model, items):
    """Answers of a model that needs `bits` for each text of `num_bytes`."""
    return [
        {
            "model": model,
            "step": 1,
            "task": "t",
            "id": str(place),
            "value": bits / num_bytes,
            "num_bytes": num_bytes,
        }
        for place, (bits, num_bytes) in enumerate(items)
    ]


values = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(-10, 10), min_size=3, max_size=8)
sizes = st.integers(1, 10_000)
bits = st.floats(0, 1e5)


@settings(deadline=None, max_examples=50)
@given(values, st.floats(-5, 5), st.randoms())
def test_a_constant_gain_has_no_error_however_hard_the_items_and_whatever_the_order(
    hard, gain, random
):
    rows = rows_of("a", hard) + rows_of("b", {id: v + gain for id, v in hard.items()})
    random.shuffle(rows)
    (difference, error, _), number = paired_difference(as_table(rows, ANSWER_ROWS), "a", "b")
    assert difference == pytest.approx(gain, abs=1e-9)
    assert error == pytest.approx(0, abs=1e-9)
    assert number == len(hard)


@settings(deadline=None, max_examples=50)
@given(values, values)
def test_paired_difference_turns_its_sign_with_its_models(left, right):
    answers = as_table(rows_of("a", left) + rows_of("b", right), ANSWER_ROWS)
    shared = sorted(left.keys() & right.keys())
    if len(shared) < 2:
        return
    (difference, error, _), number = paired_difference(answers, "a", "b")
    (turned, same, _), count = paired_difference(answers, "b", "a")
    assert (turned, same, count) == pytest.approx((-difference, error, number))
    gains = [right[id] - left[id] for id in shared]
    assert difference == pytest.approx(statistics.mean(gains))
    assert error == pytest.approx(statistics.stdev(gains) / math.sqrt(number))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(bits, bits, sizes), min_size=2, max_size=30))
def test_the_change_of_bits_per_byte_is_the_difference_of_the_two_values(items):
    first = [(a, n) for a, _, n in items]
    second = [(b, n) for _, b, n in items]
    answers = as_table(texts_of("a", first) + texts_of("b", second), TEXT_ROWS)
    (difference, error, _), number = paired_difference(answers, "a", "b", weight="num_bytes")
    counts = [n for *_, n in items]
    before, after = (ratio([x for x, _ in each], counts)[0] for each in (first, second))
    _, expected, _ = ratio([b - a for a, b, _ in items], counts)
    assert difference == pytest.approx(after - before, rel=1e-9, abs=1e-6)
    assert error == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert number == len(items)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(bits, bits), min_size=2, max_size=20), sizes)
def test_texts_of_one_size_weigh_alike(items, size):
    rows = texts_of("a", [(a, size) for a, _ in items])
    answers = as_table(rows + texts_of("b", [(b, size) for _, b in items]), TEXT_ROWS)
    weighed = paired_difference(answers, "a", "b", weight="num_bytes")
    alike = paired_difference(answers, "a", "b")
    assert weighed[0] == pytest.approx(alike[0], rel=1e-6, abs=1e-6)


def test_items_of_one_group_are_one_draw_and_the_page_says_how_many_there_are():
    values = {name: float(place % 3) for place, name in enumerate("abcdef")}
    rows = rows_of("a", dict.fromkeys(values, 0.0)) + rows_of("b", values)
    for place, row in enumerate(rows):
        row["group"] = "xxxyyy"[place % 6]
    schema = ANSWER_ROWS.append(pa.field("group", pa.string()))
    found, number = paired_difference(as_table(rows, schema), "a", "b")
    assert (found.value, found.error, found.num_groups, number) == (1.0, 0.0, 2, 6)
    assert scoring.counted({"num_items": 1200, "num_groups": 31}) == "1,200 in 31 groups"
    assert scoring.counted({"num_items": 6, "num_groups": 6}) == 6
    assert scoring.counted({"num_items": 6}) == 6


def test_paired_difference_reads_the_last_step_and_keeps_tasks_apart():
    rows = rows_of("a", {"x": 9.0}, step=1) + rows_of("a", {"x": 1.0}, step=2)
    rows += rows_of("b", {"x": 3.0}, step=7) + rows_of("b", {"x": 5.0}, step=7, task="other")
    (difference, error, _), number = paired_difference(as_table(rows, ANSWER_ROWS), "a", "b")
    assert (difference, number) == (2.0, 1)
    assert math.isnan(error)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (rows_of("a", {"x": 1.0}) + rows_of("b", {"y": 1.0}), "no item in common"),
        (rows_of("a", {"x": 1.0}) * 2 + rows_of("b", {"x": 1.0}), "'x' of task 't' twice"),
    ],
)
def test_answers_that_cannot_be_paired_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        paired_difference(as_table(rows, ANSWER_ROWS), "a", "b")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([(8.0, 4)], [(8.0, 5)], "num_bytes 4 for 'a' and 5 for 'b'; they must be equal"),
        ([(8.0, 1), (8.0, -1)], [(8.0, 1), (8.0, -1)], "sum to 0; it must be over 0"),
    ],
)
def test_texts_that_cannot_be_weighed_are_refused(first, second, message):
    answers = as_table(texts_of("a", first) + texts_of("b", second), TEXT_ROWS)
    with pytest.raises(ValueError, match=message):
        paired_difference(answers, "a", "b", weight="num_bytes")


def test_every_change_on_the_page_is_the_value_minus_the_value_before(inputs):
    compared = scoring.of_kind(inputs["scores"], "stages")
    table = scoring.stages_table(compared, RUNS)
    assert table.heads[1:] == ["base", "sft", "change from base", "dpo", "change from sft", "items"]
    assert len(table.rows) == 3
    for row in table.rows:
        _, base, sft, first, dpo, second, items = row
        assert first.value == pytest.approx(sft.value - base.value)
        assert second.value == pytest.approx(dpo.value - sft.value)
        assert items == 200


def test_models_are_compared_with_the_one_before(inputs):
    table = scoring.compared(inputs["scores"]["held-out answers"], RUNS)
    changes = {row[2]: row[4] for row in table.rows}
    assert changes["base"] is None
    assert changes["sft"].value == pytest.approx(-0.4, abs=0.05)
    assert changes["sft"].verdict == "better"
    assert changes["dpo"].verdict == "no clear change"


@settings(deadline=None, max_examples=50)
@given(values, st.floats(-1, 1))
def test_better_and_worse_are_more_than_two_standard_errors_away(noise, gain):
    rows = rows_of("a", dict.fromkeys(noise, 0.0))
    rows += rows_of("b", {id: gain + v for id, v in noise.items()})
    made = scoring.change(as_table(rows, ANSWER_ROWS), "t", "preferred_per_byte", "a", "b")
    assume(abs(abs(made.value) - 2 * made.standard_error) > 1e-9)
    clear = abs(made.value) > 2 * made.standard_error
    expected = ("better" if made.value > 0 else "worse") if clear else "no clear change"
    assert made.verdict == expected


def test_models_that_were_asked_different_items_have_no_change(tmp_path):
    rows = rows_of("base", {"x": 1.0}) + rows_of("sft", {"y": 1.0})
    measured = [score(m, 1, "t", "preferred_per_byte", 1.0) for m in ("base", "sft")]
    scores = make_scores(tmp_path, "rank", measured, rows)
    ((_, _, _, change, items),) = scoring.stages_table({"pairs": scores}, RUNS).rows
    assert change is None
    assert items is None


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([score("a", 1, "t", "accuracy", 0.5)], "choice"),
        ([score("a", n, "t", "bits_per_byte", 0.5) for n in (1, 2)], "series"),
        ([score(m, 1, "t", "bits_per_byte", 0.5) for m in "ab"], "stages"),
        ([score("a", 1, "t", "bits_per_byte", 0.5)], "alone"),
    ],
)
def test_scores_are_shown_by_what_they_compare(rows, kind):
    assert scoring.kind_of(rows) == kind


def test_an_accuracy_that_guessing_explains_is_marked(inputs):
    table = scoring.choice_table(inputs["scores"]["held-out functions"], RUNS)
    assert len(table.rows) == 2
    row = table.rows[0]
    assert row[:3] == ["functions", 400, 0.25]
    assert row[-1] == "base at chance, sft above chance, dpo above chance"
    every = scoring.multiple_choice(inputs["scores"]["held-out functions"], RUNS)
    assert {row[1] for row in every.rows} == {"accuracy", "accuracy raw"}


@pytest.mark.parametrize(
    ("accuracy", "num_items", "verdict"),
    [
        (0.0, 3, "at chance"),
        (0.0, 100, "below chance"),
        (0.3, 100, "at chance"),
        (0.3, 1000, "above chance"),
        (math.nan, 100, ""),
    ],
)
def test_the_error_of_guessing_decides_what_is_chance(accuracy, num_items, verdict):
    assert scoring.against_chance(Measure(accuracy, 0.0), 0.25, num_items) == verdict


def test_chance_is_the_mean_over_items_with_different_numbers_of_choices():
    answers = pa.table({"task": ["t", "t", "u"], "logprobs": [[0.0] * 4, [0.0] * 2, [0.0] * 5]})
    assert scoring.chance_levels(answers) == {"t": 0.375, "u": 0.2}
    assert scoring.chance_levels(pa.table({"task": ["t"]})) == {}


def test_a_series_is_in_the_order_of_steps():
    rows = [score("m", step, "t", "bits_per_byte", 1 / step) for step in (30, 10, 20)]
    (series,) = scoring.over_steps(rows, "bits_per_byte").values()
    assert [(row["step"], row["value"]) for row in series] == [(n, 1 / n) for n in (10, 20, 30)]


@given(st.sets(st.integers(0, 10**6), min_size=1, max_size=60))
def test_a_long_series_is_told_by_few_steps_with_both_ends(steps):
    rows = [score("m", step, "t", "bits_per_byte", 1.0) for step in steps]
    heads = scoring.series_table(rows).heads[1:-1]
    shown = [int(head.removeprefix("step ").replace(",", "")) for head in heads]
    assert shown == sorted(set(shown))
    assert len(shown) == min(len(steps), 6)
    assert {min(steps), max(steps)} <= set(shown) <= steps
