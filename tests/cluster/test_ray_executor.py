import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import steps
from pipeline.store.results import Results
from steps.execution.ray_executor import RayExecutor, _fault, _options, run_ordered
from steps.graph.wiring import WiringError, build_steps
from steps.workspace import ResultWorkspace

ROOT = Path(__file__).parent.parent.parent
NUM_SHARDS = 10
assert steps


def ref(name):
    return {"type": "ref", "ref": name}


def experiment(folder, seconds=0.5, fails="", **more):
    """A corpus of a shard a document, and two tags of it that do not wait for each other."""
    source = {"type": "jsonl", "path": "corpus.jsonl", "source": "s"}
    slow = {"type": "slow", "notes": str(folder / "notes"), "seconds": seconds, "fails": fails}
    slow = {"type": "tag", "documents": ref("corpus"), "taggers": [slow], **more}
    lengths = {"type": "tag", "documents": ref("corpus"), "taggers": ["lengths"]}
    rules = [{"attribute": "slow.length", "at_least": 1}]
    kept = {"type": "filter", "documents": ref("corpus"), "attributes": [ref("slow")]}
    return {
        "corpus": {"type": "ingest", "source": source, "shard_bytes": 1},
        "slow": slow,
        "lengths": lengths,
        "kept": {**kept, "rules": rules},
    }


class Place:
    """A folder to run in, with its settings."""

    def __init__(self, folder, executor, steps):
        self.folder, self.results = folder, Results(folder / "workspace")
        self.process = None
        (folder / "notes").mkdir(parents=True, exist_ok=True)
        settings = {
            "workspace": {"type": "local", "dir": "workspace"},
            "executor": executor,
            "include_package": ["steps", "tests.cluster.slow"],
        }
        rows = [{"id": f"{i}", "text": f"text {i}", "source": "s"} for i in range(NUM_SHARDS)]
        (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "tango.yml").write_text(json.dumps(settings))
        (folder / "experiment.json").write_text(json.dumps({"steps": steps}))

    def start(self):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "steps.cli", "run", "experiment.json", "--name", "one"],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self.process

    def end(self):
        """Nothing is left of it, whatever the test found."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()

    def run(self):
        process = self.start()
        said, _ = process.communicate(timeout=240)
        return process.returncode, said

    def ids(self):
        return json.loads((self.folder / "workspace/runs/one/steps.json").read_text())

    def contents(self):
        return {name: self.results.load(id).content for name, id in self.ids().items()}

    def measured(self):
        """Text -> how often it was measured to the end."""
        notes = self.folder / "notes"
        return {each.name: len(each.read_text().splitlines()) for each in notes.iterdir()}

    def wait_for(self, count):
        deadline = time.monotonic() + 120
        while len(self.measured()) < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def worker_of(self, step):
        """The process that holds the lease of a step."""
        lease = self.folder / "workspace" / "leases" / f"{self.ids()[step]}.json"
        return json.loads(lease.read_text())["pid"]

    def log(self, step):
        return (self.folder / f"workspace/runs/one/logs/{step}.log").read_text()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the steps give on one machine without Ray."""
    folder = tmp_path_factory.mktemp("undisturbed")
    place = Place(folder, {"type": "olmo"}, experiment(folder, seconds=0))
    status, said = place.run()
    assert status == 0, said
    return place.contents()


@pytest.fixture
def on_ray(ray_address, tmp_path):
    """Makes the place of a run on the cluster."""
    made = []

    def make(**changes):
        executor = {"type": "ray", "address": ray_address}
        made.append(Place(tmp_path, executor, experiment(tmp_path, **changes)))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.mark.slow
def test_a_step_whose_node_is_killed_goes_on_elsewhere_with_its_finished_shards(
    three_nodes, on_ray, undisturbed
):
    place = on_ray()
    process = place.start()
    place.wait_for(3)
    before = place.measured()
    three_nodes.kill_node_of(place.worker_of("slow"))
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert "slow is started again: " in said
    assert place.contents() == undisturbed
    after = place.measured()
    assert len(after) == NUM_SHARDS and sum(after.values()) <= NUM_SHARDS + 1
    kept = [text for text in before if after[text] == 1]
    assert len(kept) >= len(before) - 1  # the last may have been measured and not yet written
    assert not list((place.results.root / "leases").glob("*.json"))
    assert place.log("slow").count("measured text 0") == 1


@pytest.mark.slow
def test_an_engine_on_ray_loses_a_node_and_no_finished_shard(three_nodes, on_ray, undisturbed):
    place = on_ray(engine={"type": "ray"})
    process = place.start()
    place.wait_for(3)
    three_nodes.kill_other_node(place.worker_of("slow"))
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert "started again" not in said
    assert place.contents() == undisturbed
    after = place.measured()
    assert len(after) == NUM_SHARDS and sum(after.values()) <= NUM_SHARDS + 1


@pytest.mark.slow
def test_a_killed_worker_is_told_and_its_step_started_again(on_ray, undisturbed):
    place = on_ray()
    process = place.start()
    place.wait_for(3)
    os.kill(place.worker_of("slow"), signal.SIGKILL)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert "slow is started again: WorkerCrashedError" in said
    assert place.contents() == undisturbed and sum(place.measured().values()) <= NUM_SHARDS + 1


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_stopped_run_stops_its_steps_and_goes_on_from_there(on_ray, undisturbed, signum, status):
    place = on_ray()
    process = place.start()
    place.wait_for(3)
    worker = place.worker_of("slow")
    process.send_signal(signum)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert "to go on: " in said and "Traceback" not in said
    assert not list((place.results.root / "leases").glob("*.json"))
    before = place.measured()
    time.sleep(1)
    assert place.measured() == before, f"the step still runs in {worker}"
    status, said = place.run()
    assert status == 0, said
    assert place.contents() == undisturbed and sum(place.measured().values()) <= NUM_SHARDS + 1


@pytest.mark.slow
def test_a_failed_step_is_told_with_its_last_lines_and_other_branches_finish(on_ray):
    place = on_ray(seconds=0, fails="text 4")
    status, said = place.run()
    assert status == 1
    assert re.search("slow failed.*: CorruptShard: .*ZeroDivisionError: text 4", said)
    assert "| measured text 4" in said and "runs/one/logs/slow.log" in said
    assert "kept is not run" in said
    assert [each.split("-")[0] for each in place.results] == ["Ingest", "Tag"]
    assert "measured text 3" in place.log("slow")


@pytest.mark.slow
def test_a_step_that_fits_no_node_is_said_before_anything_runs(on_ray):
    resources = {"gpu_count": 8, "memory": "1TB"}
    place = on_ray(step_resources=resources)
    status, said = place.run()
    assert status == 1 and "the cluster cannot carry the experiment; nothing was run" in said
    assert "slow takes 1 CPUs, 1e+12 bytes of memory and 8 GPUs; the nodes have" in said
    assert list(place.results) == [] and "Traceback" not in said


# ---------------------------------------------------------------------------- without a cluster


@pytest.fixture
def order(tmp_path, monkeypatch):
    """An order of a step, as a node gets it."""
    (tmp_path / "workspace" / "runs" / "one").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    row = {"id": "a", "text": "text", "source": "s"}
    (tmp_path / "corpus.jsonl").write_text(json.dumps(row) + "\n")
    source = {"type": "jsonl", "path": "corpus.jsonl", "source": "s"}
    config = {"corpus": {"type": "ingest", "source": source}}
    return {
        "name": "corpus",
        "id": build_steps(config)["corpus"].unique_id,
        "steps": config,
        "ids": {},
        "reads": [],
        "log": str(tmp_path / "corpus.log"),
        "credentials": [],
        "folder": str(tmp_path),
        "run": str(tmp_path / "workspace" / "runs" / "one"),
        "workspace": {"type": "local", "dir": str(tmp_path / "workspace")},
        "packages": ["steps"],
        "level": 30,
        "made_by": "driver, Python 3.9",
    }


def answered(order):
    return json.loads(run_ordered(json.dumps(order)))["outcome"]


def test_a_node_runs_what_it_is_ordered(order, tmp_path):
    assert answered(order)["state"] == "ran"
    assert list(Results(tmp_path / "workspace")) == [order["id"]]
    assert answered(order)["state"] == "cached"


def test_a_node_that_gives_the_step_another_id_refuses_it_and_names_both(order, tmp_path):
    other = "Ingest-001-" + "0" * 32
    outcome = answered({**order, "id": other})
    assert outcome["state"] == "failed"
    message = outcome["failure"]["message"]
    assert f"{other} (driver, Python 3.9)" in message and order["id"] in message
    assert list(Results(tmp_path / "workspace")) == []


@pytest.mark.parametrize("name", ["folder", "run"])
def test_a_node_that_does_not_see_the_shared_folders_says_so(order, name):
    outcome = answered({**order, name: "/no/such/place"})
    assert "/no/such/place is not there on" in outcome["failure"]["message"]


def test_a_node_without_a_credential_says_so(order, monkeypatch):
    monkeypatch.delenv("A_TOKEN", raising=False)
    assert (
        "A_TOKEN must be set on"
        in answered({**order, "credentials": ["A_TOKEN"]})["failure"]["message"]
    )


def step_with(tmp_path, **resources):
    (tmp_path / "corpus.jsonl").write_text("")
    source = {"type": "jsonl", "path": str(tmp_path / "corpus.jsonl"), "source": "s"}
    config = {"type": "ingest", "source": source, "step_resources": resources}
    return build_steps({"corpus": config})["corpus"]


def test_what_a_step_needs_is_said_in_the_words_of_ray(tmp_path):
    assert _options(step_with(tmp_path)) == {"num_cpus": 1.0}
    needs = {"cpu_count": 4, "gpu_count": 2, "memory": "2GiB", "gpu_type": "H100"}
    assert _options(step_with(tmp_path, **needs)) == {
        "num_cpus": 4.0,
        "num_gpus": 2.0,
        "memory": 2 << 30,
        "accelerator_type": "H100",
    }


def test_a_step_must_fit_one_node_whole(tmp_path):
    nodes = [{"CPU": 8.0, "memory": 1e9}, {"CPU": 1.0, "GPU": 2.0, "memory": 1e9}]
    assert _fault(step_with(tmp_path, cpu_count=8), nodes) is None
    assert _fault(step_with(tmp_path, gpu_count=2), nodes) is None
    assert "takes 2 CPUs" in str(_fault(step_with(tmp_path, cpu_count=2, gpu_count=1), nodes))
    fault = str(_fault(step_with(tmp_path, gpu_count=1, gpu_type="H100"), nodes))
    assert fault.endswith("the nodes with H100 have none")
    nodes[1]["accelerator_type:H100"] = 1.0
    assert _fault(step_with(tmp_path, gpu_count=1, gpu_type="H100"), nodes) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"retries": -1}, "retries are -1; it must be at least 0"),
        ({"workers": 0}, "at least 1 is needed"),
        ({"address": "here"}, "executor's address is 'here'; it must be host:port"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path, values, message):
    with pytest.raises(WiringError, match=message):
        RayExecutor(ResultWorkspace(str(tmp_path)), **values)
