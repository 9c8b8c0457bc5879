"""`olmo batch` and `olmo where`, over a run that was trained."""

import json
import shutil

import pytest

from pipeline.browse.reading import batches_of
from steps.cli.__main__ import main
from steps.wiring import build_steps
from tests.steps.conftest import Bench, ref

UPDATES = 8  # of two rows: more than an epoch of this mix


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("reading"))
    model = {"d_model": 32, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 64}
    schedule = {"type": "linear", "peak_lr": 1e-3, "warmup_steps": 1, "total_steps": UPDATES}
    base = {
        "type": "pretrain",
        "mix": ref("mix"),
        "model": {**model, "vocab_size": 280, "max_sequence_length": 16},
        "train": {"batch_size": 2, "seed": 5, "save_steps": UPDATES, "schedule": schedule},
    }
    built = build_steps({**bench.config(), "base": base})
    bench.workspace.register_run(built.values(), "first")
    for step in built.values():
        step.result(bench.workspace)
    return bench, built["base"].unique_id


@pytest.fixture
def olmo(trained, capsys):
    def run(command, *arguments):
        status = main([command, "-w", str(trained[0].results.root), *arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


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


def test_where_is_the_inverse_of_batch(olmo):
    wanted = {}
    for step in range(1, UPDATES + 1):
        for row in read(olmo, step)["read"]:
            wanted.setdefault(row["id"], set()).add((step, row["row"]))
    for document, times in wanted.items():
        status, out, _ = olmo("where", document, "--json")
        found = json.loads(out)["read"]
        assert status == 0 and {(each["step"], each["row"]) for each in found} == times


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


def test_where_names_a_run_whose_data_is_gone(trained, tmp_path, capsys):
    bench, id = trained
    shutil.copytree(bench.results.root, tmp_path / "w", symlinks=True)
    for folder in (tmp_path / "w" / "cache").glob("Mix-*"):
        shutil.rmtree(folder)
    assert main(["where", "-w", str(tmp_path / "w"), "d1"]) != 0
    assert id in capsys.readouterr().err
