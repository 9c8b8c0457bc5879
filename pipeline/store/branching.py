"""A series that begins as another one did: it takes over that one's checkpoints and history.

Checkpoints are never changed where they stand, so both series have the same files; whichever is
removed first, the other keeps its own names of them.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path

from pipeline.core.errors import CorruptShard
from pipeline.core.files import write_file
from pipeline.store.checkpoints import checkpoint_files, checkpoint_folders, read_record
from pipeline.store.history import (
    EVALUATIONS,
    HISTORY,
    add_segment,
    evaluation_rows,
    history_rows,
    sealed_line,
)
from pipeline.store.memo import place_file

logger = logging.getLogger(__name__)


def is_new(series: Path) -> bool:
    """Whether a series has no history yet."""
    return not os.path.lexists(Path(series) / HISTORY)


def branch(series: Path, origin: Path, last_step: int) -> int:
    """Begin a new series with the checkpoints of another up to a step; gives the last one's.

    The caller holds the lease of the series. The other one may be under way, and may have grown
    beyond the step. A checkpoint of it that is damaged is left; what a kill cut off is done again.

    Raises:
        CorruptShard: a file of either series is a link or no plain file.
    """
    if not is_new(series):
        return 0
    taken = [
        step
        for step, folder in checkpoint_folders(origin)
        if step <= last_step and _take(folder, series)
    ]
    last = max(taken, default=0)
    if last == 0:
        return 0
    rows = history_rows(origin)  # after the checkpoints: it may grow meanwhile
    said = {"segment": 1, "began": round(time.time(), 3), "first_step": 0, "last_step": last}
    reason = f"as the series {origin.name} up to step {last}"
    add_segment(series, said | {"cause": "taken over", "reason": reason, "num_updates": 0})
    own = {"segment": 1}
    lines = [sealed_line({**_plain(rows[step]), **own}) for step in sorted(rows) if step <= last]
    found = evaluation_rows(origin, earlier=True) + evaluation_rows(origin)
    measured = [row | own for row in found if row["step"] <= last]
    if measured:
        write_file(series / EVALUATIONS, "".join(map(sealed_line, measured)).encode())
    write_file(series / HISTORY, "".join(lines).encode())
    logger.info("%s begins as %s up to step %d", series.name[:12], origin.name[:12], last)
    return last


def _take(folder: Path, series: Path) -> bool:
    """Give a checkpoint's files a place in a series too; whether they were whole and are there."""
    if folder.is_symlink():
        return False
    target = series / folder.name
    temporary = series / f".{folder.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        for name in checkpoint_files(folder):
            place_file(folder / name, temporary / name)
        if read_record(temporary) == read_record(folder) and not target.exists():
            os.replace(temporary, target)
    except (CorruptShard, FileNotFoundError) as error:  # or it was removed meanwhile
        logger.warning("%s is not taken over: %s", folder, error)
        return False
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target.exists()


def _plain(row: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if name != "replay"}
