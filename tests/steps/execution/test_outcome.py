from steps.execution.outcome import Outcome, outcome_table


def test_a_table_has_a_line_a_step_and_a_sum():
    lines = outcome_table(
        [
            Outcome("evil\x1b[2J", "ok", 1.25),
            Outcome("b", "failed", 0.75),
            Outcome("c", "not run", None),
            Outcome("d", "cached", None),
        ]
    ).split("\n")
    assert lines[1].startswith(r"evil\x1b[2J") and lines[1].endswith("1.2  ok")
    assert lines[3].split() == ["c", "not", "run"]
    assert lines[-1] == "4 steps, 2.0 s of work: 1 ok, 1 failed, 1 not run, 1 cached"
