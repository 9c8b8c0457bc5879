import json
import os
import threading
import zlib
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.core.energy import Spent
from pipeline.core.errors import CorruptShard, PipelineError
from pipeline.store import history as history_files
from pipeline.store import inventory
from pipeline.store.history import (
    CRC,
    add_lines,
    all_rows,
    damaged_lines,
    history_rows,
    read_segments,
    sealed_line,
    segment_rows,
)
from pipeline.store.leases import LostLease
from pipeline.train import loop
from pipeline.train.config import Upkeep
from pipeline.train.series import history, saved
from pipeline.train.series.saved import Stretch, plan_stretches
from pipeline.train.spikes import SpikeRule
from tests.train.conftest import config
from tests.train.test_loop import flip, losses, weights
from tests.train.test_stopping import stopped_after


def states(series):
    """Steps that keep an optimizer's state."""
    return sorted(int(p.parent.name[4:]) for p in series.glob("step*/optimizer*"))


def num_bytes(folder):
    return sum(each.stat().st_size for each in folder.iterdir())


def test_only_the_last_checkpoints_keep_their_optimizer_state(run):
    made = run(config(15), hooks={"upkeep": Upkeep(retention=3)})
    assert states(made.series_root) == [0, 9, 12, 15]
    assert saved.find_checkpoints(made.series_root) == [0, 3, 6, 9, 12, 15]
    made.verify()


def test_retention_changes_no_result(run):
    kept = run(config(9), series="a" * 64, name="kept", hooks={"upkeep": Upkeep(retention=None)})
    dropped = run(config(9), series="b" * 64, name="dropped", hooks={"upkeep": Upkeep(1)})
    assert dropped.content == kept.content
    assert (states(kept.series_root), states(dropped.series_root)) == ([0, 3, 6, 9], [0, 9])


def grows_by_the_weights_alone(made, total):
    root = made.series_root
    sizes = {step: num_bytes(root / f"step{step:06d}") for step in range(total + 1)}
    names = [{p.name for p in (root / f"step{step:06d}").iterdir()} for step in sizes]
    assert names[1 : total - 1] == [{"model.safetensors", "state.json"}] * (total - 2)
    model = (root / "step000001" / "model.safetensors").stat().st_size
    assert all(model < sizes[step] < model + 1000 for step in range(1, total - 1))
    beside = {path.name for path in root.iterdir() if path.is_file()}
    assert beside == {"history.jsonl", "segments.jsonl"}


def test_a_series_grows_by_the_weights_of_its_checkpoints_alone(run):
    grows_by_the_weights_alone(run(config(20, save_steps=1)), 20)


@pytest.mark.slow
def test_a_series_of_500_checkpoints_grows_by_their_weights_alone(run):
    grows_by_the_weights_alone(run(config(500, save_steps=1)), 500)


def test_where_no_state_is_kept_training_goes_on_from_the_nearest_that_has_one(run, caplog):
    fine = run(config(12, save_steps=1), series="a" * 64, name="fine")
    run(config(12, save_steps=4), series="b" * 64, name="coarse")
    again = run(config(12, save_steps=2), series="b" * 64, name="again")
    assert "step 6 is made from step 2: the optimizer's state of step 4 is not kept" in caplog.text
    by_step = dict(zip(range(13), weights(fine), strict=True))
    assert weights(again) == [by_step[each.step] for each in again.steps]


def test_retention_of_nothing_is_refused():
    with pytest.raises(ValueError, match="retention is 0; it must be at least 1, or null"):
        Upkeep(retention=0)


def test_stop_at_raised_and_lowered_are_views_of_one_series(run, monkeypatch):
    made = []
    update = loop.Run.update
    monkeypatch.setattr(loop.Run, "update", lambda s, n: (made.append(n), update(s, n))[1])
    views = [run(config(12, stop_at=at), name=f"to-{at}") for at in (6, 12, 3, 9, 6)]
    assert made == list(range(1, 13))  # each update once
    assert [each.steps[-1].step for each in views] == [6, 12, 3, 9, 6]
    assert views[0].content == views[4].content and losses(views[3]) == losses(views[1])[:9]


def test_a_step_that_the_series_passed_without_saving_it_is_refused(run):
    run(config(12))
    with pytest.raises(PipelineError, match="stop_at is 7; .* on to step 12 .*, but 6 and 9"):
        run(config(12, stop_at=7), name="passed")


class Lease:
    """Counts how often a series was held."""

    def __init__(self):
        self.times, self.lock = 0, threading.Lock()

    @contextmanager
    def __call__(self):
        with self.lock:
            self.times += 1
            yield


def test_a_view_that_is_saved_needs_no_lease_while_the_series_still_grows(run, monkeypatch):
    lease, seen = Lease(), {}
    note = loop.Progress.note

    def looking(self, step, *rest):
        note(self, step, *rest)
        if step == 8 and not seen:  # the series is held, and step 3 is saved
            seen["view"] = run(config(12, stop_at=3), name="view", hooks={"lease": lease})

    monkeypatch.setattr(loop.Progress, "note", looking)
    whole = run(config(12), name="whole", hooks={"lease": lease})
    assert lease.times == 1
    assert weights(seen["view"]) == weights(whole)[:2]


def test_who_waits_for_a_series_finds_it_trained(run, monkeypatch):
    lease, made, views = Lease(), [], {}
    update = loop.Run.update
    monkeypatch.setattr(loop.Run, "update", lambda s, n: (made.append(n), update(s, n))[1])

    def work(name):
        views[name] = run(config(9), name=name, hooks={"lease": lease})

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert made == list(range(1, 10))
    assert views["one"].content == views["two"].content


def test_a_saved_view_that_is_damaged_is_made_again_under_the_lease(run):
    whole, lease = run(config(9), name="whole"), Lease()
    flip(whole, 1)
    again = run(config(9), name="again", hooks={"lease": lease})
    assert again.content == whole.content and lease.times == 1


def test_large_weights_are_read_for_a_view_only_where_their_time_moved(run, monkeypatch):
    monkeypatch.setattr(inventory, "SMALL_BYTES", 0)
    whole, lease = run(config(9), name="whole"), Lease()
    path = whole.folder(whole.steps[1]) / "model.safetensors"
    before = path.stat().st_mtime_ns
    flip(whole, 1)
    os.utime(path, ns=(before, before))
    run(config(9), name="unread", hooks={"lease": lease})
    assert lease.times == 0
    os.utime(path)
    again = run(config(9), name="read", hooks={"lease": lease})
    assert again.content == whole.content and lease.times == 1


def test_stretches_begin_where_training_can_go_on():
    assert plan_stretches({}, [0, 3, 6]) == [Stretch(0, "", [0, 3, 6])]
    two = [Stretch(0, "a", [3]), Stretch(6, "b", [9, 12])]
    assert plan_stretches({0: "a", 6: "b"}, [3, 9, 12]) == two
    assert plan_stretches({4: "a"}, [0, 6]) == [Stretch(0, "", [0]), Stretch(4, "a", [6])]
    assert plan_stretches({5: "a"}, [5, 6]) == [Stretch(5, "a", [5, 6])]
    assert plan_stretches({0: "a"}, []) == []
    assert [Stretch(*each) for each in json.loads(json.dumps(two))] == two


# ---------------------------------------------------------------------------- segments


def causes(series):
    return [(s["first_step"], s.get("last_step"), s.get("cause")) for s in read_segments(series)]


def test_every_segment_is_on_record_with_its_cause(run, monkeypatch, tmp_path):
    series = tmp_path / "series" / ("ab" * 32)
    run(config(12, stop_at=3), name="first")
    stopped_after(run, monkeypatch, 4, config(12))
    save = loop.Run.save
    monkeypatch.setattr(loop.Run, "save", lambda *_: (_ for _ in ()).throw(OSError("a fault")))
    with pytest.raises(OSError, match="a fault"):
        run(config(12))
    monkeypatch.setattr(loop.Run, "save", save)
    run(config(12))
    assert causes(series) == [
        (0, 3, "finished"),
        (3, 5, "stopped"),
        (5, 6, "failed"),
        (5, 12, "finished"),
    ]
    failed, last = read_segments(series)[2:]
    assert failed["reason"] == "OSError: a fault" and failed["num_updates"] == 1
    assert last["rolled_back_from"] == 6 and last["threads"] == 1 and last["device"] == "cpu"
    assert [row["step"] for row in segment_rows(series, 3)] == [6]
    assert [row["step"] for row in segment_rows(series, 4)] == list(range(6, 13))
    assert len(list(all_rows(series))) == 13 and len(history_rows(series)) == 12


def test_a_killed_segment_is_noted_by_the_one_that_goes_on(tmp_path):
    history.begin_segment(tmp_path, 0, ranks=2)
    path = tmp_path / "segments.jsonl"
    path.write_text(path.read_text() + '{"segment": 1, "cau')  # a kill in the midst of its end
    assert causes(tmp_path) == [(0, None, None)]
    assert history.begin_segment(tmp_path, 0, ranks=1) == 2
    assert causes(tmp_path) == [(0, 0, "killed"), (0, None, None)]
    history.end_segment(tmp_path, "finished")
    history.end_segment(tmp_path, "failed", "nothing is under way any more")
    assert causes(tmp_path) == [(0, 0, "killed"), (0, 0, "finished")]


# ---------------------------------------------------------------------------- hostile lines


@pytest.mark.parametrize("name", ["history.jsonl", "segments.jsonl"])
@pytest.mark.parametrize("make", ["link", "pipe", "folder"])
def test_a_link_a_pipe_or_a_folder_in_a_series_is_neither_read_nor_written(tmp_path, name, make):
    series, victim = tmp_path / "series", tmp_path / "victim.txt"
    series.mkdir()
    victim.write_text("a line\nand a line without an end")
    makes = {"link": lambda path: path.symlink_to(victim), "pipe": os.mkfifo, "folder": os.mkdir}
    makes[make](series / name)

    def add_rows():
        with history.added_rows(series) as file:
            file.write("{}\n")

    work = [lambda: history.begin_segment(series, 0), lambda: read_segments(series)]
    if name == "history.jsonl":
        work = [add_rows, lambda: list(all_rows(series)), lambda: history.begin_segment(series, 0)]
    for each in work:
        with pytest.raises(CorruptShard, match=f"{name}: it is (a link|a folder|no plain file)"):
            each()
    assert victim.read_text() == "a line\nand a line without an end"


def test_a_training_whose_history_is_a_folder_is_told_so_and_nothing_is_made(run, tmp_path):
    (tmp_path / "series" / ("ab" * 32) / "history.jsonl").mkdir(parents=True)
    with pytest.raises(CorruptShard, match="history.jsonl: it is a folder"):
        run(config())
    assert not list((tmp_path / "series").glob("*/*step*"))


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo])
def test_what_is_no_folder_makes_way_for_a_checkpoint_in_the_making(run, tmp_path, make):
    series = tmp_path / "series" / ("ab" * 32)
    series.mkdir(parents=True)
    make(series / ".step000003.tmp")
    run(config())
    assert saved.find_checkpoints(series) == [0, 3, 6]


def test_a_link_in_the_place_of_a_checkpoint_in_the_making_leads_nowhere(run, tmp_path):
    series, victim = tmp_path / "series" / ("ab" * 32), tmp_path / "victim"
    series.mkdir(parents=True)
    victim.mkdir()
    (victim / "kept.txt").write_text("kept")
    (series / ".step000003.tmp").symlink_to(victim)
    made = run(config())
    assert weights(made) == weights(run(config(), series="c" * 64, name="fresh"))
    assert [path.name for path in victim.iterdir()] == ["kept.txt"]
    assert not list(series.glob(".*"))


HOSTILE = [
    "[" * 200_000,
    '{"a":' * 200_000,
    '{"segment": 9}',
    '{"segment": 9223372036854775807, "first_step": 0}',
    '{"segment": 1, "first_step": "0"}',
    '{"segment": 1, "last_step": []}',
    '{"segment": 1, "seconds": 1' + "0" * 400 + "}",
    "9" * 5000,
    "[]",
    "null",
    "\xff\x00",
]


def test_no_line_of_a_stranger_breaks_the_segments_of_a_series(tmp_path):
    history.begin_segment(tmp_path, 0)
    rows = [each.removesuffix("}").encode("latin-1") for each in HOSTILE]
    sealed = [f"{row.decode('latin-1')}{CRC.decode()}{zlib.crc32(row + b'}')}}}" for row in rows]
    with open(tmp_path / "segments.jsonl", "a", encoding="latin-1") as file:
        file.writelines(f"{each}\n" for each in HOSTILE + sealed)
    assert history.begin_segment(tmp_path, 4) == 2
    history.end_segment(tmp_path, "finished")
    assert causes(tmp_path) == [(0, 0, "killed"), (4, 4, "finished")]


def test_the_next_segment_says_how_the_one_before_ended_that_could_not(tmp_path):
    for told in ({}, {"died_of": "rank 1: ValueError"}, {"after_stop": True}, {}):
        history.begin_segment(tmp_path, 0, **told)
    ends = [(each.get("cause"), each.get("reason")) for each in read_segments(tmp_path)]
    assert ends == [
        ("failed", "rank 1: ValueError"),
        ("stopped", None),
        ("killed", None),
        (None,) * 2,
    ]


def test_who_lost_the_lease_says_nothing_of_the_segment_of_who_took_it_over(tmp_path):
    history.begin_segment(tmp_path, 0)
    with pytest.raises(LostLease), history.noting_failure(tmp_path):
        history.begin_segment(tmp_path, 0)  # by who took it over
        raise LostLease("it was taken over")
    history.end_segment(tmp_path, "finished")
    assert causes(tmp_path) == [(0, 0, "killed"), (0, 0, "finished")]


def test_only_a_last_line_without_an_end_is_cut_off_however_long(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "BLOCK", 7)
    path = tmp_path / "history.jsonl"
    for whole, cut in (
        ("", ""),
        ("a\n", ""),
        ("a line\n", "b" * 50),
        ("", "b" * 50),
        ("\n\n", "c"),
    ):
        path.write_text(whole + cut)
        with history.added_rows(tmp_path) as file:
            file.write("next\n")
        assert path.read_text() == f"{whole}next\n"


def test_a_line_that_is_longer_than_any_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(history_files, "MAX_LINE", 300)
    row = {"step": 1, "loss": 1.0}
    text = sealed_line(row | {"x": "y" * 1000}) + sealed_line(row)
    (tmp_path / "history.jsonl").write_text(text)
    assert list(all_rows(tmp_path)) == [row] and damaged_lines(tmp_path / "history.jsonl") == 4


def test_a_hard_link_is_not_added_to(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("a line without an end")
    (tmp_path / "segments.jsonl").hardlink_to(victim)
    with pytest.raises(CorruptShard, match="a hard link"):
        history.begin_segment(tmp_path, 0)
    assert victim.read_text() == "a line without an end"


def test_a_changed_byte_of_a_segment_costs_its_line_and_is_counted(tmp_path):
    for first_step in (0, 4):
        history.begin_segment(tmp_path, first_step)
        history.end_segment(tmp_path, "failed", "the disk is full")
    path = tmp_path / "segments.jsonl"
    text = path.read_text()
    path.write_text(text[::-1].replace("failed"[::-1], "killed"[::-1], 1)[::-1])
    assert causes(tmp_path) == [(0, 0, "failed"), (4, None, None)]
    assert damaged_lines(path) == 1
    (tmp_path / "history.jsonl").write_text(sealed_line({"step": 5, "loss": 1.0, "segment": 2}))
    path.write_text(text.replace('"first_step": 4', '"first_step": 3'))
    assert causes(tmp_path) == [(0, 0, "failed")] and history.begin_segment(tmp_path, 4) == 3


def test_no_line_of_a_stranger_breaks_the_history_of_a_series(tmp_path):
    fine = {"step": 1, "loss": 2.0, "segment": 1, "seconds": 0.5}
    wrong = [
        {"loss": "x"},
        {"seconds": "x"},
        {"segment": "1"},
        {"step": -1},
        {"step": 1.5},
        {"skipped": 1},
        {"lr": []},
        {"loss": 10**400},
        {"tokens_by_source": 3},
        {"tokens_by_source": {"all": "3"}},
        {"tokens_by_source": {"all": -3}},
    ]
    rows = [
        sealed_line(fine),
        *(sealed_line(fine | {"step": 2} | each) for each in wrong),
        sealed_line({"step": 2}),
    ]
    text = "".join(rows) + "\n".join(HOSTILE) + "\n"
    (tmp_path / "history.jsonl").write_text(text, encoding="latin-1")
    assert list(all_rows(tmp_path)) == [fine]
    history.begin_segment(tmp_path, 0)
    history.end_segment(tmp_path, "finished")
    assert history.write_history(tmp_path, 1, tmp_path / "out").num_records == 1


def test_lines_are_added_after_one_that_a_kill_cut_off(tmp_path):
    path = tmp_path / "segments.jsonl"
    for begun, then in (("", "b\n"), ("a\n", "a\nb\n"), ("a", "a\nb\n")):
        path.write_text(begun)
        add_lines(path, ["b\n"])
        assert path.read_text() == then


def test_what_all_ranks_took_is_noted_for_a_segment_by_the_first(tmp_path):
    history.begin_segment(tmp_path, 0)
    meter = SimpleNamespace(spent=lambda: Spent(5.0, "RAPL", 1))
    for rank in (0, 1):
        ranks = SimpleNamespace(rank=rank, summed=lambda *each: [3.0 * n for n in each])  # of three
        told = SimpleNamespace(series=tmp_path)
        run = SimpleNamespace(meter=meter, ranks=ranks, step=4, training=told)
        loop.Run.note_energy(run, {"segment": 1})
    assert len((tmp_path / "segments.jsonl").read_text().splitlines()) == 2
    (segment,) = read_segments(tmp_path)
    assert (segment["energy_joules"], segment["devices_not_measured"]) == (15.0, 3)
    assert (segment["energy_by"], segment["energy_to_step"]) == ("RAPL", 4)


def test_a_history_is_parsed_once_where_a_run_begins_and_once_at_its_end(run, monkeypatch):
    run(config(12, stop_at=6))
    parsed, found = [], history_files._parsed_rows
    monkeypatch.setattr(
        history_files, "_parsed_rows", lambda path: (parsed.append(path), found(path))[1]
    )
    run(config(12), name="on", hooks={"upkeep": Upkeep(stop_on=SpikeRule(9, 2))})
    assert len(parsed) == 2


def test_a_history_that_changed_is_parsed_again(tmp_path):
    with history_files.reading_once():
        for step in (1, 2):
            add_lines(tmp_path / "history.jsonl", [sealed_line({"step": step, "loss": 1.0})])
            assert len(history_rows(tmp_path)) == step
        history_files.forget_read()
        assert len(history_rows(tmp_path)) == 2


# ---------------------------------------------------------------------------- made again


def altered(monkeypatch, by):
    """Have the updates from here on have another rounding, as on another machine."""
    update = loop.Run.update

    def altering(self, number):
        row = update(self, number)
        return row | {"loss": row["loss"] + by}

    monkeypatch.setattr(loop.Run, "update", altering)


def test_a_replay_for_other_save_steps_leaves_the_rows_and_rolls_nothing_back(run, monkeypatch):
    whole = run(config(12, save_steps=4))
    altered(monkeypatch, 1e-3)
    again = run(config(12, save_steps=2), name="again")
    assert losses(again) == losses(whole)
    series = whole.series_root
    replays = read_segments(series)[1:]
    assert [(s["first_step"], s["last_step"], s.get("replay")) for s in replays] == [
        (0, 6, True),
        (8, 10, True),
    ]
    assert not any("rolled_back_from" in each for each in read_segments(series))
    assert [row["step"] for row in segment_rows(series, 2)] == list(range(1, 7))


def test_a_replay_before_a_rollback_is_told_apart_from_it(run, monkeypatch, tmp_path):
    series = tmp_path / "series" / ("ab" * 32)
    first = losses(run(config(12, stop_at=8, save_steps=4)))
    save = loop.Run.save
    monkeypatch.setattr(loop.Run, "save", lambda *_: (_ for _ in ()).throw(OSError("a fault")))
    with pytest.raises(OSError, match="a fault"):
        run(config(12, save_steps=2), name="lost")  # in a replay
    with pytest.raises(OSError, match="a fault"):
        run(config(12, save_steps=4), name="failed")  # at its end, 12
    monkeypatch.setattr(loop.Run, "save", save)
    altered(monkeypatch, 1e-3)
    made = run(config(12, save_steps=2), name="made")
    said = "first_step", "replay", "rolled_back_from"
    told = [tuple(each.get(name) for name in said) for each in read_segments(series)]
    assert told == [
        (0, None, None),
        (0, True, None),
        (8, None, None),
        (0, True, None),
        (4, True, None),
        (8, None, 12),
    ]
    assert losses(made)[:8] == first  # and the others are those of the last segment
    by_step = {row["step"]: row["loss"] for row in segment_rows(series, 6)}
    assert losses(made)[8:] == [by_step[step] for step in range(9, 13)]


def test_a_damaged_checkpoint_that_others_stand_after_is_replayed(run):
    whole = run(config(9), name="whole")
    flip(whole, 1)
    run(config(9), name="again")
    last = read_segments(whole.series_root)[-1]
    assert (last["last_step"], last.get("replay")) == (3, True) and "rolled_back_from" not in last
