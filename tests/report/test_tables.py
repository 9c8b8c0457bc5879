import math
import statistics

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report import tables
from pipeline.report.tables import Measure, paired_difference
from tests.report.conftest import ANSWER_ROWS, as_table, score


def rows_of(model, values, step=1, task="t"):
    return [
        {"model": model, "step": step, "task": task, "id": id, "value": value}
        for id, value in values.items()
    ]


values = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(-10, 10), min_size=3, max_size=8)


@settings(deadline=None, max_examples=50)
@given(values, st.floats(-5, 5), st.randoms())
def test_a_constant_gain_has_no_error_however_hard_the_items_and_whatever_the_order(
    hard, gain, random
):
    rows = rows_of("a", hard) + rows_of("b", {id: v + gain for id, v in hard.items()})
    random.shuffle(rows)
    difference, error, number = paired_difference(as_table(rows, ANSWER_ROWS), "a", "b")
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
    difference, error, number = paired_difference(answers, "a", "b")
    assert paired_difference(answers, "b", "a") == pytest.approx((-difference, error, number))
    gains = [right[id] - left[id] for id in shared]
    assert difference == pytest.approx(statistics.mean(gains))
    assert error == pytest.approx(statistics.stdev(gains) / math.sqrt(number))


def test_paired_difference_reads_the_last_step_and_keeps_tasks_apart():
    rows = rows_of("a", {"x": 9.0}, step=1) + rows_of("a", {"x": 1.0}, step=2)
    rows += rows_of("b", {"x": 3.0}, step=7) + rows_of("b", {"x": 5.0}, step=7, task="other")
    difference, error, number = paired_difference(as_table(rows, ANSWER_ROWS), "a", "b")
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


def test_runs_stand_in_the_order_of_training_not_of_their_names(inputs):
    assert tables.ordered_runs(inputs["training"]) == ["base", "sft", "dpo"]


def test_models_are_compared_with_the_one_before(inputs):
    table = tables.compared(inputs["scores"]["held-out answers"], ["base", "sft", "dpo"])
    changes = {row[2]: (row[4], row[6]) for row in table.rows}
    assert changes["base"] == (None, "")
    assert changes["sft"][0].value == pytest.approx(-0.4, abs=0.05)
    assert changes["sft"][1] == "better"
    assert changes["dpo"][1] == "no clear change"


def test_an_accuracy_within_two_standard_errors_of_guessing_is_marked(inputs):
    table = tables.multiple_choice(inputs["scores"]["held-out functions"], ["base", "sft", "dpo"])
    marks = {(row[0], row[2]): (row[4], row[5]) for row in table.rows}
    assert marks["functions", "base"] == (0.25, "at chance")
    assert marks["functions", "sft"] == (0.25, "")
    assert len(table.rows) == 6


@pytest.mark.parametrize(("num_items", "marked"), [(3, True), (100, False)])
def test_no_right_answer_out_of_few_is_still_chance(num_items, marked):
    assert tables.at_chance(Measure(0.0, 0.0), 0.25, num_items) is marked


def test_chance_is_the_mean_over_items_with_different_numbers_of_choices():
    answers = pa.table({"task": ["t", "t", "u"], "logprobs": [[0.0] * 4, [0.0] * 2, [0.0] * 5]})
    assert tables.chance_levels(answers) == {"t": 0.375, "u": 0.2}
    assert tables.chance_levels(pa.table({"task": ["t"]})) == {}


def test_overlap_is_the_share_of_documents_hit(inputs):
    assert tables.overlap(inputs["overlaps"]).rows == [
        ["code with held-out items", 4, 1, tables.Share(0.25), tables.Share(0.25)]
    ]


def test_a_series_is_in_the_order_of_steps():
    rows = [score("m", step, "t", "bits_per_byte", 1 / step) for step in (30, 10, 20)]
    assert tables.over_steps(rows, "bits_per_byte") == {
        "t": [(10.0, 1 / 10), (20.0, 1 / 20), (30.0, 1 / 30)]
    }
