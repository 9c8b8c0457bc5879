"""A remote cache that several machines share: results pushed to object storage and pulled from it.

    <url>/results/<id>.json             the entry of a result, written after its files
    <url>/memo/<content key>.json       the id of the result that a content key gave
    <url>/runs/<name>.json              the steps of a run and their ids
    <url>/files/<ab>/<sha256>           bytes, by their digest

Bytes stand under their digest, so machines that push one result at once write the same objects;
whichever entry comes last is complete, as all of its files were there before it. What is pulled is
checked in a folder of its own and comes into the workspace by one rename, as what is made here.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from pipeline.core.artifacts import Artifact, Checkpoints, file_sha256, write_json
from pipeline.core.errors import CorruptShard, MismatchedInputs, PipelineError
from pipeline.store.entries import OWN, Entry, Listed, references
from pipeline.store.memo import place_file
from pipeline.store.objects import ObjectStore, Tell
from pipeline.store.results import ID, KEY, RECORD, Results

TRANSFERS = 8  # files on their way at a time
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Moved:
    """What became of one result.

    "kept" means that the other side has another content under this id and keeps it: the step does
    not give the same bytes everywhere, as trainings do.
    """

    id: str
    state: Literal["moved", "there", "kept"]
    num_bytes: int = 0


class Remote:
    """The results below one URL, `s3://`, `gs://` or any that fsspec knows, or a folder."""

    def __init__(self, url: str) -> None:
        self.store = ObjectStore(url)
        self._is_out_of_reach = False

    def __contains__(self, id: str) -> bool:
        return self.store.size(_entry(id)) is not None

    def having(self, ids: Iterable[str]) -> set[str]:
        """Those of the results that stand there."""
        wanted = list(ids)
        with ThreadPoolExecutor(TRANSFERS) as pool:
            found = pool.map(self.__contains__, wanted)
            return {id for id, there in zip(wanted, found, strict=True) if there}

    def entry(self, id: str) -> Entry | None:
        """What the remote says of a result; None where it has none.

        Raises:
            CorruptShard: it is not what we write.
        """
        value = self.store.read_json(_entry(id))
        return None if value is None else Entry.parse(value, id, self._place(id))

    def find(self, content_key: str) -> str | None:
        """The id of the result that a content key gave somewhere."""
        id = (self.store.read_json(f"memo/{content_key}.json") or {}).get("result")
        return id if isinstance(id, str) and ID.fullmatch(id) else None

    # ---------------------------------------------------------------- push

    def push(self, results: Results, ids: Iterable[str], *, mend: bool = False) -> list[Moved]:
        """Copy results there, and those whose files they name; what is there is not sent again.

        Args:
            mend: send all of it again, as something there is damaged.

        Raises:
            KeyError: there is no such result here.
            CorruptShard: a file here is not what its manifest says; nothing of that result is sent.
        """
        moved: list[Moved] = []
        plans: list[tuple[str, Entry, dict[str, Path]]] = []
        for id in _with_references(results, ids):
            made, folder = results.load(id), results.folder(id)
            there = self._entry_or_none(id)
            if there is not None and not mend:
                same = there.manifest.get("content") == made.content
                moved.append(Moved(id, "there" if same else "kept"))
                continue
            entry = Entry.of(folder, made)
            plans.append((id, entry, _sources(entry, folder, made)))
        with _bar("push") as bar, ThreadPoolExecutor(TRANSFERS) as pool:
            files = [_whole(entry, sources) for _, entry, sources in plans]
            bar.expect(sum(each.num_bytes for whole in files for each, _ in whole))

            def send(each: tuple[Listed, Path]) -> None:
                self._send(*each, bar.tell, mend)

            for (id, entry, _), whole in zip(plans, files, strict=True):
                _all(pool, send, whole)
                self.store.write_json(_entry(id), entry.to_json())
                content_key = entry.record.get("content_key")
                if isinstance(content_key, str):
                    self.store.write_json(f"memo/{content_key}.json", {"result": id})
                moved.append(Moved(id, "moved", entry.num_bytes))
        return moved

    def _send(self, file: Listed, source: Path, tell: Tell, mend: bool) -> None:
        if not mend and self.store.size(file.place) == file.num_bytes:
            tell(file.num_bytes)
            return
        if file_sha256(source) != file.sha256:
            raise CorruptShard(source, None, "its SHA-256 is not the one in its manifest")
        self.store.upload(source, file.place, tell)

    def _entry_or_none(self, id: str) -> Entry | None:
        """The entry, unless it is damaged: then it is written anew."""
        try:
            return self.entry(id)
        except CorruptShard as fault:
            logger.warning("%s; it is written anew", fault)
            return None

    # ---------------------------------------------------------------- pull

    def pull(self, results: Results, ids: Iterable[str]) -> list[Moved]:
        """Copy results here, and those whose files they name; every byte is checked on the way.

        Raises:
            KeyError: the remote has no such result.
            CorruptShard: what stands there is not what its entry says; nothing of it is used.
            MismatchedInputs: the series here has a checkpoint with other weights.
        """
        with _bar("pull") as bar:
            return self._pull(results, ids, bar)

    def _pull(self, results: Results, ids: Iterable[str], bar: _Bytes) -> list[Moved]:
        moved: list[Moved] = []
        for id in ids:
            with results.lease(id):
                moved += self._fetch(results, id, bar)
        return moved

    def _fetch(self, results: Results, id: str, bar: _Bytes) -> list[Moved]:
        """Pull one result, whose lease is held."""
        if id in results:
            return [Moved(id, "there")]
        entry = self.entry(id)
        if entry is None:
            raise KeyError(id)
        staged = results.root / "work" / f".pull-{id}"
        staged.mkdir(parents=True, exist_ok=True)
        made = entry.load(staged, self._place(id))
        moved = self._pull(results, references(made), bar)
        _require_space(results.root, entry.num_bytes)
        bar.expect(entry.num_bytes)
        if isinstance(made, Checkpoints):
            with results.lease(f"series-{made.series}"):
                self._fetch_series(made, entry, bar.tell)
        self._fetch_files(entry.files, staged, bar.tell)
        write_json(staged / KEY, entry.key)
        write_json(staged / RECORD, {**entry.record, "pulled_from": self.store.shown})
        content_key = entry.record.get("content_key")
        if isinstance(content_key, str) and len(content_key) == 64 and content_key.isalnum():
            results.memo.keep(content_key, id)
        results.publish(staged, id)
        return [*moved, Moved(id, "moved", entry.num_bytes)]

    def _fetch_files(self, files: list[Listed], folder: Path, tell: Tell) -> None:
        """Have the files in `folder`; those that an earlier pull left there are not read again."""
        first: dict[str, Listed] = {}
        for each in files:
            first.setdefault(each.sha256, each)
        wanted = {*OWN, *(each.path for each in files)}
        for path in folder.rglob("*"):
            if not path.is_dir() and path.relative_to(folder).as_posix() not in wanted:
                path.unlink()

        def fetch(each: Listed) -> None:
            place = folder / each.path
            if place.is_file() and file_sha256(place) == each.sha256:
                tell(each.num_bytes)
                return
            self.store.download(
                each.place, place, num_bytes=each.num_bytes, sha256=each.sha256, tell=tell
            )

        with ThreadPoolExecutor(TRANSFERS) as pool:
            _all(pool, fetch, list(first.values()))
        for each in files:
            if each is not first[each.sha256]:
                place_file(folder / first[each.sha256].path, folder / each.path)
                tell(each.num_bytes)

    def _fetch_series(self, made: Checkpoints, entry: Entry, tell: Tell) -> None:
        for each in made.steps:
            final = made.folder(each)
            files = entry.checkpoints[final.name]
            if final.is_dir():
                _require_weights(final, each.weights)
                tell(sum(file.num_bytes for file in files))
                continue
            staged = final.with_name(f".pull-{final.name}")
            self._fetch_files(files, staged, tell)
            _require_weights(staged, each.weights)
            os.replace(staged, final)

    # ---------------------------------------------------------------- read-through

    def reachable(self, ids: Iterable[str]) -> set[str]:
        """Those of the results that stand there; none where the remote is out of reach."""
        found: set[str] = set()

        def look() -> bool:
            found.update(self.having(id for id in ids if ID.fullmatch(id)))
            return True

        self._tried(look)
        return found

    def bring(self, results: Results, id: str) -> bool:
        """Pull a result whose lease the caller holds, if it is there and sound; else say why not.

        A cache out of reach or damaged costs time and never fails a run.
        """

        def look() -> bool:
            with _bar("pull") as bar:
                return id in self and bool(self._fetch(results, id, bar))

        return self._tried(look)

    def bring_content(self, results: Results, content_key: str) -> str | None:
        """Pull a result with this content key; its id, or None."""

        def look() -> bool:
            id = self.find(content_key)
            return id is not None and id in self and bool(self.pull(results, [id]))

        id = results.memo.find(content_key) if self._tried(look) else None
        return id if id is not None and id in results else None

    def _tried(self, attempt: Callable[[], bool]) -> bool:
        if self._is_out_of_reach:
            return False
        try:
            return attempt()
        except (CorruptShard, MismatchedInputs, KeyError, OSError) as fault:
            logger.warning("not taken from the remote: %s", fault)
        except PipelineError as fault:
            self._is_out_of_reach = True
            logger.warning("the remote is not asked again in this run: %s", fault)
        return False

    # ---------------------------------------------------------------- runs

    def runs(self) -> dict[str, dict[str, Any]]:
        """The runs that were pushed, by name: `started`, and `steps`, each with its id."""
        names = [each.removesuffix(".json") for each in self.store.names("runs")]
        found = {name: self.run(name) for name in names}
        return {name: run for name, run in found.items() if run is not None}

    def run(self, name: str) -> dict[str, Any] | None:
        """One of the runs; None where there is none of that name.

        Raises:
            CorruptShard: it is not what we write.
        """
        value = self.store.read_json(f"runs/{name}.json")
        if value is None:
            return None
        steps, started = value.get("steps"), value.get("started")
        if not isinstance(started, (int, float)) or not isinstance(steps, dict):
            raise CorruptShard(f"{self.store.shown}/runs/{name}.json", None, "not a run")
        for step, id in steps.items():
            outside = set(step) & set("/\\\0") or step.startswith(".") or not step
            if outside or not isinstance(id, str) or not ID.fullmatch(id):
                reason = f"its step {step!r} has the id {id!r}"
                raise CorruptShard(f"{self.store.shown}/runs/{name}.json", None, reason)
        return value

    def push_run(self, name: str, steps: dict[str, str], started: float) -> None:
        self.store.write_json(f"runs/{name}.json", {"started": started, "steps": steps})

    def _place(self, id: str) -> str:
        return f"{self.store.shown}/{_entry(id)}"


def _entry(id: str) -> str:
    if not ID.fullmatch(id):
        raise ValueError(f"{id!r} is not the id of a result")
    return f"results/{id}.json"


def _with_references(results: Results, ids: Iterable[str]) -> list[str]:
    """The results, each after those whose files it names, none twice."""
    found: dict[str, None] = {}
    for id in ids:
        for below in _with_references(results, references(results.load(id))):
            found.setdefault(below)
        found.setdefault(id)
    return list(found)


def _sources(entry: Entry, folder: Path, made: Artifact) -> dict[str, Path]:
    """Where the bytes of each digest stand here."""
    sources = {each.sha256: folder / each.path for each in entry.files}
    if isinstance(made, Checkpoints):
        for name, files in entry.checkpoints.items():
            sources |= {each.sha256: made.series_root / name / each.path for each in files}
    return sources


def _whole(entry: Entry, sources: dict[str, Path]) -> list[tuple[Listed, Path]]:
    """Each digest once, with the file to read it from."""
    once = {each.sha256: each for each in entry.every_file()}
    return [(each, sources[sha256]) for sha256, each in once.items()]


def _all(pool: ThreadPoolExecutor, work: Callable[[Any], None], items: list[Any]) -> None:
    """Do the work on each; the first fault drops what has not begun."""
    futures = [pool.submit(work, each) for each in items]
    try:
        for each in futures:
            each.result()
    except BaseException:
        for each in futures:
            each.cancel()
        raise


def _require_weights(folder: Path, weights: str) -> None:
    try:
        held = json.loads((folder / "state.json").read_text(encoding="utf-8"))["weights"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptShard(folder, None, f"has no record of its weights ({error})") from error
    if held != weights:
        raise MismatchedInputs(
            folder, "the remote result", f"weights are {str(held)[:12]}, not {weights[:12]}"
        )


def _require_space(root: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(root).free
    if num_bytes > free:
        reason = f"{num_bytes} bytes are to be pulled; {free} are free at {root}"
        raise OSError(errno.ENOSPC, reason)


class _Bytes:
    """A progress bar of bytes; what is to come may grow."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._lock = bar, Lock()

    def expect(self, num_bytes: int) -> None:
        with self._lock:
            self._bar.total += num_bytes
            self._bar.refresh()

    def tell(self, num_bytes: int) -> None:
        with self._lock:
            self._bar.update(num_bytes)


@contextmanager
def _bar(label: str) -> Iterator[_Bytes]:
    from tqdm import tqdm

    quiet = not sys.stderr.isatty()
    with tqdm(total=0, desc=label, unit="B", unit_scale=True, disable=quiet, leave=False) as bar:
        yield _Bytes(bar)
