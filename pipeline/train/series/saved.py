"""What a series holds: the checkpoints that are whole, and those that training can go on from."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from pipeline.core.artifacts import Checkpoint, checkpoint_name
from pipeline.core.errors import CorruptShard, PipelineError, damage
from pipeline.core.files import file_sha256
from pipeline.store import verified
from pipeline.store.checkpoints import (
    checkpoint_files,
    checkpoint_folders,
    drop_state,
    has_state,
    read_record,
    stopped_folder,
)
from pipeline.store.reached import passed
from pipeline.store.tensors import kind_of, require_open
from pipeline.train.config import TrainConfig
from pipeline.train.series.checkpoint import bring_back, folder_of, require_state, set_aside
from pipeline.train.series.recent import knows_losses

logger = logging.getLogger(__name__)


class Stretch(NamedTuple):
    """Updates to be made in one go; a value of JSON, so that ranks can tell each other.

    Args:
        start: the step that it goes on from.
        folder: the checkpoint of that step, by its name in the series; "" for start values.
        saves: the steps to save on the way; the last one ends it.
        replay: whether what was trained after it stands, so that it only makes again how the
            series came there; else the series goes on from its end.
    """

    start: int
    folder: str
    saves: list[int]
    replay: bool = False


def plan_stretches(
    starts: Mapping[int, str], missing: Iterable[int], reached: int = -1
) -> list[Stretch]:
    """How the missing steps are made from the checkpoints that training can go on from.

    Args:
        reached: the last step whose weights stand.
    """
    made: list[Stretch] = []
    for step in sorted(missing):
        before = max((each for each in starts if each <= step), default=-1)
        if made and before <= made[-1].saves[-1]:
            made[-1].saves.append(step)
        else:
            made.append(Stretch(max(before, 0), starts.get(before, ""), [step]))
    return [each._replace(replay=each.saves[-1] < reached) for each in made]


def plan(series: Path, config: TrainConfig) -> list[Stretch]:
    """What is to be made so that all steps are there that are to be saved.

    A series may hold terabytes: digested is what training goes on from, and all of it only where
    nothing is to be made, as when one checkpoint was found damaged where it was read.

    Raises:
        PipelineError: the series has passed `stop_at` and did not save it: to make it would be to
            train again what was trained, and to write over its history.
    """
    _require_not_passed(series, config)
    unfit = set[str]()  # whole, and what the rule `skip` looks back to is not known
    while True:
        there = find_checkpoints(series, thorough=False)
        missing = [step for step in config.kept_steps if step not in there]
        if not missing:
            there = find_checkpoints(series)
            missing = [step for step in config.kept_steps if step not in there]
        starts = {step: checkpoint_name(step) for step in there if _can_go_on(series, step)}
        paused = find_stopped(series)
        if paused is not None and paused <= max(missing, default=0):
            starts.setdefault(paused, stopped_folder(series).name)
        reached = -1 if paused is None else paused
        fit = {step: name for step, name in starts.items() if name not in unfit}
        stretches = plan_stretches(fit, missing, max([*there, reached]))
        folders = [each.folder for each in stretches if each.folder]
        if all([is_whole(series / each) for each in folders]):
            lost = {
                each for each in folders if not knows_losses(series, series / each, config.skip)
            }
            if not lost:
                known = [step for step in there if checkpoint_name(step) not in unfit]
                _warn_of_dropped(known, stretches)
                return stretches
            unfit |= lost


def _require_not_passed(series: Path, config: TrainConfig) -> None:
    stop, last = config.last_step, passed(series, config.stop_at, config.save_steps)
    if last is not None:
        known = find_checkpoints(series, thorough=False)
        near = sorted(sorted(known, key=lambda each: abs(each - stop))[:2])
        raise PipelineError(
            f"stop_at is {stop}; the series has gone on to step {last} and did not save that one, "
            f"but {' and '.join(map(str, near))}"
        )


def _can_go_on(series: Path, step: int) -> bool:
    folder = folder_of(series, step)
    return has_state(folder, read_record(folder))


def _warn_of_dropped(there: list[int], stretches: Iterable[Stretch]) -> None:
    """Say which steps are made from an earlier one than the nearest that is there."""
    for each in stretches:
        at = each.start
        for step in each.saves:
            nearest = max((known for known in there if known <= step), default=0)
            if nearest > at:
                logger.warning(
                    "step %d is made from step %d: the optimizer's state of step %d is not kept",
                    step,
                    at,
                    nearest,
                )
            at = step


def is_saved(series: Path, config: TrainConfig) -> bool:
    """Whether all that a view shows is there and whole; nothing is changed, as others may train.

    What is known to be whole is not read again (`pipeline/store/verified.py`).
    """
    try:
        for step in config.kept_steps:
            _require_step(folder_of(series, step), step)
            verified.require_whole(folder_of(series, step))
    except CorruptShard:
        return False
    return True


def find_checkpoints(series: Path, *, thorough: bool = True) -> list[int]:
    """Steps whose weights are whole; a checkpoint whose are not is set aside.

    Args:
        thorough: check every digest; else the records, and that no file is missing or cut off.
    """
    found = []
    for step, folder in _folders(series):
        try:
            if thorough:
                _require_whole(folder, step)
            else:
                _require_readable(folder, step)
        except CorruptShard as error:
            if not _weights_stay(folder, str(error)):
                continue
        found.append(step)
    return found


def _weights_stay(folder: Path, reason: str) -> bool:
    """Whether the weights of a damaged checkpoint are good; if not, it is set aside.

    Results rely on the weights alone: what is damaged of the optimizer's state is dropped.
    """
    try:
        _require_whole(folder, with_state=False)
    except CorruptShard:
        set_aside(folder, reason)
        return False
    drop_state(folder)
    logger.warning("the optimizer's state of %s is dropped, its weights stay: %s", folder, reason)
    return True


def _folders(series: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a series, first step first.

    Raises:
        CorruptShard: one is a link: what is dropped of it would be dropped elsewhere.
    """
    found = checkpoint_folders(series)
    for _, folder in found:
        if folder.is_symlink():
            raise CorruptShard(folder, None, "it is a link; a series holds its checkpoints itself")
    return found


def is_whole(folder: Path) -> bool:
    """Whether training can go on from a checkpoint: its digests are right, and its state is there.

    If not, it is set aside, but for good weights under the name of their step.
    """
    try:
        _require_whole(folder)
        require_state(folder)
    except CorruptShard as error:
        if folder == stopped_folder(folder.parent):
            set_aside(folder, str(error))
        else:
            _weights_stay(folder, str(error))
        return False
    return True


def find_stopped(series: Path) -> int | None:
    """The step at which a run was stopped, if its state is there and whole."""
    bring_back(series)
    folder = stopped_folder(series)
    return read_record(folder).step if folder.exists() and is_whole(folder) else None


def drop_stopped(series: Path) -> None:
    """Remove the state of a stopped run once the series has gone on."""
    folder = stopped_folder(series)
    if folder.exists():
        last = max((step for step, _ in _folders(series)), default=0)
        if read_record(folder).step <= last:
            shutil.rmtree(folder, ignore_errors=True)


def as_checkpoint(series: Path, step: int) -> Checkpoint:
    """What a manifest says of a checkpoint."""
    record = read_record(folder_of(series, step))
    return Checkpoint(
        checkpoint_name(step),
        step,
        record.num_tokens_read,
        record.num_tokens_learned,
        record.weights,
    )


def drop_states(series: Path, retention: int | None, up_to: int, dropped: set[int]) -> None:
    """Remove the optimizer's state from all but the last `retention` checkpoints up to a step.

    Args:
        dropped: steps that are known to have none and are not looked at; others are added to it.
    """
    if retention is None:
        return
    folders = [(step, folder) for step, folder in _folders(series) if 0 < step <= up_to]
    for step, folder in folders[: max(0, len(folders) - retention)]:
        if step not in dropped:
            if any(kind_of(path.name) == "optimizer" for path in folder.iterdir()):
                drop_state(folder)
            dropped.add(step)


def _require_whole(folder: Path, step: int | None = None, *, with_state: bool = True) -> None:
    """Raises CorruptShard where a digest is not the recorded one, or the record of another step."""
    _require_step(folder, step)
    for name, sha256 in checkpoint_files(folder, with_state=with_state).items():
        if sha256 is not None and _sha256(folder / name) != sha256:
            raise CorruptShard(folder / name, None, "its SHA-256 is not the recorded one")


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise damage(path, error) from error


def _require_step(folder: Path, step: int | None) -> None:
    said = read_record(folder).step
    if step is not None and said != step:
        raise CorruptShard(folder, None, f"says that it is of step {said}")


def _require_readable(folder: Path, step: int) -> None:
    """Raises CorruptShard where a file is missing, or not as long as its header says."""
    _require_step(folder, step)
    for name, sha256 in checkpoint_files(folder).items():
        if sha256 is not None:
            try:
                require_open(folder / name)
                with safe_open(folder / name, framework="pt"):
                    pass
            except (OSError, SafetensorError) as error:
                raise damage(folder / name, error) from error
