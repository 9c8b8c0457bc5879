"""Checkpoints written while training goes on: a copy is taken at once, the rest is a thread's."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist

from pipeline.core.errors import PipelineError
from pipeline.model.olmo import Olmo
from pipeline.store import verified
from pipeline.store.checkpoints import CheckpointRecord, stopped_folder
from pipeline.store.leases import LostLease
from pipeline.train.ranks.distributed import Ranks
from pipeline.train.series import checkpoint, saved

logger = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes a checkpoint at a time; all ranks make the same calls.

    A checkpoint has its name once every rank has written its files and they are on the disk; until
    then, and where one of them fails, it stands under another and the last one stays as it is. The
    ranks meet in a process group of their own, so that a collective of the training is never mixed
    up with one of the writer.

    Args:
        retention: so many of the last checkpoints keep their optimizer's state; null for all.
        timeout_seconds: after which a rank no longer waits for what another has to write.
    """

    def __init__(self, ranks: Ranks, retention: int | None, timeout_seconds: int) -> None:
        self.ranks, self.retention = ranks, retention
        self.group: Any = None
        if dist.is_initialized():
            timeout = timedelta(seconds=timeout_seconds)
            self.group = dist.new_group(backend="gloo", timeout=timeout)
        self._thread: threading.Thread | None = None
        self._dropped = set[int]()  # checkpoints that keep no optimizer's state any more
        self._error: PipelineError | None = None
        self._abandoned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.wait()
        elif isinstance(error, Exception) and self._thread is not None:
            self._abandoned = isinstance(error, LostLease)
            self._thread.join()  # what it writes is good, whatever else failed here
            if self._error is not None and self._error is not error:
                logger.warning("%s", self._error)

    def save(
        self,
        folder: Path,
        model: Olmo,
        optimizer: torch.optim.Optimizer,
        record: CheckpointRecord,
    ) -> None:
        """Copy the state and begin to write it; waits for the checkpoint before it.

        Args:
            record: what is known of it; its digests are not.

        Raises:
            PipelineError: the checkpoint before it was not written.
        """
        self.wait()
        held = checkpoint.take_snapshot(model, optimizer)
        if self.ranks.rank == 0:
            checkpoint.clear_temporary(folder)
        self.ranks.wait()

        def work() -> None:
            try:
                self._write(folder, held, record)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                self._error = PipelineError(f"checkpoint {folder} was not written: {reason}")
                self._error.__cause__ = error

        self._thread = threading.Thread(target=work, name=f"write {folder.name}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises the error of a checkpoint that failed; waits for nothing."""
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Until nothing is being written; raises PipelineError where that failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _write(self, folder: Path, held: checkpoint.Snapshot, record: CheckpointRecord) -> None:
        temporary = checkpoint.temporary_folder(folder)
        ranks = self.ranks
        try:
            parts = self._agreed(
                lambda: checkpoint.write_part(held, temporary, ranks.rank, ranks.size)
            )
            sha256 = {name: each for part in parts for name, each in part.items()}
            self._agreed(lambda: self._finish(folder, record._replace(sha256=sha256)))
        except Exception:
            if ranks.rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _finish(self, folder: Path, record: CheckpointRecord) -> None:
        if self.ranks.rank == 0:
            self.ranks.require_open()
            if self._abandoned:
                raise LostLease("the series is another process's now")
            checkpoint.commit(folder, record)
            if folder != stopped_folder(folder.parent):
                verified.note_whole(folder)
                self._dropped.discard(record.step)
                saved.drop_states(folder.parent, self.retention, record.step, self._dropped)

    def _agreed(self, work: Callable[[], Any]) -> list[Any]:
        """What some work gave in each rank, as JSON; raises in all where it failed in one."""
        if self.group is None:
            return [work()]
        given = failure = None
        try:
            given = work()
        except Exception as error:
            failure = f"rank {self.ranks.rank}: {type(error).__name__}: {error}"
        told = self.ranks.told([given, failure], self.group)
        for _, each in told:
            if each is not None:
                raise PipelineError(each)
        return [each for each, _ in told]
