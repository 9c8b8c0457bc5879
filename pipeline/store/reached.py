"""How much of a training stands in its series, by names and records alone; nothing is digested."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.core.artifacts import checkpoint_name
from pipeline.core.errors import CorruptShard
from pipeline.store.checkpoints import (
    checkpoint_files,
    checkpoint_folders,
    has_state,
    read_record,
    stopped_at,
)


def passed(series: Path, stop_at: int | None, save_steps: int) -> int | None:
    """The last step of a series that has gone on past `stop_at` and did not save it; else None.

    A multiple of `save_steps` is made again from a checkpoint before it. What was trained after the
    last state that stands is lost, and may end elsewhere.
    """
    if stop_at is None or stop_at % save_steps == 0:
        return None
    steps = [step for step, folder in checkpoint_folders(series) if not folder.is_symlink()]
    last = max([*steps, stopped_at(series)], default=-1)
    name = checkpoint_name(stop_at)
    if stop_at >= last or any(Path(series).glob(f"*{name}*")):  # saved, or saved and damaged
        return None
    return last


def updates_left(series: Path, wanted: Iterable[int], branched_at: int | None = None) -> int:
    """The updates that are to be made until all wanted checkpoints of a series stand.

    A step that lacks is made from the nearest one before it whose optimizer's state stands, or from
    the start. What is damaged shows when it is read: then there are more.

    Args:
        branched_at: another series will begin as this one, with its checkpoints up to here.
    """
    there: dict[int, bool] = {}  # step -> whether training can go on from it
    for step, folder in checkpoint_folders(series):
        if folder.is_symlink() or (branched_at is not None and step > branched_at):
            continue
        try:
            record = read_record(folder)
            if record.step == step and all(
                (folder / name).exists() for name in checkpoint_files(folder)
            ):
                there[step] = has_state(folder, record)
        except CorruptShard:
            continue
    missing = sorted(step for step in wanted if step not in there)
    starts = {step for step, goes_on in there.items() if goes_on}
    if branched_at is None and 0 <= (paused := stopped_at(series)) <= max(missing, default=-1):
        starts.add(paused)
    left = made = 0
    for step in missing:
        left += step - max([made, *(start for start in starts if start <= step)])
        made = step
    return left
