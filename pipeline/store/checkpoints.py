"""What a checkpoint in a training series says of itself; read without torch.

A result that shows a checkpoint relies on its weights alone: the optimizer's state is there so that
training can go on, and is dropped from all but the last few (`retention`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from pipeline.core.artifacts import checkpoint_name
from pipeline.core.errors import CorruptShard, damage, require_known
from pipeline.core.untrusted import built
from pipeline.store.sealed import read_sealed, write_sealed
from pipeline.store.tensors import are_complete, kind_of

RECORD = "state.json"
_NAME = re.compile("step[0-9]{6,18}")
_DIGEST = re.compile("[0-9a-f]{64}")


def checkpoint_folders(series: Path) -> list[tuple[int, Path]]:
    """What has the name of a checkpoint in a series, links too, with its step; first step first.

    Raises:
        Inaccessible: the series may not be looked into.
    """
    try:
        names = os.listdir(series)
    except OSError as error:
        require_known(series, error)
        return []
    found = [
        (int(name.removeprefix("step")), Path(series) / name)
        for name in names
        if _NAME.fullmatch(name)
    ]
    return sorted(each for each in found if each[1].name == checkpoint_name(each[0]))


@dataclass(frozen=True)
class RecentLosses:
    """What a rule on spikes judges the next update by.

    Args:
        losses: of the last updates that were made, as far back as the rule looks; the latest last.
        skipped_since: updates that were left out after the last one made.
    """

    losses: list[float]
    skipped_since: int


class CheckpointRecord(NamedTuple):
    """What `state.json` says of a checkpoint; `sha256` is of its other files, by name."""

    step: int
    num_tokens_read: int
    num_tokens_learned: int
    weights: str
    sha256: dict[str, str]
    num_skipped: int = 0  # of the steps, those whose update was left out
    recent: RecentLosses | None = None  # where it was trained with a rule on spikes


def write_record(folder: Path, record: CheckpointRecord) -> None:
    """Say what a checkpoint is, once its other files are written."""
    form = record._asdict()
    form |= {"recent": asdict(form["recent"])} if form["recent"] else {}
    write_sealed(Path(folder) / RECORD, {n: each for n, each in form.items() if each is not None})


def read_record(folder: Path) -> CheckpointRecord:
    """The record of a checkpoint; raises CorruptShard where it is missing or broken.

    Of one that may not be read: Inaccessible.
    """
    path = Path(folder) / RECORD
    try:
        form = read_sealed(path)
        return _checked_record({"num_skipped": 0, "recent": None, **form})
    except (OSError, LookupError, ValueError, TypeError) as error:
        raise damage(path, error, "not the record of a checkpoint") from error


def _checked_record(form: Mapping[str, Any]) -> CheckpointRecord:
    """The record that some JSON gives; raises ValueError or LookupError where it gives none."""
    hints = get_type_hints(CheckpointRecord)
    record = CheckpointRecord(**{name: built(hints[name], form[name], name) for name in hints})
    for name, digest in {"weights": record.weights, **record.sha256}.items():
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"the digest of {name} is {digest[:80]!r}; it must be 64 hex digits")
    if not are_complete(record.sha256):
        there = ", ".join(sorted(record.sha256)) or "none"
        raise ValueError(f"its files must be model and optimizer of each rank; there is {there}")
    if record.num_skipped > record.step:
        raise ValueError(f"num_skipped is {record.num_skipped}; there are {record.step} steps")
    if (recent := record.recent) is not None:
        made = record.step - record.num_skipped
        if len(recent.losses) > made:
            raise ValueError(f"recent.losses has {len(recent.losses)}; {made} updates were made")
        if recent.skipped_since > record.num_skipped:
            since = f"recent.skipped_since is {recent.skipped_since}"
            raise ValueError(f"{since}; num_skipped is {record.num_skipped}")
    return record


def checkpoint_files(
    folder: Path, weights: str | None = None, *, with_state: bool = True
) -> dict[str, str | None]:
    """The files of a checkpoint with the digests it was saved with; None for the record itself.

    Args:
        weights: the content digest that the weights must have.
        with_state: name the optimizer's state too, where it was not dropped.

    Raises:
        CorruptShard: its record is missing or broken, or it is of other weights, or a file is none,
            or there are tensors beside those that it names.
    """
    record = read_record(folder)
    strays = {path.name for path in Path(folder).glob("*.safetensors")} - record.sha256.keys()
    if strays:
        raise CorruptShard(Path(folder) / min(strays), None, "is not named by the record beside it")
    if weights is not None and record.weights != weights:
        reason = f"is of the weights {record.weights[:12]}, not {weights[:12]}"
        raise CorruptShard(Path(folder) / RECORD, None, reason)
    keeps = with_state and has_state(folder, record)
    files = {name: each for name, each in record.sha256.items() if keeps or not _is_state(name)}
    for path in (Path(folder) / name for name in files):
        if path.exists() and not path.is_file():
            raise CorruptShard(path, None, "it is no plain file")
    return {**files, RECORD: None}


def stopped_folder(series: Path) -> Path:
    """Where the state of a run that was asked to stop stands until it has gone on."""
    return Path(series) / ".stopped"


def stopped_at(series: Path) -> int:
    """The step whose state stands there, as its record says; -1 where there is none."""
    try:
        return read_record(stopped_folder(series)).step
    except CorruptShard:
        return -1


def has_state(folder: Path, record: CheckpointRecord) -> bool:
    """Whether all files of the optimizer's state stand, so that training can go on from here."""
    return all((Path(folder) / name).exists() for name in record.sha256 if _is_state(name))


def drop_state(folder: Path) -> None:
    """Remove the optimizer's state from a checkpoint; its weights and its record stay."""
    for name in read_record(folder).sha256:
        if _is_state(name):
            (Path(folder) / name).unlink(missing_ok=True)


def _is_state(name: str) -> bool:
    return kind_of(name) == "optimizer"
