"""What earlier runs left, read with no trust in it; and the first causes of a difference."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.earlier import Cost, Earlier, first_causes
from pipeline.store.results import Results, result_id
from tests.store.test_replacing import key_of, make


@pytest.fixture
def results(tmp_path):
    made = Results(tmp_path)
    first = make(made, key_of("First"), "a")
    make(made, key_of("Second", first), "b")
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "steps.json").write_text(json.dumps({"one": first}))
    return made


@pytest.mark.parametrize("damage", ["", "{", "[]", "[" * 100_000, '{"one": 1}', '{"one": "../x"}'])
@pytest.mark.parametrize("name", ["runs/x/steps.json", "key.json", "run.json", "manifest.json"])
def test_damaged_files_are_as_if_they_were_not_there(results, tmp_path, damage, name):
    id = result_id(key_of("First"))
    place = results.folder(id) / name if "/" not in name else tmp_path / name
    place.write_text(damage)
    earlier = Earlier(results)
    key = key_of("First", "x")
    assert earlier.nearest("one", "x", key) in (None, id)
    assert earlier.code(id) is None or name != "run.json"
    assert earlier.cost(id).seconds is None and earlier.key("../x") is None
    assert (
        isinstance(earlier.like(key), bool) and earlier.unfinished("First-001-" + "0" * 32) is None
    )


def test_what_a_linked_result_took_is_what_the_earlier_one_did(results):
    id = make(results, key_of("Third"), "a", seconds=4)
    linked = key_of("Third", id)
    results.link(id, result_id(linked), linked, "c" * 64)
    assert Earlier(results).cost(result_id(linked)) == Cost(4.0, 1)


def test_a_key_is_like_another_that_reads_other_results(results):
    earlier = Earlier(results)
    second = key_of("Second", "First-001-" + "0" * 32)
    assert earlier.like(second)
    assert not earlier.like({**second, "version": "002"})
    assert not earlier.like(key_of("Second"))


@given(st.data())
def test_every_first_cause_is_a_difference_of_its_own_and_each_is_found(data):
    """Two graphs of one shape; values differ in a random set of steps."""
    number = data.draw(st.integers(1, 6))
    reads = [data.draw(st.sets(st.integers(0, n - 1))) if n else set() for n in range(number)]
    values = [data.draw(st.tuples(st.booleans(), st.booleans())) for _ in range(number)]
    keys = {}

    def built(side):
        ids = []
        for n in range(number):
            key = {**key_of(f"S{n}", *(ids[r] for r in sorted(reads[n]))), "value": values[n][side]}
            ids.append(result_id(key))
            keys[ids[-1]] = key
        return ids[-1]

    above, todo = set(), [number - 1]
    while todo:
        step = todo.pop()
        above.add(step)
        todo += reads[step]
    causes = first_causes(built(0), built(1), keys.get)
    found = {int(cause.steps[-1][1].split("-")[0][1:]) for cause in causes}
    assert found == {n for n in above if values[n][0] != values[n][1]}
    assert all(cause.change.path == "value" for cause in causes)
