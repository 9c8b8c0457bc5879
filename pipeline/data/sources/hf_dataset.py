"""Datasets of Hugging Face: on the Hub, as files in a folder, or as `save_to_disk` wrote them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from pipeline.core.errors import CorruptShard, PipelineError, Unavailable
from pipeline.core.fingerprints import fingerprint_files
from pipeline.core.pins import Pin, is_commit
from pipeline.data.document import Document
from pipeline.data.sources.files import Malformed, Piece, Placed, numbered_lines, reading
from pipeline.data.sources.records import Conversations, as_document, check_fields, excerpt_of


@dataclass(frozen=True)
class HfDataset:
    """A dataset of the Hugging Face Hub, or one in a local folder, read as a stream.

    Args:
        path: what `datasets.load_dataset` takes: a name on the Hub or a folder; or a folder that
            `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote.
        revision: a commit of the Hub's repository; needed unless `path` is a folder.
        fields: our field -> theirs, where the names differ; other columns go into the metadata.
        number_records: give the ids `<split>:<number of the record from 1>`.
        conversations, leave_out: as for files.
        pin: what the lock beside the experiment knows: the commit that `revision` is.
    """

    path: str
    source: str
    name: str | None = None
    split: str = "train"
    revision: str = ""
    licence: str = "unknown"
    provenance: str = "unknown"
    fields: dict[str, str] = field(default_factory=dict)
    number_records: bool = False
    conversations: Conversations | None = None
    leave_out: list[str] = field(default_factory=list)
    pin: Pin | None = None

    VERSION: ClassVar[str] = "003"
    UNKEYED: ClassVar[tuple[str, ...]] = ("path", "revision", "pin")

    def __post_init__(self) -> None:
        check_fields(self.fields, self.leave_out)
        if not self.revision and not os.path.isdir(self.path):
            raise ValueError(f"revision is missing; {self.path!r} is no folder of this machine")

    def fingerprint(self) -> str:
        if not os.path.isdir(self.path):
            return f"{self.path} revision {self.commit}"
        return self._files()

    @property
    def commit(self) -> str:
        """The revision that is read."""
        return (self.pin.revision if self.pin else "") or self.revision

    def outside(self) -> dict[str, Pin]:
        """The dataset at its revision, if it is on the Hub."""
        if os.path.isdir(self.path):
            return {}
        known = Pin(revision=self.commit) if is_commit(self.commit) else Pin()
        return {f"hf://datasets/{self.path}@{self.revision}": known}

    def pinned(self, pins: Mapping[str, Pin]) -> HfDataset:
        """The same at the commit that a lock knows."""
        for locator, known in self.outside().items():
            if locator in pins:
                return replace(self, pin=known.joined(pins[locator]))
        return self

    def pieces(self) -> list[Piece]:
        return [Piece(self.path, self.split, self.fingerprint())]

    def read(self, piece: Piece) -> Iterator[Document | Malformed]:
        for number, row in enumerate(self._rows(), 1):
            try:
                name = f"{piece.name}:{number}" if self.number_records else None
                found = as_document(
                    row, self.source, self.fields, name, self.conversations, self.leave_out
                )
                yield Placed.at(number, found)
            except ValueError as error:
                yield Malformed(piece.path, number, str(error), excerpt_of(row))

    def digest_now(self, piece: Piece) -> str:
        return self.fingerprint()

    def _files(self) -> str:
        paths = sorted(p for p in Path(self.path).rglob("*") if p.is_file())
        return fingerprint_files(paths, [p.relative_to(self.path).as_posix() for p in paths])

    def _rows(self) -> Iterator[Any]:
        try:
            yield from self._loaded()
        except PipelineError:
            raise
        except Exception as error:  # each format, and each way to the Hub, has errors of its own
            said = f"{type(error).__name__}: {error}"
            if os.path.isdir(self.path):
                raise _damage_of(Path(self.path), said) from error
            reason = f"cannot be read from the Hugging Face Hub ({said})"
            raise Unavailable(f"{self.path} at revision {self.commit} {reason}") from error

    def _loaded(self) -> Any:
        import datasets

        saved = _saved(Path(self.path), self.split)
        try:
            if saved is not None:
                with reading(str(saved)):
                    return datasets.Dataset.load_from_disk(str(saved)).with_format(None)
            return datasets.load_dataset(
                self.path,
                self.name,
                split=self.split,
                revision=self.commit or None,
                streaming=True,
            )
        except (OSError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
            raise Unavailable(f"{self.path} cannot be loaded ({error})") from error


def _damage_of(folder: Path, said: str) -> CorruptShard:
    """What stopped the reading of a folder: a line that is not JSON, as that has no other name."""
    import orjson

    for path in sorted(folder.rglob("*.jsonl")):
        with open(path, "rb") as file:
            for number, line in numbered_lines(file):
                try:
                    orjson.loads(line or b"0")
                except ValueError:
                    reason = "not JSON; a source of type 'jsonl' can set such lines aside"
                    return CorruptShard(path, number, reason)
    return CorruptShard(folder, None, f"not readable ({said})")


def _saved(folder: Path, split: str) -> Path | None:
    """Where `save_to_disk` wrote a split; None for a folder that it did not write.

    Raises:
        Unavailable: it wrote other splits.
        CorruptShard: what it wrote is damaged, or names files that stand elsewhere.
    """
    several, state = folder / "dataset_dict.json", folder / "state.json"
    if several.is_file():
        splits = [str(each) for each in _list_in(several, "splits")]
        if split not in splits:
            raise Unavailable(f"{folder} has no split {split!r}; there are {', '.join(splits)}")
        folder, state = folder / split, folder / split / "state.json"
    elif not state.is_file():
        return None
    elif (own := _json(state).get("_split")) not in (None, split):
        raise Unavailable(f"{folder} has no split {split!r}; it is {own!r}")
    for each in _list_in(state, "_data_files"):
        name = each.get("filename") if isinstance(each, dict) else None
        if not name or not isinstance(name, str) or Path(name).name != name:
            raise CorruptShard(state, None, f"names the file {name!r}, which is none of its folder")
    return folder


def _list_in(path: Path, name: str) -> list[Any]:
    found = _json(path).get(name)
    if not isinstance(found, list):
        raise CorruptShard(path, None, f"has no list {name!r}")
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptShard(path, None, f"not readable ({error})") from error
    if not isinstance(found, dict):
        raise CorruptShard(path, None, "is no object")
    return found
