import os

import pytest

from pipeline.store.finding import NotFound, find_result


@pytest.fixture
def named(maker):
    """Two runs of a step `kept`, the first of which is the latest."""
    earlier, kept = maker.documents(1), maker.documents(2)
    maker.run("second", kept=earlier)
    maker.run("first", kept=kept)
    (maker.results.root / "latest").symlink_to(os.path.join("runs", "first"))
    return maker.results, kept, earlier


def test_a_result_is_found_by_run_and_step_by_step_and_by_the_beginning_of_its_id(named):
    results, kept, earlier = named
    digits = kept.rpartition("-")[2]
    for name in ("kept", "first:kept", "latest:kept", kept, kept[:18], digits[:8], digits):
        assert find_result(results, name) == kept
    assert find_result(results, "second:kept") == earlier
    gone = "Make-001-" + "0" * 32
    assert find_result(results, gone) == gone


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("frist:kept", "'frist' is no run; did you mean 'first'"),
        ("first:kpet", "run first has no step 'kpet'; did you mean 'kept'"),
        ("kpet", "no step of the latest run and no id; did you mean 'kept'"),
        ("Make-001-", "'Make-001-' begins 2 ids: Make-001-"),
        ("abc", "no id"),
    ],
)
def test_what_is_not_found_is_told_with_the_nearest_name(named, name, message):
    with pytest.raises(NotFound, match=message):
        find_result(named[0], name)


def test_a_step_of_an_earlier_run_is_told_with_that_run(named, maker):
    maker.run("second", kept=named[2], gone=named[2])
    with pytest.raises(NotFound, match="the latest run has no step 'gone'; second:gone is one"):
        find_result(named[0], "gone")
