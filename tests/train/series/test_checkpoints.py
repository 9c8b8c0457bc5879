import errno
import os
import shutil
import threading

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline.core.errors import CorruptShard, Inaccessible, PipelineError
from pipeline.core.files import file_sha256
from pipeline.model.hf import load_checkpoint_model
from pipeline.model.olmo import Olmo
from pipeline.model.weights import read_weights, weights_digest
from pipeline.store.checkpoints import (
    CheckpointRecord,
    RecentLosses,
    read_record,
    stopped_at,
    stopped_folder,
    write_record,
)
from pipeline.store.leases import LostLease
from pipeline.store.tensors import KINDS, TensorFiles, kind_of
from pipeline.train import loop
from pipeline.train.config import AdamW, Upkeep
from pipeline.train.optimizer import make_optimizer
from pipeline.train.series import checkpoint, saved
from pipeline.train.series.checkpoint import Held
from pipeline.train.stages.objectives import NextToken
from tests.fixtures.kept_from import forbid
from tests.small_disk import in_a_child, small_disk
from tests.train.conftest import SHAPE, config
from tests.train.test_loop import aside, flip


def trained(seed=0):
    """A model and its optimizer after an update."""
    model = Olmo(SHAPE)
    model.init_weights(seed)
    optimizer = make_optimizer(model, AdamW())
    NextToken(0.0).total(model, {"input_ids": torch.arange(16)[None]}).backward()
    optimizer.param_groups[0]["lr"] = 1e-2
    optimizer.step()
    return model, optimizer


def cut(held, rank, num_ranks):
    """What a rank of several would hold: some rows of each tensor, and none of a short one."""
    parts = {}
    for name, (rows, _) in held.items():
        size = -(-len(rows) // num_ranks)
        mine = rows[rank * size : (rank + 1) * size].contiguous()
        if len(mine):
            parts[name] = Held(mine, (rank * size, *[0] * (rows.dim() - 1)))
    return parts


def write(folder, snapshot, num_ranks, **record):
    checkpoint.clear_temporary(folder)
    temporary, sha256 = checkpoint.temporary_folder(folder), {}
    for rank in range(num_ranks):
        part = {kind: cut(held, rank, num_ranks) for kind, held in snapshot.items()}
        sha256 |= checkpoint.write_part(part, temporary, rank, num_ranks)
    known = CheckpointRecord(
        **{"step": 1, "num_tokens_read": 16, "num_tokens_learned": 15} | record,
        weights="",
        sha256={},
    )
    checkpoint.commit(folder, known._replace(sha256=sha256))


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
def test_what_any_number_of_ranks_wrote_is_read_back_bit_for_bit(tmp_path, num_ranks):
    model, optimizer = trained()
    folder = tmp_path / "step000001"
    write(folder, checkpoint.take_snapshot(model, optimizer), num_ranks)
    assert len(list(folder.iterdir())) == 2 * num_ranks + 1
    assert read_record(folder).weights == weights_digest(model.state_dict())
    other, others = trained(seed=1)
    checkpoint.load_checkpoint(other, others, folder)
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two), name
        for each in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(optimizer.state[one][each], others.state[two][each]), (name, each)
    assert weights_digest(read_weights(folder)) == weights_digest(model.state_dict())


def as_of_ranks(folder, num_ranks):
    """Write a checkpoint anew, as so many ranks would have."""
    record = read_record(folder)
    model = Olmo(SHAPE)
    optimizer = make_optimizer(model, AdamW())
    checkpoint.load_checkpoint(model, optimizer, folder)
    shutil.rmtree(folder)
    counts = {n: getattr(record, n) for n in ("step", "num_tokens_read", "num_tokens_learned")}
    write(folder, checkpoint.take_snapshot(model, optimizer), num_ranks, **counts)
    assert read_record(folder).weights == record.weights


def test_a_run_goes_on_from_what_three_ranks_wrote_and_evaluation_reads_it(run):
    whole = run(config(9), series="a" * 64, name="whole")
    part = run(config(9, stop_at=6), series="b" * 64, name="part")
    as_of_ranks(part.folder(part.latest), 3)
    state = load_checkpoint_model(part, part.latest).state_dict()
    assert weights_digest(state) == part.latest.weights
    made = run(config(9), series="b" * 64, name="made")
    assert made.content == whole.content


@pytest.mark.parametrize("name", ["model-00002-of-00002", "optimizer-00001-of-00002"])
def test_a_damaged_file_of_a_rank_is_refused_by_name_and_the_checkpoint_before_used(
    run, name, caplog
):
    whole = run(config(9), series="a" * 64, name="whole")
    part = run(config(9, stop_at=6), series="b" * 64, name="part")
    as_of_ranks(part.folder(part.latest), 2)
    flip(part, 2, f"{name}.safetensors")
    made = run(config(9), series="b" * 64, name="made")
    assert f"{name}.safetensors: its SHA-256 is not the recorded one" in caplog.text
    assert aside(part) == [".damaged-step000006"] * name.startswith("model")  # weights stay
    assert made.content == whole.content


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(run, name):
    whole = run(config(9), series="a" * 64, name="whole")
    part = run(config(9, stop_at=6), series="b" * 64, name="part")
    path = part.folder(part.latest) / name
    path.unlink()
    os.mkfifo(path)
    assert run(config(9), series="b" * 64, name="made").content == whole.content
    assert aside(part) == [".damaged-step000006"] * name.startswith("model")
    pipe = path.parents[1] / "pipe.safetensors"
    os.mkfifo(pipe)
    with pytest.raises(CorruptShard, match="it is no plain file"):
        TensorFiles([pipe])


def test_a_link_in_the_place_of_a_checkpoint_is_refused_and_what_it_leads_to_stays(run, tmp_path):
    other = run(config(9), series="c" * 64, name="other")
    part = run(config(9, stop_at=6), series="b" * 64, name="part")
    shutil.rmtree(part.folder(part.steps[1]))
    part.folder(part.steps[1]).symlink_to(other.folder(other.steps[2]))
    with pytest.raises(CorruptShard, match="step000003: it is a link"):
        run(config(9), series="b" * 64, name="made", hooks={"upkeep": Upkeep(retention=1)})
    assert saved.has_state(other.folder(other.steps[2]), read_record(other.folder(other.steps[2])))


@pytest.mark.parametrize("kind", [torch.float16, torch.int64])
@pytest.mark.parametrize("name", KINDS)
def test_tensors_of_another_type_are_refused(tmp_path, name, kind):
    model, optimizer = trained()
    folder = tmp_path / "step000001"
    write(folder, checkpoint.take_snapshot(model, optimizer), 1)
    path = folder / f"{name}.safetensors"
    save_file({key: each.to(kind) for key, each in load_file(path).items()}, path)
    with pytest.raises(CorruptShard, match="is of type .*; it must be F32"):
        checkpoint.load_checkpoint(model, optimizer, folder)


def test_a_dangling_link_in_the_place_of_a_stopped_state_is_no_hindrance(tmp_path):
    model, optimizer = trained()
    folder = stopped_folder(tmp_path)
    folder.symlink_to(tmp_path / "nowhere")
    for step in (1, 2):
        write(folder, checkpoint.take_snapshot(model, optimizer), 1, step=step)
        assert stopped_at(tmp_path) == step
        assert [path.name for path in tmp_path.iterdir()] == [".stopped"]


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    model, optimizer = trained()
    folder = tmp_path / "step000001"
    snapshot = checkpoint.take_snapshot(model, optimizer)
    rows, offsets = snapshot["model"]["embed.weight"]
    snapshot["model"]["embed.weight"] = Held(rows[:-1].contiguous(), offsets)
    write(folder, snapshot, 2)
    told = (
        r"model-00001-of-00002.safetensors record embed.weight: has the shape \[127, 32\]; it must"
    )
    with pytest.raises(CorruptShard, match=rf"{told} have \[128, 32\]"):
        checkpoint.load_weights(model, folder)
    del snapshot["model"]["embed.weight"]
    write(folder, snapshot, 2)
    with pytest.raises(CorruptShard, match=r"embed.weight: is missing; .* \[128, 32\]"):
        checkpoint.load_checkpoint(model, optimizer, folder)


def test_a_whole_checkpoint_of_another_shape_in_a_series_is_told_and_left(run):
    made = run(config(9, stop_at=6))
    other = run(config(9, stop_at=6), series="c" * 64, name="other", mlp_hidden_size=128)
    shutil.rmtree(made.folder(made.latest))
    shutil.copytree(other.folder(other.latest), made.folder(made.latest))
    told = r"step000006/model.safetensors record blocks.0.\S*: has the shape \[.*it must have \["
    with pytest.raises(CorruptShard, match=told):
        run(config(9), name="on")
    assert aside(made) == []


def slow_writes(monkeypatch, step, until):
    """Have the files of a step written only when an event has happened."""
    write_part = checkpoint.write_part

    def waiting(held, folder, *ranks):
        if f"step{step:06d}" in folder.name and not until.wait(60):
            raise TimeoutError("training did not go on")
        return write_part(held, folder, *ranks)

    monkeypatch.setattr(checkpoint, "write_part", waiting)


def test_training_goes_on_while_a_checkpoint_is_written(run, monkeypatch):
    whole = run(config(9), series="a" * 64, name="whole")
    gone_on = threading.Event()
    slow_writes(monkeypatch, 3, gone_on)
    note = loop.Progress.note

    def telling(self, step, *rest):
        note(self, step, *rest)
        if step == 5:
            gone_on.set()

    monkeypatch.setattr(loop.Progress, "note", telling)
    made = run(config(9), series="b" * 64, name="made")
    assert made.content == whole.content


def test_a_run_that_lost_its_lease_gives_no_checkpoint_its_name(run, monkeypatch, tmp_path):
    lost = threading.Event()
    slow_writes(monkeypatch, 3, lost)
    note = loop.Progress.note

    def losing(self, step, *rest):
        note(self, step, *rest)
        if step == 5:
            threading.Timer(0.2, lost.set).start()
            raise LostLease("it was taken over")

    monkeypatch.setattr(loop.Progress, "note", losing)
    with pytest.raises(LostLease):
        run(config(9), series="b" * 64)
    assert saved.find_checkpoints(tmp_path / "series" / ("b" * 64)) == [0]


def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_leaves_the_one_before(
    run, monkeypatch, tmp_path
):
    whole = run(config(9), series="a" * 64, name="whole")
    write_part = checkpoint.write_part

    def full(held, folder, *ranks):
        if "step000006" in folder.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_part(held, folder, *ranks)

    monkeypatch.setattr(checkpoint, "write_part", full)
    with pytest.raises(PipelineError, match="checkpoint .*step000006 was not written: .*No space"):
        run(config(9), series="b" * 64)
    monkeypatch.setattr(checkpoint, "write_part", write_part)
    series = tmp_path / "series" / ("b" * 64)
    assert saved.find_checkpoints(series) == [0, 3]
    assert not list(series.glob(".*"))
    assert run(config(9), series="b" * 64, name="made").content == whole.content


def test_a_full_disk_ends_the_run_with_its_own_error_and_leaves_whole_checkpoints(mix, tmp_path):
    from pipeline.train.config import Conduct
    from pipeline.train.stages.pretrain import pretrain
    from tests.train.conftest import ONE

    with small_disk(tmp_path / "small", "size=1m") as disk:
        series = disk / "series" / ("a" * 64)

        def fill():
            conduct = Conduct(series, tmp_path / "out", ONE)
            pretrain(mix, SHAPE, config(40), conduct=conduct)

        said = in_a_child(fill)
        assert said["error"] == "PipelineError"
        assert "was not written" in said["says"] and "space" in said["says"]
        there = saved.find_checkpoints(series)
        assert there[:2] == [0, 3] and not list(series.glob(".*"))
        name = said["says"].split(" was not")[0].rsplit("/", 1)[1]
        assert name == f"step{there[-1] + 3:06d}"


def test_a_failure_beside_a_writer_leaves_what_it_wrote(run, monkeypatch, tmp_path):
    update = loop.Run.update

    def failing(self, number):
        if number == 5:
            raise RuntimeError("a fault of the training")
        return update(self, number)

    monkeypatch.setattr(loop.Run, "update", failing)
    with pytest.raises(RuntimeError, match="a fault of the training"):
        run(config(9), series="b" * 64)
    assert saved.find_checkpoints(tmp_path / "series" / ("b" * 64)) == [0, 3]


def test_a_writer_never_writes_two_at_once(run, monkeypatch):
    busy, most = threading.Semaphore(1), []
    write_part = checkpoint.write_part

    def alone(*arguments):
        most.append(busy.acquire(blocking=False))
        try:
            return write_part(*arguments)
        finally:
            busy.release()

    monkeypatch.setattr(checkpoint, "write_part", alone)
    run(config(6, save_steps=1))
    assert most == [True] * 7


def test_no_file_of_a_checkpoint_is_a_pickle(run):
    made = run(config())
    names = {path.name for path in made.series_root.rglob("step*/*")}
    assert names == {"model.safetensors", "optimizer.safetensors", "state.json"}
    assert all(kind_of(name) or name == "state.json" for name in names)


def held_by(rank, num_ranks, shape, num_rows):
    """What a rank of a mesh writes of a tensor: the first row and how many; None for nothing."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=num_ranks)
    mesh = init_device_mesh("cpu", shape)
    placements = [Replicate()] * (len(shape) - 1) + [Shard(0)]
    tensor = torch.arange(num_rows * 2.0).reshape(num_rows, 2)
    found = checkpoint._held(distribute_tensor(tensor, mesh, placements, src_data_rank=None))
    if found is None:
        return None
    assert torch.equal(found.rows, tensor[found.offsets[0] :][: len(found.rows)])
    return [found.offsets[0], len(found.rows)]


@pytest.mark.parametrize(
    ("shape", "num_rows", "parts"),
    [
        ((4,), 8, [[0, 2], [2, 2], [4, 2], [6, 2]]),
        ((4,), 5, [[0, 2], [2, 2], [4, 1], None]),
        ((2, 2), 5, [[0, 3], [3, 2], None, None]),  # a copy a node: the first one is written
    ],
)
def test_every_row_is_written_by_one_rank(shape, num_rows, parts):
    said = [in_a_child(lambda r=r: held_by(r, 4, shape, num_rows)) for r in range(4)]
    assert [each.get("made", each) for each in said] == parts


def stray(folder, name, value=7.0):
    """Put tensors named as the model's beside those of a checkpoint."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        made = {each: torch.full_like(file.get_tensor(each), value) for each in file.keys()}
    save_file(made, folder / name)


def test_only_the_files_of_a_checkpoint_are_read_whatever_stands_beside_them(tmp_path):
    model, optimizer = trained()
    folder = tmp_path / "step000001"
    write(folder, checkpoint.take_snapshot(model, optimizer), 1)
    stray(folder, "aaa.safetensors")
    wanted = weights_digest(model.state_dict())
    for load in (
        lambda made, its: checkpoint.load_checkpoint(made, its, folder),
        lambda made, its: checkpoint.load_weights(made, folder),
    ):
        other, others = trained(seed=1)
        load(other, others)
        assert weights_digest(other.state_dict()) == wanted


@pytest.mark.parametrize("name", ["aaa.safetensors", "model-00001-of-00002.safetensors"])
def test_a_checkpoint_with_a_stray_file_is_set_aside_and_the_one_before_used(run, name, caplog):
    whole = run(config(9), series="a" * 64, name="whole")
    part = run(config(9, stop_at=6), series="b" * 64, name="part")
    stray(part.folder(part.latest), name)
    made = run(config(9), series="b" * 64, name="made")
    assert f"{name}: is not named by the record beside it" in caplog.text
    assert aside(part) == [".damaged-step000006"] and made.content == whole.content


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sha256": {}}, "its files must be model and optimizer of each rank; there is none"),
        ({"sha256": {"model.safetensors": "0" * 64}}, "must be model and optimizer of each rank"),
        ({"sha256": {"aaa.safetensors": "0" * 64}}, "must be model and optimizer of each rank"),
        ({"sha256": {"model.safetensors": "0"}}, "digest of model.safetensors is '0'; it must be"),
        ({"weights": ""}, "the digest of weights is ''; it must be 64 hex digits"),
        ({"num_tokens_read": -1}, "num_tokens_read is -1; it must be from 0"),
        ({"step": "3"}, "step is '3'; it must be of type int"),
        ({"num_skipped": 4}, "num_skipped is 4; there are 3 steps"),
        ({"recent": RecentLosses([1.0] * 3, 0)}, "recent.losses has 3; 2 updates were made"),
        ({"recent": RecentLosses([1.0], 2)}, "recent.skipped_since is 2; num_skipped is 1"),
        (
            {"recent": RecentLosses(["1"], 0)},
            r"recent.losses\[0\] is '1'; it must be of type float",
        ),
        ({"num_skipped": 10**30}, "num_skipped is 1000000000000.*; it must be from 0"),
    ],
)
def test_a_record_that_promises_nothing_or_too_much_is_refused(tmp_path, change, says):
    fine = CheckpointRecord(
        3, 16, 15, "0" * 64, {f"{each}.safetensors": "0" * 64 for each in KINDS}, 1
    )
    write_record(tmp_path, fine)
    assert read_record(tmp_path) == fine
    write_record(tmp_path, fine._replace(**change))
    with pytest.raises(CorruptShard, match=f"not the record of a checkpoint .*{says}"):
        read_record(tmp_path)


def edit_optimizer(folder, change):
    """Change tensors of the optimizer's state, under a digest that is right."""
    path, record = folder / "optimizer.safetensors", read_record(folder)
    with safe_open(path, "pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}
    change(held)
    save_file(held, path)
    write_record(folder, record._replace(sha256=record.sha256 | {path.name: file_sha256(path)}))


MOMENT = "embed.weight.exp_avg"


@pytest.mark.parametrize(
    "change",
    [
        lambda held: held.pop(MOMENT),
        lambda held: held.pop(f"{MOMENT}_sq"),
        lambda held: held.clear(),
        lambda held: held.update(more=torch.zeros(1)),
        lambda held: held.update({MOMENT: held[MOMENT][:-1].contiguous()}),
    ],
)
def test_a_state_that_lacks_a_moment_is_refused_and_the_checkpoint_before_used(run, change):
    whole = run(config(9), series="a" * 64, name="whole")
    part = run(config(9, stop_at=6), series="b" * 64, name="part")
    folder = part.folder(part.latest)
    edit_optimizer(folder, change)
    with pytest.raises(CorruptShard, match=r"optimizer.safetensors record .*(must|wanted)"):
        checkpoint.load_checkpoint(*trained(), folder)
    made = run(config(9), series="b" * 64, name="made")
    assert aside(part) == [] and made.content == whole.content  # results rely on its weights


def test_a_copy_that_a_user_made_of_a_checkpoint_is_left_alone(run):
    part = run(config(12, stop_at=6), name="part")
    names = ("step000006.bak", "step6", "steps", "step0000006")
    for name in names:
        shutil.copytree(part.folder(part.latest), part.series_root / name)
    made = run(config(12), name="made", hooks={"upkeep": Upkeep(retention=1)})
    assert made.latest.step == 12 and aside(part) == []
    for name in names:
        assert len(list((part.series_root / name).iterdir())) == 3


def test_each_checkpoint_that_was_set_aside_is_kept(run):
    made = run(config(6), name="made")
    for place in range(3):
        flip(made, 1)
        run(config(6), name=f"again-{place}")
    assert aside(made) == [f".damaged-step000003{more}" for more in ("", "-2", "-3")]


def test_files_may_be_read_by_whom_the_umask_lets(run):
    made = run(config(3))
    modes = {path.stat().st_mode & 0o777 for path in made.series_root.glob("step*/*")}
    before = os.umask(0)
    os.umask(before)
    assert modes == {0o666 & ~before}


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_checkpoint_that_may_not_be_read_stops_the_training_and_stays(run, name, monkeypatch):
    made = run(config(6), name="made")
    views = [config(9)] + [config(6, stop_at=3)] * (name != "optimizer.safetensors")
    with monkeypatch.context() as patch:
        forbid(patch, made.series_root / "step000003" / name)
        for each in views:
            with pytest.raises(Inaccessible, match=f"step000003/{name} cannot be read"):
                run(each, name="other")
    assert saved.find_checkpoints(made.series_root) == [0, 3, 6]
    assert not list(made.series_root.glob(".damaged*"))
