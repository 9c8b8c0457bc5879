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
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.core.artifacts import Artifact, Checkpoints
from pipeline.core.errors import UNUSABLE, CorruptShard, MismatchedInputs, PipelineError
from pipeline.core.files import file_sha256
from pipeline.store.checkpoints import read_record
from pipeline.store.discarding import restore
from pipeline.store.entries import OWN, Entry, Stored
from pipeline.store.history import complete_history
from pipeline.store.inventory import is_id
from pipeline.store.memo import place_file
from pipeline.store.objects import ObjectStore, Tell
from pipeline.store.results import Results
from pipeline.store.transfers import Bytes, byte_bar, transfer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Moved:
    """What became of one result.

    "kept" means that the other side has another content under this id and keeps it: the step does
    not give the same bytes everywhere, as trainings do. "discarded": its data is not here.
    "refused": it cannot be taken, and `reason` says why.
    """

    id: str
    state: Literal["moved", "there", "kept", "discarded", "refused"]
    num_bytes: int = 0
    reason: str = ""


class Remote:
    """The results below one URL, `s3://`, `gs://` or any that fsspec knows, or a folder."""

    def __init__(self, url: str) -> None:
        self.store = ObjectStore(url)
        self._is_out_of_reach = False
        self._seen: dict[str, bool] = {}  # ids that `reachable` asked for

    def __contains__(self, id: str) -> bool:
        return self.store.size(_entry(id)) is not None

    def having(self, ids: Iterable[str]) -> set[str]:
        """Those of the results that stand there."""
        found: set[str] = set()

        def look(id: str) -> None:
            if id in self:
                found.add(id)

        transfer(look, list(ids))
        return found

    def entry(self, id: str) -> Entry | None:
        """What the remote says of a result; None where it has none.

        Raises:
            CorruptShard: it is not what we write.
        """
        value = self.store.read_json(_entry(id))
        return None if value is None else Entry.parse(value, id, self._place(id))

    def find(self, content_key: str) -> str | None:
        """The id of the result that a content key gave somewhere."""
        id = (self.store.read_json(_memory(content_key)) or {}).get("result")
        return id if is_id(id) else None

    # ---------------------------------------------------------------- push

    def push(self, results: Results, ids: Iterable[str], *, mend: bool = False) -> list[Moved]:
        """Copy results there, and those whose files they read; what is there is not sent again.

        Args:
            mend: send all of it again, as something there is damaged.

        Raises:
            KeyError: there is no such result here.
            CorruptShard: a file here is not what it was; nothing of that result is sent.
        """
        moved: list[Moved] = []
        plans: dict[str, Entry] = {}
        for id in _with_references(results, ids):
            if results.inventory(id).discarded:
                moved.append(Moved(id, "discarded"))
                continue
            there = self._entry_or_none(id)
            if there is None or mend:
                plans[id] = Entry.of(results, id)
                continue
            same = there.manifest.get("content") == results.load(id).content
            moved.append(Moved(id, "there" if same else "kept"))
        with byte_bar("push") as bar:
            files = {id: _sources(entry, results, id) for id, entry in plans.items()}
            bar.expect(sum(each.num_bytes for once in files.values() for each in once))

            def send(each: tuple[Stored, Path]) -> None:
                self._send(*each, bar.tell, mend)

            for id, entry in plans.items():
                transfer(send, list(files[id].items()))
                self.store.write_json(_entry(id), entry.to_json())
                if entry.content_key is not None:
                    self.store.write_json(_memory(entry.content_key), {"result": id})
                moved.append(Moved(id, "moved", entry.num_bytes))
        return moved

    def _send(self, file: Stored, source: Path, tell: Tell, mend: bool) -> None:
        if not mend and self.store.size(file.place) == file.num_bytes:
            tell(file.num_bytes)
            return
        if file_sha256(source) != file.sha256:
            raise CorruptShard(source, None, "its SHA-256 is not the one it was committed with")
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
        """Copy results here, and those whose files they read; every byte is checked on the way.

        Nothing is used of one that is not what its entry says, or whose series here has a
        checkpoint with other weights: it is "refused", and the others are pulled.

        Raises:
            KeyError: the remote has no such result.
        """
        moved: list[Moved] = []
        with byte_bar("pull") as bar:
            for id in ids:
                try:
                    moved += self._pull(results, [id], bar)
                except (*UNUSABLE, MismatchedInputs) as fault:
                    moved.append(Moved(id, "refused", reason=str(fault)))
        return moved

    def _pull(self, results: Results, ids: Iterable[str], bar: Bytes) -> list[Moved]:
        moved: list[Moved] = []
        for id in ids:
            with results.lease(id):
                moved += self._fetch(results, id, bar)
        return moved

    def _fetch(self, results: Results, id: str, bar: Bytes) -> list[Moved]:
        """Pull one result, whose lease is held."""
        if id in results:
            return [Moved(id, "there")]
        entry = self.entry(id)
        if entry is None:
            raise KeyError(id)
        staged = results.root / "work" / f"pull-{id}"
        with results.lease(staged.name):  # says that the folder is in use
            staged.mkdir(parents=True, exist_ok=True)
            made = entry.load(staged, self._place(id))
            moved = self._pull(results, entry.references, bar)
            _require_space(results.root, entry.num_bytes)
            bar.expect(entry.num_bytes)
            if isinstance(made, Checkpoints):
                with results.lease(f"series-{made.series}"):
                    results.series(made.series, user=id)
                    self._fetch_series(made, entry.series, results.series_root, bar.tell)
            self._fetch_files(entry.files, staged, bar.tell)
            if isinstance(made, Checkpoints):
                with results.lease(f"series-{made.series}"):
                    complete_history(made.series_root, staged / made.history.path)
            results.seal(staged, entry.key, {**entry.record, "pulled_from": self.store.shown})
            if entry.content_key is not None:
                results.memo.keep(entry.content_key, id)
            results.publish(staged, id)
        return [*moved, Moved(id, "moved", entry.num_bytes)]

    def _fetch_files(self, files: Mapping[str, Stored], folder: Path, tell: Tell) -> None:
        """Have the files in `folder`; those that an earlier pull left there are not read again."""
        first: dict[str, str] = {}
        for path, each in files.items():
            first.setdefault(each.sha256, path)
        for left in folder.rglob("*"):
            name = left.relative_to(folder).as_posix()
            if not left.is_dir() and name not in files and name not in OWN:
                left.unlink()

        def fetch(path: str) -> None:
            each, target = files[path], folder / path
            if target.is_file() and file_sha256(target) == each.sha256:
                tell(each.num_bytes)
                return
            self.store.download(
                each.place, target, num_bytes=each.num_bytes, sha256=each.sha256, tell=tell
            )

        transfer(fetch, list(first.values()))
        for path, each in files.items():
            if path != first[each.sha256]:
                place_file(folder / first[each.sha256], folder / path)
                tell(each.num_bytes)

    def _fetch_series(
        self, made: Checkpoints, files: Mapping[str, Stored], root: Path, tell: Tell
    ) -> None:
        for each in made.steps:
            final = made.folder(each)
            above = final.relative_to(root).as_posix() + "/"
            own = {path[len(above) :]: e for path, e in files.items() if path.startswith(above)}
            if final.is_dir():
                _require_weights(final, each.weights)
                tell(sum(file.num_bytes for file in own.values()))
                continue
            staged = final.with_name(f".pull-{final.name}")
            self._fetch_files(own, staged, tell)
            _require_weights(staged, each.weights)
            os.replace(staged, final)

    # ---------------------------------------------------------------- read-through

    def reachable(self, ids: Iterable[str]) -> set[str]:
        """Those of the results that stand there; none where the remote is out of reach.

        Each is asked for once, as at the start of a run.
        """
        asked = [id for id in ids if is_id(id)]

        def look() -> bool:
            new = [id for id in asked if id not in self._seen]
            there = self.having(new)
            self._seen |= {id: id in there for id in new}
            return True

        self._tried(look)
        return {id for id in asked if self._seen.get(id)}

    def bring(self, results: Results, id: str) -> bool:
        """Pull a result whose lease the caller holds, if it is there and sound; else say why not.

        A cache out of reach or damaged costs time and never fails a run.
        """

        def look() -> bool:
            with byte_bar("pull") as bar:
                return id in self and bool(self._fetch(results, id, bar))

        return self._tried(look)

    def bring_content(self, results: Results, content_key: str, held: str = "") -> str | None:
        """Pull a result with this content key; its id, or None.

        Args:
            held: an id whose lease the caller holds, and for which `bring` was tried.
        """

        def look() -> bool:
            id = self.find(content_key)
            if id == held:
                return False
            with byte_bar("pull") as bar:
                return id is not None and id in self and bool(self._pull(results, [id], bar))

        return results.find_earlier(content_key) if self._tried(look) else None

    def refill(self, results: Results, id: str) -> bool:
        """Give a discarded result, whose lease the caller holds, its data, if it stands there."""

        def look() -> bool:
            entry, before = self.entry(id), Artifact.load(results.folder(id))
            if entry is None or entry.manifest.get("content") != before.content:
                return False
            with byte_bar("pull") as bar:
                work = results.work(id)
                entry.load(work, self._place(id))
                _require_space(results.root, entry.num_bytes)
                bar.expect(entry.num_bytes)
                self._fetch_files(entry.files, work, bar.tell)
            restore(results, id)
            return True

        return self._tried(look)

    def _tried(self, attempt: Callable[[], bool]) -> bool:
        if self._is_out_of_reach:
            return False
        try:
            return attempt()
        except (*UNUSABLE, MismatchedInputs, KeyError, OSError) as fault:
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
            if outside or not is_id(id):
                reason = f"its step {step!r} has the id {id!r}"
                raise CorruptShard(f"{self.store.shown}/runs/{name}.json", None, reason)
        return value

    def push_run(self, name: str, steps: dict[str, str], started: float) -> None:
        self.store.write_json(f"runs/{name}.json", {"started": started, "steps": steps})

    def _place(self, id: str) -> str:
        return f"{self.store.shown}/{_entry(id)}"


def _entry(id: str) -> str:
    if not is_id(id):
        raise ValueError(f"{id!r} is not the id of a result")
    return f"results/{id}.json"


def _memory(content_key: str) -> str:
    return f"memo/{content_key}.json"


def _with_references(results: Results, ids: Iterable[str]) -> list[str]:
    """The results, each after those whose files it reads, none twice; KeyError without one."""
    found: dict[str, None] = {}
    for id in ids:
        results.load(id)
        for below in _with_references(results, results.inventory(id).references):
            found.setdefault(below)
        found.setdefault(id)
    return list(found)


def _sources(entry: Entry, results: Results, id: str) -> dict[Stored, Path]:
    """Each of an entry's files once, with the place of its bytes here."""
    own = {each: results.folder(id) / path for path, each in entry.files.items()}
    return own | {each: results.series_root / path for path, each in entry.series.items()}


def _require_weights(folder: Path, weights: str) -> None:
    """Raises MismatchedInputs where a checkpoint is of other weights; CorruptShard if it is none.

    A checkpoint that stands here belongs to a training of this machine and is never replaced.
    """
    found = read_record(folder).weights
    if found != weights:
        reason = f"weights are {found[:12]}, not {weights[:12]}"
        raise MismatchedInputs(folder, "the remote result", reason)


def _require_space(root: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(root).free
    if num_bytes > free:
        reason = f"{num_bytes} bytes are to be pulled; {free} are free at {root}"
        raise OSError(errno.ENOSPC, reason)
