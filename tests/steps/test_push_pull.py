import json
import subprocess
import sys
from pathlib import Path

import pytest

from steps.cli.__main__ import main
from steps.cli.pull import _ids
from tests.store.conftest import flip

ROOT = Path(__file__).parent.parent.parent
ID = "Tag-001-" + "0" * 32
OTHER = "Tag-001-" + "1" * 32
EXPERIMENT = {
    "steps": {
        "corpus": {
            "type": "ingest",
            "source": {"type": "jsonl", "path": "corpus.jsonl", "source": "s"},
        },
        "quality": {
            "type": "tag",
            "documents": {"type": "ref", "ref": "corpus"},
            "taggers": [{"type": "lengths"}],
        },
    }
}


def machine(tmp_path, name, remote=None):
    """A folder to run in, as a machine of its own: its settings, the experiment and its source."""
    folder = tmp_path / name
    folder.mkdir()
    workspace = {"type": "local", "dir": "workspace", **({"remote": remote} if remote else {})}
    settings = {"workspace": workspace, "executor": {"type": "olmo"}, "include_package": ["steps"]}
    (folder / "tango.yml").write_text(json.dumps(settings))
    (folder / "experiment.json").write_text(json.dumps(EXPERIMENT))
    rows = [{"id": str(i), "text": f"document number {i}", "source": "s"} for i in range(3)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def tango_run(folder, *arguments):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = 'tango'\n"
        "import steps\nfrom tango.__main__ import main\nmain()"
    )
    command = [sys.executable, "-c", code, "run", "experiment.json", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def results_of(folder):
    return {
        path.parent.name: json.loads(path.read_text())["content"]
        for path in (folder / "workspace" / "cache").glob("*/manifest.json")
    }


@pytest.mark.slow
def test_what_one_machine_pushed_another_pulls_or_reads_through(tmp_path, monkeypatch, capsys):
    url = f"file://{tmp_path}/remote"
    first = machine(tmp_path, "first")
    tango_run(first, "--name", "one")
    monkeypatch.chdir(first)
    assert main(["push", "--to", url]) == 0
    assert "2 results pushed" in capsys.readouterr().out
    assert main(["push", "one:quality", "--to", url]) == 0
    assert "0 results pushed" in capsys.readouterr().out

    second = machine(tmp_path, "second")
    monkeypatch.chdir(second)
    assert main(["pull", "--from", url]) == 0
    assert "one  2 steps" in capsys.readouterr().out
    assert main(["pull", "one", "--from", url]) == 0
    assert results_of(second) == results_of(first)
    assert (second / "workspace" / "runs" / "one" / "quality" / "manifest.json").is_file()

    third = machine(tmp_path, "third", remote=url)
    assert "pulled from" in tango_run(third)
    assert results_of(third) == results_of(first)
    records = [json.loads(p.read_text()) for p in third.glob("workspace/cache/*/run.json")]
    assert [each["pulled_from"] for each in records] == [url, url]

    fourth = machine(tmp_path, "fourth")
    monkeypatch.chdir(fourth)
    assert main(["pull", "experiment.json", "--from", url]) == 0
    assert results_of(fourth) == results_of(first)


@pytest.mark.slow
def test_what_is_damaged_in_the_remote_is_named_and_the_rest_is_pulled(
    tmp_path, monkeypatch, capsys
):
    url = f"file://{tmp_path}/remote"
    first = machine(tmp_path, "first")
    tango_run(first, "--name", "one")
    monkeypatch.chdir(first)
    assert main(["push", "--to", url]) == 0
    corpus, quality = sorted(results_of(first), key=lambda id: id.startswith("Tag"))
    entry = json.loads((tmp_path / "remote" / "results" / f"{corpus}.json").read_text())
    name, file = next((n, f) for n, f in entry["files"].items() if n.endswith(".parquet"))
    sha256 = file["sha256"]
    flip(tmp_path / "remote" / "files" / sha256[:2] / sha256)

    second = machine(tmp_path, "second")
    monkeypatch.chdir(second)
    capsys.readouterr()
    assert main(["pull", "one", "--from", url]) == 1
    said = capsys.readouterr()
    assert "1 result pulled" in said.out and list(results_of(second)) == [quality]
    assert f"refused: {corpus}" in said.err and f"olmo push --mend {corpus}" in said.err
    monkeypatch.chdir(first)
    assert main(["push", "--mend", corpus, "--to", url]) == 0
    monkeypatch.chdir(second)
    assert main(["pull", "one", "--from", url]) == 0
    assert results_of(second) == results_of(first)


@pytest.mark.slow
def test_a_result_of_the_same_content_is_pulled_though_its_id_is_another(tmp_path, monkeypatch):
    """As below a step that was changed and gives what it gave before."""
    url = f"file://{tmp_path}/remote"
    first = machine(tmp_path, "first")
    tango_run(first)
    monkeypatch.chdir(first)
    main(["push", "--to", url])
    other = machine(tmp_path, "other", remote=url)
    change = '{"steps.corpus.shard_bytes": 1000000}'  # the same one shard
    said = tango_run(other, "-o", change)
    assert "quality linked" in said
    assert set(results_of(other).values()) == set(results_of(first).values())


def test_names_stand_for_runs_steps_and_ids():
    runs = {"new": {"steps": {"a": OTHER}}, "old": {"steps": {"a": ID, "b": ID}}}
    assert _ids("old", runs) == [ID, ID]
    assert _ids("a", runs) == [OTHER]
    assert _ids("b", runs) == [ID]
    assert _ids("old:a", runs) == [ID] and _ids(ID, runs) == [ID]
    with pytest.raises(ValueError, match="'nwe' is no run, step or id .*did you mean 'new'"):
        _ids("nwe", runs)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["push"], 2, "--to is missing"),
        (["pull", "x"], 2, "--from is missing"),
        (["push", "--to", "remote"], 1, "nothing was run yet"),
        (["pull", "nothing", "--from", "remote"], 1, "'nothing' is no run"),
        (["pull", ID, "--from", "remote"], 1, ""),
    ],
)
def test_a_fault_is_told_in_a_line(arguments, status, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == status
    printed = capsys.readouterr()
    assert said in printed.err and "Traceback" not in printed.err
    assert len(printed.err.splitlines()) <= 1


@pytest.mark.parametrize(
    "run",
    [
        {"started": 1, "steps": {"../../outside": ID}},
        {"started": 1, "steps": {"a": "../../outside"}},
        {"started": 1, "steps": {"/a": ID}},
        {"started": "1", "steps": {}},
        {"steps": {}},
        {"started": 1, "steps": []},
    ],
)
def test_a_hostile_run_is_refused(tmp_path, monkeypatch, capsys, run):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "remote" / "runs").mkdir(parents=True)
    (tmp_path / "remote" / "runs" / "one.json").write_text(json.dumps(run))
    assert main(["pull", "one", "--from", "remote"]) == 1
    assert "remote/runs/one.json" in capsys.readouterr().err
    assert not (tmp_path / "workspace").exists() and not (tmp_path / "outside").exists()
