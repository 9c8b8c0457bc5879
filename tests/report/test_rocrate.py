import base64
import json
import shutil
from hashlib import sha256
from urllib.parse import unquote

import pytest

import steps  # noqa: F401  registers every step
from pipeline.report.rocrate import METADATA, spdx, write_crate
from pipeline.store.finding import find_result
from pipeline.store.lineage import lineage
from pipeline.store.results import Results
from steps.cli.__main__ import main
from steps.graph.defaults import chosen_arguments
from tests.steps.made import graph, run


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crate")
    return run(graph(folder), folder / "workspace").results


def crate(results, folder, **options):
    made = lineage(results, find_result(results, "tokens"))
    path = write_crate(made, folder, lambda m: chosen_arguments(m.step, m.args), **options)
    document = json.loads(path.read_text(encoding="utf-8"))
    return document, {each["@id"]: each for each in document["@graph"]}


def references(value):
    if isinstance(value, dict):
        if value.keys() == {"@id"}:
            yield value["@id"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def listed(value):
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize("with_files", [False, True])
def test_a_crate_has_the_structure_of_its_profile(results, tmp_path, with_files):
    document, entities = crate(results, tmp_path / "crate", with_files=with_files)
    assert document["@context"][0] == "https://w3id.org/ro/crate/1.1/context"
    assert len(entities) == len(document["@graph"])
    descriptor, root = entities[METADATA], entities["./"]
    assert descriptor["about"] == {"@id": "./"}
    assert descriptor["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert {"name", "description", "datePublished", "license"} <= root.keys()
    assert entities[root["conformsTo"]["@id"]]["@type"] == "CreativeWork"
    outside = {"http://schema.org/CompletedActionStatus", "https://w3id.org/ro/crate/1.1"}
    assert set(references(document["@graph"])) - outside <= entities.keys()
    actions = [each for each in entities.values() if each["@type"] == "CreateAction"]
    assert {each["@id"] for each in actions} == set(references(root["mentions"]))
    for each in actions:
        assert entities[each["instrument"]["@id"]]["@type"] == "SoftwareApplication"
        assert entities[each["result"]["@id"]]["@type"] == "Dataset"
        assert each["result"] in root["hasPart"]
        assert each["startTime"] <= each["endTime"]


@pytest.mark.parametrize("with_files", [False, True])
def test_every_file_is_in_the_crate_or_named_by_its_digest(results, tmp_path, with_files):
    _, entities = crate(results, tmp_path / "crate", with_files=with_files)
    files = [each for each in entities.values() if each["@type"] == "File"]
    parts = {part for each in entities.values() for part in references(each.get("hasPart", []))}
    assert {each["@id"] for each in files} <= parts
    named = 0
    for each in files:
        if each["@id"].startswith("ni:///sha-256;"):
            named += 1
            held = base64.urlsafe_b64decode(each["@id"].partition(";")[2] + "=")
            assert held.hex() == each["sha256"]
            continue
        content = (tmp_path / "crate" / unquote(each["@id"])).read_bytes()
        assert sha256(content).hexdigest() == each["sha256"]
        assert str(len(content)) == each["contentSize"]
    assert (named == 0) == with_files
    for each in entities.values():
        if each["@type"] == "Dataset":
            assert (tmp_path / "crate" / unquote(each["@id"])).is_dir()


def test_licences_are_addresses_where_they_are_known(results, tmp_path):
    _, entities = crate(results, tmp_path / "crate")
    licences = {entities[id]["name"]: id for id in references(entities["./"]["license"])}
    assert licences["ODC-BY"] == "https://spdx.org/licenses/ODC-By-1.0"
    assert licences["all rights\x1b[31m reserved"].startswith("#licence-all%20rights%1B")
    assert spdx("mit") == "https://spdx.org/licenses/MIT" and spdx("unknown") is None


def test_a_step_names_its_inputs_its_sources_and_what_was_chosen(results, tmp_path):
    _, entities = crate(results, tmp_path / "crate")
    by_name = {e["name"].partition(":")[0]: e for e in entities.values()
               if e["@type"] == "CreateAction"}  # fmt: skip
    read = [entities[each["@id"]] for each in by_name["web"]["object"]]
    assert [each["name"] for each in read] == ["web", "source"]
    assert read[0]["license"] == {"@id": "https://spdx.org/licenses/ODC-By-1.0"}
    both = [each["@id"] for each in by_name["both"]["object"]]
    assert both == [by_name[name]["result"]["@id"] for name in ("web", "books")]
    (vocab,) = (entities[each["@id"]] for each in by_name["tokenizer"]["object"][1:])
    assert (vocab["name"], vocab["value"]) == ("vocab_size", 300)


def test_a_crate_is_written_over_a_crate_and_over_nothing_else(results, tmp_path):
    first, _ = crate(results, tmp_path / "crate")
    again, _ = crate(results, tmp_path / "crate")
    assert first == again
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("")
    with pytest.raises(ValueError, match="holds something else"):
        crate(results, tmp_path / "full")


def test_the_command_tells_a_tree_or_writes_a_crate(results, tmp_path, capsys):
    workspace = ["-w", str(results.root)]
    assert main(["provenance", "tokens", *workspace]) == 0
    assert capsys.readouterr().out.startswith("tokens · ")
    experiment = tmp_path / "x.json"
    experiment.write_text(json.dumps({"steps": graph(results.root.parent)}))
    target = tmp_path / "crate"
    assert main(["provenance", f"{experiment}:kept", "--rocrate", str(target), *workspace]) == 0
    assert (target / METADATA).is_file()
    assert main(["provenance", f"{experiment}:kpet", *workspace]) == 1
    assert "did you mean 'kept'" in capsys.readouterr().err
    assert main(["provenance", "nothing", "-w", str(tmp_path / "empty")]) == 1
    damaged = tmp_path / "damaged"
    shutil.copytree(results.root, damaged, symlinks=True)
    manifest = Results(damaged).folder(find_result(results, "kept")) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"num_documents": ', '"num_documents": 1'))
    assert main(["provenance", "kept", "-w", str(damaged)]) == 1
    assert "is damaged: " in capsys.readouterr().err
    assert main(["provenance", "tokens", "-w", str(damaged)]) == 0
    assert "damaged: " in capsys.readouterr().out


@pytest.mark.parity
@pytest.mark.parametrize("with_files", [False, True])
def test_the_reference_library_reads_the_crate_and_writes_it_again(results, tmp_path, with_files):
    rocrate = pytest.importorskip("rocrate.rocrate")
    _, entities = crate(results, tmp_path / "crate", with_files=with_files)
    read = rocrate.ROCrate(str(tmp_path / "crate"))
    assert read.mainEntity.id == entities["./"]["mainEntity"]["@id"]
    actions = [each for each in read.get_entities() if each.type == "CreateAction"]
    assert len(actions) == 7 and all(each["instrument"].type for each in actions)
    read.write(str(tmp_path / "again"))
    again = json.loads((tmp_path / "again" / METADATA).read_text(encoding="utf-8"))
    assert {each["@id"] for each in again["@graph"]} >= entities.keys()
