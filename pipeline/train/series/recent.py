"""What rules on spikes judge by where training goes on from a checkpoint.

Of a rule that leaves updates out, the weights depend on it. So the checkpoint says it; one that was
saved without a rule, or with one that looked less far back, is helped by the history.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

from pipeline.core.errors import CorruptShard
from pipeline.store.checkpoints import CheckpointRecord, RecentLosses, read_record
from pipeline.store.history import HISTORY, history_rows
from pipeline.train.ranks.distributed import Ranks
from pipeline.train.spikes import SkipRule, SpikeRule, Watch

logger = logging.getLogger(__name__)


def watch_from(
    series: Path,
    record: CheckpointRecord,
    stop: SpikeRule | None,
    skip: SkipRule | None,
    ranks: Ranks,
) -> Watch:
    """What judges the updates after a checkpoint, the same in all ranks; all of them call it.

    Where `stop` looks further back than is known, it judges by what is: no weight depends on it.

    Raises:
        CorruptShard: what `skip` judges by is not known.
    """
    watch = Watch(stop, skip)
    if stop or skip:  # as a file system may show ranks a row at different times, one looks
        told = ranks.agreed(lambda: asdict(_recent(series, record, stop, skip)))
        watch.recall(RecentLosses(**told))
    return watch


def _recent(
    series: Path, record: CheckpointRecord, stop: SpikeRule | None, skip: SkipRule | None
) -> RecentLosses:
    found = _known(series, record, max(rule.window for rule in (stop, skip) if rule))
    if found is not None:
        return found
    path, reason = Path(series) / HISTORY, _lost(record.step)
    if skip is not None and (found := _known(series, record, skip.window)) is None:
        raise CorruptShard(path, None, reason)
    logger.warning("%s %s; stop_on judges without", path, reason)
    return found or record.recent or RecentLosses([], 0)


def knows_losses(series: Path, folder: Path, skip: SkipRule | None) -> bool:
    """Whether what a rule judges by is known at a checkpoint; a warning tells where it is not."""
    record = read_record(folder)
    if skip is None or _known(series, record, skip.window) is not None:
        return True
    told = "%s is not gone on from: %s %s"
    logger.warning(told, folder, Path(series) / HISTORY, _lost(record.step))
    return False


def _lost(step: int) -> str:
    return f"lacks a whole line of an update that a rule on spikes looks back to from step {step}"


def _known(series: Path, record: CheckpointRecord, window: int) -> RecentLosses | None:
    """The last `window` losses up to a checkpoint, or all; None where one is lost."""
    num_made = record.step - record.num_skipped
    wanted = min(window, num_made)
    if record.recent is not None and len(record.recent.losses) >= wanted:
        return record.recent
    if not wanted:
        return RecentLosses([], record.num_skipped)
    rows = history_rows(series)
    losses: list[float] = []
    skipped_since = 0
    for step in range(record.step, 0, -1):
        row = rows.get(step, {"loss": None})
        if row.get("skipped"):
            skipped_since += not losses
        elif row["loss"] is None:
            return None
        else:
            losses.append(row["loss"])
            if len(losses) == wanted:
                return RecentLosses(losses[::-1], skipped_since)
    return None
