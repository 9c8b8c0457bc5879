import json
import shutil

import pytest

import steps  # noqa: F401  registers every step
from pipeline.store.finding import find_result
from pipeline.store.lineage import lineage
from tests.steps.made import graph, run


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lineage")
    return run(graph(folder), folder / "workspace").results


def test_a_result_stands_after_all_that_it_was_made_of(results):
    made = lineage(results, find_result(results, "tokens"))
    names = [each.name for each in made]
    assert names[-1] == "tokens" and len(names) == len(set(names)) == 7
    for place, each in enumerate(made):
        assert set(each.inputs.values()) <= {other.id for other in made[:place]}
    by_name = {each.name: each for each in made}
    assert list(by_name["both"].inputs) == ["documents[0]", "documents[1]"]
    assert by_name["kept"].args["rules"][0]["seed"] == "x"
    assert "documents" not in by_name["kept"].args
    assert by_name["web"].sources["source"]["licence"] == "ODC-BY"
    assert by_name["web"].manifest["num_documents"] == 4
    assert by_name["web"].record["hardware"]["cores"] >= 1


def test_a_linked_result_tells_how_the_earlier_one_was_made(tmp_path):
    first = graph(tmp_path)
    results = run(first, tmp_path / "w").results
    # another limit gives another key above, and the same content
    first["web"]["shard_bytes"] = 1 << 22
    run(first, tmp_path / "w", "second")
    made = {each.name: each for each in lineage(results, find_result(results, "second:tokens"))}
    earlier = {each.name: each for each in lineage(results, find_result(results, "first:tokens"))}
    assert made["both"].linked_from == earlier["both"].id
    assert made["both"].record["seconds"] == earlier["both"].record["seconds"]
    assert made["web"].linked_from is None


def test_what_is_gone_is_still_named(tmp_path):
    results = run(graph(tmp_path), tmp_path / "w").results
    id = find_result(results, "both")
    shutil.rmtree(results.folder(id))
    made = {each.id: each for each in lineage(results, find_result(results, "tokens"))}
    assert made[id].name == "both" and not made[id].is_here and not made[id].inputs


def test_keys_that_name_each_other_end(tmp_path):
    results = run(graph(tmp_path), tmp_path / "w").results
    one, other = (find_result(results, name) for name in ("both", "kept"))
    for name, below in ((one, other), (other, one)):
        key = {"args": {"documents": {"step": below}}}
        (results.folder(name) / "key.json").write_text(json.dumps(key))
    assert {each.id for each in lineage(results, one)} == {one, other}
