"""The errors a caller can act on; anything else is a `ValueError` or an `assert`."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

MAX_NAMES = 12  # that are listed in a message
MAX_REASON = 300  # characters of what a library says that are repeated


class PipelineError(Exception):
    """The base of every error the pipeline raises on purpose; it can cross processes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.args, self.__dict__)


def _again(
    kind: type[PipelineError], args: tuple[Any, ...], state: dict[str, Any]
) -> PipelineError:
    """The error as it was raised in another process; its class may take other arguments."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class CorruptShard(PipelineError):
    """A file breaks its own promise: not the size, digest, format or row it should be."""

    def __init__(self, path: Path | str, record: int | str | None, reason: str) -> None:
        place = f"{path}" if record is None else f"{path} record {record}"
        reason = reason.replace(f": '{path}'", "").replace(f" '{path}'", "")  # named once
        super().__init__(f"{place}: {reason}")
        self.path, self.record, self.reason = str(path), record, reason


class Inaccessible(PipelineError):
    """A file stands and the system does not let this process read it: a permission, or a disk.

    What is in it may be whole. What is damaged is made again; this stops the work instead.
    """

    def __init__(self, path: Path | str, error: OSError) -> None:
        self.reason = f"cannot be read ({error.strerror}); nothing is known of its state"
        super().__init__(f"{path} {self.reason}")
        self.path = str(path)


UNUSABLE = (CorruptShard, Inaccessible)  # for who passes over such a file and changes nothing
GONE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG)


def damage(
    path: Path | str, error: Exception, reason: str = "not readable"
) -> CorruptShard | Inaccessible:
    """What it says of a file that reading it failed.

    An error without a number is that of a library which does not know what it reads.
    """
    if isinstance(error, OSError) and error.errno not in (None, *GONE):
        return Inaccessible(path, error)
    return CorruptShard(path, None, f"{reason} ({str(error)[:MAX_REASON]})")


def require_known(path: Path | str, error: Exception) -> None:
    """Raises Inaccessible where that reading a file failed says nothing of what is in it."""
    if isinstance(found := damage(path, error), Inaccessible):
        raise found from error


class TaggerFailed(PipelineError):
    """A tagger fails on a document, or gives what is no measure of it; the document is whole."""

    def __init__(self, tagger: str, shard: str, record: str | None, reason: str) -> None:
        where = shard if record is None else f"document {record!r} of {shard}"
        super().__init__(f"tagger {tagger!r} failed on {where}: {reason}")
        self.tagger, self.record, self.reason = tagger, record, reason


class MismatchedInputs(PipelineError):
    """Two artifacts that do not belong together."""

    def __init__(self, left: object, right: object, reason: str) -> None:
        super().__init__(f"{left} and {right} do not belong together: {reason}")
        self.left, self.right, self.reason = left, right, reason


class MissingDependency(PipelineError):
    """An optional package is not installed."""

    def __init__(self, package: str, needed_by: str) -> None:
        super().__init__(
            f"{needed_by} needs the package {package}, which is not installed; "
            f"run: pip install {package}"
        )
        self.package, self.needed_by = package, needed_by


class ShardFailed(PipelineError):
    """The work on one shard failed; `__cause__` is the real error."""

    def __init__(self, shard: object, error: BaseException) -> None:
        super().__init__(f"shard {shard}: {type(error).__name__}: {error}")
        self.shard = shard


class DivergedTraining(PipelineError):
    """The loss or the gradient norm is not finite, or the loss is a spike.

    Args:
        documents: source and id of those that the batch read; the message names the first few.
        loss, grad_norm: what was measured; None where the rank that tells of it does not say.
    """

    def __init__(
        self,
        step: int,
        reason: str,
        documents: Sequence[tuple[str, str]] = (),
        *,
        loss: float | None = None,
        grad_norm: float | None = None,
    ) -> None:
        batch = ""
        if documents:
            named = list(dict.fromkeys(f"{source}/{id}" for source, id in documents))
            more = f" and {len(named) - MAX_NAMES} more" if len(named) > MAX_NAMES else ""
            batch = f"; its batch read {', '.join(named[:MAX_NAMES])}{more}"
        super().__init__(f"training diverged at step {step}: {reason}{batch}")
        self.step, self.reason, self.documents = step, reason, list(documents)
        self.loss, self.grad_norm = loss, grad_norm


class ChangedData(PipelineError):
    """Outside data is no longer what the graph was built on."""

    def __init__(self, what: object, reason: str = "") -> None:
        more = f" ({reason})" if reason else ""
        super().__init__(
            f"{what} changed while the graph ran{more}; run it again for what it is now"
        )


class Unavailable(PipelineError):
    """Outside data cannot be reached from this machine."""


def nearest(name: object, names: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the list of what there is: the end of a message on a wrong name."""
    known = sorted(names)
    close = difflib.get_close_matches(str(name), known, 1)
    if close:
        return f"; did you mean {close[0]!r}?"
    more = f" and {len(known) - MAX_NAMES} more" if len(known) > MAX_NAMES else ""
    return f"; there is {', '.join(known[:MAX_NAMES])}{more}" if known else ""
