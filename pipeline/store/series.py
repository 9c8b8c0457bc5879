"""Where a training series stands, and which steps train it.

<root>/series/<id>/step000400/     one checkpoint: its files, and `state.json` with their digests
<root>/series/<id>/history.jsonl   a line an update
<root>/series/<id>/segments.jsonl  a line where a segment of updates begins, and one where it ends
<root>/series/<id>/evaluations.jsonl  a line an evaluation
<root>/series/<id>/users.json      ids of the steps that train it, finished or not
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from pipeline.core.files import write_json
from pipeline.core.untrusted import built, read_json
from pipeline.store.history import HISTORY, SEGMENTS
from pipeline.store.leases import Lease

logger = logging.getLogger(__name__)
USERS = "users.json"


def note_user(series: Path, id: str) -> None:
    """Note that the step `id` trains this series, so that what it made so far is kept for it.

    The caller holds the lease of the step, so that nobody takes it for one that is gone.
    """
    with _users_lease(series):
        users = read_users(series)
        if users is None:
            logger.warning(
                "%s is damaged; other steps are named there again when they run", series / USERS
            )
        if id not in (users or []):
            write_json(Path(series) / USERS, sorted({*(users or []), id}))


def forget_users(series: Path, ids: set[str], is_gone: Callable[[str], bool]) -> None:
    """Note that steps do not train this series any more.

    Args:
        is_gone: whether a step is; asked while nobody else can note a user.
    """
    with _users_lease(series):
        users = set(read_users(series) or [])
        gone = {id for id in ids & users if is_gone(id)}
        if gone:
            write_json(Path(series) / USERS, sorted(users - gone))


def _users_lease(series: Path) -> Lease:
    """For the moment in which a list of users is changed; the series itself may be in training."""
    return Lease(Path(series).parent.parent / "leases", f"users-{Path(series).name}")


def read_users(series: Path) -> list[str] | None:
    """Ids of the steps that train a series; None where the file that has them is damaged."""
    try:
        users: list[str] = built(list[str], read_json(Path(series) / USERS), USERS)
    except FileNotFoundError:
        return []
    except (OSError, ValueError):
        return None
    return users


def series_of(series_root: Path, id: str) -> Path | None:
    """The series that the step `id` trains, finished or not; of several the one worked on last."""
    found = [each for each in Path(series_root).glob("*") if id in (read_users(each) or [])]
    return max(found, key=_last_change, default=None)


def _last_change(series: Path) -> int:
    paths = (series / name for name in (HISTORY, SEGMENTS, USERS))
    return max(path.lstat().st_mtime_ns for path in paths if os.path.lexists(path))
