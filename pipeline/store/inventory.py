"""Which files a result has, and whether they are still those that were committed.

`files.json` beside a manifest lists every other file: its size, its SHA-256, and the modification
time at which it was last known to be whole. There are three looks at it:

    standing   names and sizes, and the bytes of the manifest: at every question whether it is there
    whole      and the SHA-256 of each file up to 16 MiB, and of each larger one whose modification
               time moved: before a step reads it
    thorough   the SHA-256 of every file: `olmo verify`

At the commit the sizes are checked; the digests are those that the writers took of what they wrote.
A copied workspace has other modification times, so what is read of it is digested once.
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.artifacts import MANIFEST, Artifact, Checkpoints, TokenMix
from pipeline.core.errors import CorruptShard, Inaccessible, damage, require_known
from pipeline.core.files import file_sha256, require_inside
from pipeline.core.untrusted import Remembered, built, read_plain_file
from pipeline.store.checkpoints import checkpoint_files
from pipeline.store.sealed import unsealed, write_sealed

FILES = "files.json"
ID = re.compile(r"[A-Za-z0-9]+-[A-Za-z0-9]+-[0-9a-f]{32}")
SMALL_BYTES = 16 << 20  # cheap beside what is done with them; a disk that rots moves no time
RESTAMP_BYTES = 32 << 20  # so much is digested again sooner than a file is written for it


def is_id(text: object) -> bool:
    """Whether something is the id of a result."""
    return isinstance(text, str) and ID.fullmatch(text) is not None


@dataclass(frozen=True)
class FileState:
    """A file as it was when it was known to be whole."""

    num_bytes: int
    sha256: str
    mtime_ns: int

    @classmethod
    def of(cls, path: Path, sha256: str | None = None) -> FileState:
        """The state of a plain file; without a digest it is read for it.

        Raises:
            CorruptShard: it is missing or no plain file.
        """
        found = plain_stat(path)
        digest = sha256 or file_sha256(path)
        return cls(found.st_size, digest, max(0, found.st_mtime_ns))

    def fault(
        self,
        path: Path,
        noted_ns: int = 0,
        sha256_of: Callable[[Path], str] = file_sha256,
        small_bytes: int | None = None,
    ) -> CorruptShard | None:
        """Why the file at `path` is not this one; None if it is.

        Args:
            noted_ns: when this state was written down, by the clock of the file system; a large
                file whose time has not moved since is not digested. 0 digests every file.
            sha256_of: how a file is digested.
            small_bytes: what is no larger is digested whatever its time; by default 16 MiB.

        Raises:
            Inaccessible: it may be, and cannot be read.
        """
        try:
            found = plain_stat(path)
            if found.st_size != self.num_bytes:
                reason = f"has {found.st_size} bytes; it was committed with {self.num_bytes}"
                return CorruptShard(path, None, reason)
            small = SMALL_BYTES if small_bytes is None else small_bytes
            trusted = self.num_bytes > small and self.is_unmoved(found, noted_ns)
            if not trusted and sha256_of(path) != self.sha256:
                return CorruptShard(path, None, "its SHA-256 is not the one it was committed with")
        except CorruptShard as error:
            return error
        except OSError as error:
            require_known(path, error)
            return CorruptShard(path, None, f"not readable ({error})")
        return None

    def is_unmoved(self, found: os.stat_result, noted_ns: int) -> bool:
        """Whether no program wrote to a file: one tick after it was noted, that moves its time."""
        return found.st_mtime_ns == self.mtime_ns < noted_ns


def time_of(path: Path) -> int:
    """The modification time of a file, in nanoseconds; 0 where there is none."""
    try:
        return os.lstat(path).st_mtime_ns
    except OSError:
        return 0


def stands(path: Path) -> bool:
    """Whether a file has this name; raises Inaccessible where the system does not tell."""
    try:
        os.lstat(path)
    except OSError as error:
        require_known(path, error)
        return False
    return True


def plain_stat(path: Path | str) -> os.stat_result:
    """The status of a plain file; raises CorruptShard where it is missing, or a link."""
    try:
        found = os.lstat(path)
    except (OSError, ValueError) as error:
        raise damage(path, error, "is missing") from error
    if not stat.S_ISREG(found.st_mode):
        raise CorruptShard(path, None, "is no plain file")
    return found


@dataclass(frozen=True)
class Inventory:
    """The files of one result.

    Args:
        files: by their path in the result's folder.
        series: weights of checkpoints that the result shows, by their path in the series folder.
        references: ids of the results whose files it reads from where they stand.
        discarded: its data was dropped on purpose; only what is JSON stands.
        damage: what a thorough look found; "" where it found nothing.
    """

    files: dict[str, FileState]
    series: dict[str, FileState] = field(default_factory=dict)
    references: list[str] = field(default_factory=list)
    discarded: bool = False
    damage: str = ""

    def __post_init__(self) -> None:
        for path in (*self.files, *self.series):
            require_inside(path)
        for id in self.references:
            if not ID.fullmatch(id):
                raise ValueError(f"references names {id!r}, which is no id of a result")

    @classmethod
    def take(cls, artifact: Artifact, series_root: Path) -> Inventory:
        """List the files of a result that was just made, or of one that has no list yet.

        Raises:
            CorruptShard: one is missing, no plain file, or not of the manifest's size.
        """
        folder = artifact.root
        known = {}
        for each in artifact.files():
            each.place(folder)
            known[os.path.normpath(each.path)] = each.sha256
        files = {}
        for name in sorted(_below(folder)):
            if name != FILES:
                files[name] = FileState.of(folder / name, known.get(name))
        return cls(files, *_elsewhere(artifact, series_root))

    @classmethod
    def of_manifest(cls, artifact: Artifact, series_root: Path) -> Inventory:
        """The list of a result that came without one: what the manifest says, trusted in nothing.

        Raises:
            CorruptShard: a checkpoint that it shows has no record.
        """
        files = {
            os.path.normpath(f.path): FileState(f.num_bytes, f.sha256, 0) for f in artifact.files()
        }
        files[MANIFEST] = FileState.of(artifact.root / MANIFEST)
        return cls(files, *_elsewhere(artifact, series_root))

    def relisted(self, folder: Path) -> Inventory:
        """The list of a folder with the same data, and its own notes of why and how."""
        notes = {name: FileState.of(folder / name) for name in self.files if is_note(name)}
        return dataclasses.replace(self, files={**self.files, **notes})

    @classmethod
    def read(cls, folder: Path) -> Inventory | None:
        """The list beside a manifest; None if there is none.

        Raises:
            CorruptShard: it is not one, or not as it was written.
        """
        path = Path(folder) / FILES
        try:
            return _known.get("", read_plain_file(path), _read)
        except FileNotFoundError:
            return None
        except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise damage(path, error, "not a list of files") from error

    def write(self, folder: Path) -> None:
        write_sealed(Path(folder) / FILES, dataclasses.asdict(self))

    def places(self, folder: Path, series_root: Path) -> Iterator[tuple[str, FileState]]:
        """Every file that must stand, and its state."""
        for name, state in self.files.items():
            if not self.discarded or is_note(name):
                yield os.path.join(folder, name), state
        for name, state in self.series.items():
            yield os.path.join(series_root, name), state

    def missing(self, folder: Path, series_root: Path) -> CorruptShard | None:
        """The first fault that names, sizes and the manifest's bytes show."""
        if self.damage:
            return CorruptShard(folder, None, self.damage)
        if MANIFEST in self.files:
            fault = self.files[MANIFEST].fault(Path(folder) / MANIFEST)
            if fault is not None:
                return fault
        for place, state in self.places(folder, series_root):
            if (fault := _size_fault(place, state)) is not None:
                return fault
        return None

    def faults(
        self,
        folder: Path,
        series_root: Path,
        *,
        thorough: bool,
        sha256_of: Callable[[Path], str] = file_sha256,
    ) -> list[CorruptShard | Inaccessible]:
        """Every fault that digests show; when there is none, times that moved are noted anew.

        A file that may not be read is among them.

        Args:
            thorough: digest every file, large ones too whose time has not moved.
            sha256_of: how a file is digested.
        """
        noted_ns = time_of(Path(folder) / FILES)
        found: list[CorruptShard | Inaccessible] = []
        moved, num_moved_bytes = {}, 0
        for place, state in self.places(folder, series_root):
            path = Path(place)
            try:
                fault = state.fault(path, 0 if thorough else noted_ns, sha256_of)
            except Inaccessible as error:
                found.append(error)
                continue
            if fault is not None:
                found.append(fault)
            elif not state.is_unmoved(now := os.lstat(path), noted_ns):
                moved[path] = dataclasses.replace(state, mtime_ns=max(0, now.st_mtime_ns))
                num_moved_bytes += state.num_bytes
        if num_moved_bytes > RESTAMP_BYTES and not found:
            self._restamped(folder, series_root, moved)
        return found

    def _restamped(self, folder: Path, series_root: Path, moved: dict[Path, FileState]) -> None:
        files = {n: moved.get(Path(folder) / n, state) for n, state in self.files.items()}
        series = {n: moved.get(Path(series_root) / n, state) for n, state in self.series.items()}
        with suppress(OSError):  # a disk that cannot be written costs time, not correctness
            dataclasses.replace(self, files=files, series=series).write(folder)


def _read(text: bytes) -> Inventory:
    made: Inventory = built(Inventory, unsealed(text), FILES)
    return made


_known: Remembered[Inventory] = Remembered()


def _elsewhere(artifact: Artifact, series_root: Path) -> tuple[dict[str, FileState], list[str]]:
    """The weights of checkpoints that an artifact shows, and the results that it draws on."""
    series: dict[str, FileState] = {}
    references: list[str] = []
    if isinstance(artifact, TokenMix):
        names = {each.name for each in artifact.folders()}
        references = sorted(each for each in names if ID.fullmatch(each))
    if isinstance(artifact, Checkpoints):
        for checkpoint in artifact.steps:
            place = series_root / artifact.series / artifact.folder(checkpoint).name
            shown = checkpoint_files(place, checkpoint.weights, with_state=False)
            for name, sha256 in shown.items():
                path = place / name
                series[path.relative_to(series_root).as_posix()] = FileState.of(path, sha256)
    return series, references


def is_note(name: str) -> bool:
    """Whether a file of a result stays when its data is discarded: what it is, why and how."""
    return name in (MANIFEST, "key.json", "run.json", "code.diff")


def _size_fault(path: str, state: FileState) -> CorruptShard | None:
    try:
        size = plain_stat(path).st_size
    except CorruptShard as error:
        return error
    if size == state.num_bytes:
        return None
    return CorruptShard(path, None, f"has {size} bytes; it was committed with {state.num_bytes}")


def _below(folder: Path) -> Iterator[str]:
    """The path in a folder of every file; links are given too, so that they are refused."""
    for place, folders, names in os.walk(folder):
        above = "" if place == str(folder) else os.path.relpath(place, folder) + "/"
        yield from (above + name for name in names)
        for name in folders:
            if os.path.islink(os.path.join(place, name)):
                yield above + name
