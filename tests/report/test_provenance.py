import json

import pytest

import steps  # noqa: F401  registers every step
from pipeline.report.provenance import provenance_tree, shown_value
from pipeline.store.finding import find_result
from pipeline.store.lineage import lineage
from steps.graph.defaults import chosen_arguments
from tests.steps.made import graph, run


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    return run(graph(folder), folder / "workspace").results


def tree(results, name="tokens"):
    made = lineage(results, find_result(results, name))
    return provenance_tree(made, lambda each: chosen_arguments(each.step, each.args))


def test_a_tree_goes_from_a_result_down_to_its_sources(results):
    lines = tree(results)
    text = "\n".join(lines)
    assert lines[0].startswith("tokens · Tokenize 001 · ")
    assert "├─ documents: kept · Filter 003" in text
    assert "   vocab_size = 300" in text
    assert "web: licence ODC-BY, made here" in text
    assert "2 sources: licences ODC-BY, all rights" in text
    assert "fingerprint " in text and "8 documents" in text
    assert text.count("documents[0]: web · Ingest") == 1 and "kept · see above" in text
    assert "[1] Python 3." in text and "cores" in text
    assert lines[-1].startswith("7 results, ")


def test_text_of_data_cannot_reach_the_terminal_as_it_is(results):
    text = "\n".join(tree(results))
    assert "\x1b" not in text and r"all rights\x1b[31m reserved" in text


def test_a_result_of_a_stranger_is_told_as_far_as_it_can_be(tmp_path):
    results = run(graph(tmp_path), tmp_path / "w").results
    folder = results.folder(find_result(results, "both"))
    strange = {"seconds": "long", "started": 1e300, "packages": [1], "git": 5, "hardware": "big",
               "code": [], "energy_kwh": 0.25, "host": None}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(strange))
    form = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(form | {"sources": 7, "licences": [1]}))
    lines = tree(results)
    assert any("both · Concat 001" in each and "0.25 kWh" in each for each in lines)
    assert "0.25 kWh in 7 of them (by " in lines[-1]
    known = {"energy_kwh": 0.25, "devices_not_measured": 1, "updates_not_measured": 4}
    (folder / "run.json").write_text(json.dumps(known))
    assert "0.25 kWh without 1 GPU and 4 updates" in "\n".join(tree(results))


def test_a_value_is_shown_as_it_might_be_written():
    value = {"is": "Linear", "version": "001", "peak_lr": 0.1, "of": [{"is": "Pii"}, None, "é"]}
    assert shown_value(value) == 'Linear(peak_lr=0.1, of=[Pii(), null, "é"])'
