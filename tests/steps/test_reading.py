"""`olmo batch` and `olmo where`, over a run that was trained."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.browse.reading import batches_of
from pipeline.core.errors import MismatchedInputs
from pipeline.core.fingerprints import OutsideFile
from pipeline.store.history import add_lines, sealed_line
from pipeline.store.series import note_user
from pipeline.tokens.olmo_order import FileReader
from steps.cli.__main__ import main
from steps.graph.wiring import WiringError, build_steps
from steps.workspace import ResultWorkspace
from tests.steps.conftest import TEXTS, Bench, ref

UPDATES = 8  # of two rows: more than an epoch of this mix


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("reading"))
    return bench, run_graph(bench, base=pretrain(UPDATES))["base"].unique_id


def pretrain(updates, **more):
    model = {"d_model": 32, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 64}
    schedule = {"type": "linear", "peak_lr": 1e-3, "warmup_steps": 1, "total_steps": updates}
    return {
        "type": "pretrain",
        "mix": ref("mix"),
        "model": {**model, "vocab_size": 280, "max_sequence_length": 16},
        "train": {"batch_size": 2, "seed": 5, "save_steps": updates, "schedule": schedule},
        **more,
    }


def run_graph(bench, **steps):
    built = build_steps({**bench.config(), **steps})
    bench.workspace.register_run(built.values(), "first")
    for step in built.values():
        step.result(bench.workspace)
    return built


def olmo_of(bench, capsys):
    def run(command, *arguments):
        capsys.readouterr()  # what was said before
        status = main([command, "-w", str(bench.results.root), *arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def olmo(trained, capsys):
    return olmo_of(trained[0], capsys)


def read(olmo, step):
    status, out, _ = olmo("batch", "base", "--at", str(step), "--json")
    assert status == 0
    return json.loads(out)


def test_batch_names_the_documents_and_text_that_each_update_read(trained, olmo):
    bench, id = trained
    batches = batches_of(bench.results, id)
    for step in (1, UPDATES):
        rows = read(olmo, step)["read"]
        assert [row["id"] for row in rows] == [each.id for each in batches.documents(step - 1)]
        assert {row["row"] for row in rows} == {0, 1}
        lengths = [sum(r["end"] - r["start"] for r in rows if r["row"] == n) for n in (0, 1)]
        assert lengths == [16, 16]
    lines = map(json.loads, bench.source.read_text().splitlines())
    texts = {each["id"]: each["text"] for each in lines}
    for row in rows:
        if "<|endoftext|>" not in row["text"]:
            assert row["text"] in texts[row["id"]]


@pytest.mark.parametrize("first", [1, UPDATES - 1])
def test_inspection_counts_updates_as_batch_does(trained, olmo, first):
    bench, _ = trained
    seen = {**bench.config()["order"], "seed": 5, "num_steps": 2, "first_step": first}
    table = run_graph(bench, base=pretrain(UPDATES), order=seen)["order"].unique_id
    status, out, _ = olmo("show", table, "--json")
    told = json.loads(out)["what is read, and when"]
    assert status == 0 and {row["step"] for row in told} == {first, first + 1}
    for step in (first, first + 1):
        rows = read(olmo, step)["read"]
        keys = ("row", "part", "source", "id", "start", "end")
        assert [[row[key] for key in keys] for row in told if row["step"] == step] == [
            [row[key] for key in keys] for row in rows
        ]


def test_where_is_the_inverse_of_batch(olmo):
    wanted = {}
    for step in range(1, UPDATES + 1):
        for row in read(olmo, step)["read"]:
            wanted.setdefault(row["id"], set()).add((step, row["row"]))
    for document, times in wanted.items():
        status, out, _ = olmo("where", document, "--json")
        found = json.loads(out)["read"]
        assert status == 0 and {(each["step"], each["row"]) for each in found} == times


def test_where_takes_the_source_too_and_tells_it(olmo):
    read_first = read(olmo, 1)["read"][0]
    source, id = read_first["source"], read_first["id"]
    plain = json.loads(olmo("where", id, "--json")[1])["read"]
    assert {(each["source"], each["id"]) for each in plain} == {(source, id)}
    assert json.loads(olmo("where", f"{source}/{id}", "--json")[1])["read"] == plain
    assert olmo("where", f"another/{id}")[0]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("batch", "base", "--at", "0"), "--at is 0; it must be from 1 to 8"),
        (("batch", "base", "--at", "9"), "--at is 9; it must be from 1 to 8"),
        (("batch", "mix", "--at", "1"), "it must be a result of training"),
        (("where", "nobody"), "read a document 'nobody'"),
    ],
)
def test_what_was_not_read_is_a_clear_fault(olmo, arguments, fault):
    status, out, err = olmo(*arguments)
    assert status and not out and fault in err


@pytest.fixture
def broken_off(trained, tmp_path):
    """A copy of the workspace in which the training came to its fourth update; its series."""
    bench, id = trained
    shutil.copytree(bench.results.root, tmp_path / "w", symlinks=True)
    work, (series,) = tmp_path / "w" / "work" / id, (tmp_path / "w" / "series").iterdir()
    work.mkdir(parents=True)
    shutil.move(tmp_path / "w" / "cache" / id / "key.json", work)
    shutil.rmtree(tmp_path / "w" / "cache" / id)
    lines = (series / "history.jsonl").read_text().splitlines(keepends=True)
    (series / "history.jsonl").write_text("".join(lines[:4]))
    return series


@pytest.mark.parametrize("diverged", [False, True])
def test_batch_tells_of_a_training_that_was_not_finished(trained, broken_off, diverged, capsys):
    last = 4
    if diverged:
        row = {"step": 5, "loss": None, "segment": 1, "diverged": True}
        add_lines(broken_off / "history.jsonl", [sealed_line(row)])
        last = 5
    whole, part = olmo_of(trained[0], capsys), ("-w", str(broken_off.parents[1]), "--json")
    for step in (1, last):
        assert main(["batch", "base", "--at", str(step), *part]) == 0
        assert json.loads(capsys.readouterr().out) == read(whole, step)
    assert main(["batch", "base", "--at", str(last + 1), *part]) != 0
    assert f"it must be from 1 to {last}, the last step" in capsys.readouterr().err


def test_where_tells_of_a_training_that_was_not_finished(trained, broken_off, capsys):
    whole, part = olmo_of(trained[0], capsys), ("-w", str(broken_off.parents[1]), "--json")
    ids = {row["id"] for step in range(1, UPDATES + 1) for row in read(whole, step)["read"]}
    told = 0
    for document in ids:
        rows = json.loads(whole("where", document, "--json")[1])["read"]
        assert not any(row["unfinished"] for row in rows)
        reached = [row | {"unfinished": True} for row in rows if row["step"] <= 4]
        status = main(["where", document, *part])
        assert (status == 0) == bool(reached)
        if reached:
            assert json.loads(capsys.readouterr().out)["read"] == reached
            told += len(reached)
    assert told and told < sum(len(read(whole, n)["read"]) for n in range(1, UPDATES + 1))


def test_a_shorter_training_of_a_series_is_followed_to_its_own_end(trained, tmp_path, capsys):
    bench, _ = trained
    shutil.copytree(bench.results.root, tmp_path / "w", symlinks=True)
    results = ResultWorkspace(str(tmp_path / "w")).results
    base = pretrain(UPDATES)
    base["train"] = base["train"] | {"stop_at": 3}
    step = build_steps({**bench.config(), "base": base})["base"]
    (results.work(step.unique_id) / "key.json").write_text(json.dumps(step.key()))
    (series,) = results.series_root.iterdir()
    note_user(series, step.unique_id)  # it is broken off, and a longer one went on
    steps = set()
    for n in range(len(TEXTS)):
        if main(["where", f"d{n}", "-w", str(results.root), "--json"]) == 0:
            rows = json.loads(capsys.readouterr().out)["read"]
            steps |= {row["step"] for row in rows if row["unfinished"]}
    assert steps == {1, 2, 3}


def changed_key(bench, id, root, change):
    """A copy of the workspace in which the key of the training was edited; gives its file."""
    shutil.copytree(bench.results.root, root, symlinks=True)
    path = root / "cache" / id / "key.json"
    key = json.loads(path.read_text())
    change(key["args"])
    path.unlink()
    path.write_text(json.dumps(key))
    return path


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda args: args.pop("train"), "key.json: has no args.train"),
        (lambda args: args["train"].pop("seed"), "key.json: has no args.train.seed"),
        (lambda args: args["train"].update(batch_size="2"), "args.train.batch_size is '2'"),
        (lambda args: args["train"].update(batch_size=0), "args.train.batch_size is 0"),
        (lambda args: args.update(order={"seed": 1}), "key.json: has no args.order.is"),
        (lambda args: args.update(train=[]), "key.json: args.train is a list"),
    ],
)
def test_a_key_that_was_edited_is_named_with_what_is_wrong(
    trained, tmp_path, capsys, change, fault
):
    bench, id = trained
    path = changed_key(bench, id, tmp_path / "w", change)
    assert main(["batch", "base", "--at", "1", "-w", str(tmp_path / "w")]) != 0
    said = capsys.readouterr().err
    assert fault in said and str(path) in said and "Traceback" not in said
    assert main(["where", "d1", "-w", str(tmp_path / "w")]) != 0
    assert f"data are gone or damaged: {id}" in capsys.readouterr().err


def test_where_tells_an_update_that_was_left_out_from_one_that_was_made(bench, capsys):
    base = pretrain(6)
    base["train"]["schedule"] = base["train"]["schedule"] | {"peak_lr": 1e-9}
    base["train"]["skip"] = {"spike_factor": 1.0001, "window": 1, "max_in_a_row": 9}
    made = run_graph(bench, base=base)["base"].unique_id
    table = pq.read_table(bench.results.folder(made) / "history.parquet").to_pylist()
    left_out = {row["step"] for row in table if row["skipped"]}
    assert left_out and len(left_out) < 6
    olmo = olmo_of(bench, capsys)
    told = {}
    for step in range(1, 7):
        for row in read(olmo, step)["read"]:
            for each in json.loads(olmo("where", row["id"], "--json")[1])["read"]:
                told[each["step"]] = each["skipped"]
    assert told == {step: step in left_out for step in range(1, 7)}


def test_where_names_a_run_whose_data_is_gone(trained, tmp_path, capsys):
    bench, id = trained
    shutil.copytree(bench.results.root, tmp_path / "w", symlinks=True)
    for folder in (tmp_path / "w" / "cache").glob("Mix-*"):
        shutil.rmtree(folder)
    assert main(["where", "-w", str(tmp_path / "w"), "d1"]) != 0
    assert id in capsys.readouterr().err


SHUFFLED = {"type": "olmo", "seed": 6198}


def num_instances(bench):
    return FileReader(bench.results.load(run_graph(bench)["mix"].unique_id)).num_instances


def import_indices(bench, indices):
    path = bench.root / "global_indices.npy"
    path.write_bytes(np.asarray(indices, "<u4").tobytes())
    return {"type": "import_order", "path": str(path)}


def shuffled(size):
    indices = np.arange(size, dtype=np.uint32)
    np.random.Generator(np.random.PCG64(6198)).shuffle(indices)
    return indices


def test_batch_and_where_follow_a_replayed_file_and_the_seed_that_made_it(bench, capsys):
    size = num_instances(bench)
    updates = 6
    indices = import_indices(bench, shuffled(size))
    built = run_graph(
        bench,
        indices=indices,
        replayed=pretrain(updates, order=ref("indices")),
        shuffled=pretrain(updates, order=SHUFFLED),
    )
    (bench.root / "global_indices.npy").unlink()
    olmo = olmo_of(bench, capsys)
    wanted = {}
    for step in range(1, updates + 1):
        rows = {}
        for name in ("replayed", "shuffled"):
            status, out, _ = olmo("batch", name, "--at", str(step), "--json", "-n", "1000")
            assert status == 0
            rows[name] = json.loads(out)["read"]
        assert rows["replayed"] == rows["shuffled"]
        for row in rows["replayed"]:
            wanted.setdefault(row["id"], set()).add((step, row["row"]))
    for document, times in wanted.items():
        found = json.loads(olmo("where", document, "--json", "-n", "1000")[1])["read"]
        for name in ("replayed", "shuffled"):
            own = [each for each in found if each["result"] == built[name].unique_id]
            assert {(each["step"], each["row"]) for each in own} == times
    ends = [bench.results.load(built[name].unique_id) for name in ("replayed", "shuffled")]
    assert ends[0].latest.weights == ends[1].latest.weights


def test_a_file_that_ends_before_the_training_or_is_of_other_data_ends_it_unmade(
    bench, monkeypatch
):
    size = num_instances(bench)
    order = ref("indices")
    indices = import_indices(bench, range(4))
    monkeypatch.setattr(OutsideFile, "num_bytes", lambda file: None)  # as of a URL
    fault = "schedule.total_steps is 3; the index file has 4 instances, which is 2 updates of"
    with pytest.raises(ValueError, match=fault):
        run_graph(bench, indices=indices, base=pretrain(3, order=order))
    monkeypatch.undo()
    indices = import_indices(bench, [0, size, 1, 2])
    fault = f"of {size} instances.* the index at place 1 is {size}"
    with pytest.raises(MismatchedInputs, match=fault):
        run_graph(bench, indices=indices, base=pretrain(2, order=order))
    for folder in (bench.results.root / "series").glob("*"):
        assert not list(folder.glob("step*"))


def test_inspected_is_the_order_of_the_file(bench):
    size = num_instances(bench)
    inspected = {**bench.config()["order"], "num_steps": size // 2}
    built = run_graph(
        bench,
        indices=import_indices(bench, shuffled(size)),
        by_file={**inspected, "order": ref("indices")},
        by_seed={**inspected, "order": SHUFFLED},
    )
    made = [bench.results.load(built[name].unique_id) for name in ("by_file", "by_seed")]
    assert made[0].content == made[1].content


def test_an_order_is_a_component_or_a_step_that_imports_one(bench):
    with pytest.raises(WiringError, match=r"must be OrderRule \| ReadingOrder"):
        build_steps({**bench.config(), "base": pretrain(2, order=ref("mix"))})
    with pytest.raises(WiringError, match="base.order.type is 'olmoo', which is not known.*'olmo'"):
        build_steps({**bench.config(), "base": pretrain(2, order={"type": "olmoo"})})
