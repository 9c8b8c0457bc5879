"""Token shards that others wrote (OLMo's `.npy` without a header) become Tokens of our own."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.artifacts import Tokenizer, Tokens, TokenShard
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.errors import ChangedData, CorruptShard
from pipeline.core.fingerprints import is_url, open_outside
from pipeline.core.keys import Json, canonical
from pipeline.core.pins import Pin
from pipeline.data.sources.files import Files, Piece, reading
from pipeline.store.memo import FileMemo
from pipeline.tokens.format import DTYPES, TokenShardWriter, shard_paths, token_dtype
from pipeline.tokens.tokenizing import remembered_shard, tokens_of

VERSION = "001"
BLOCK_IDS = 1 << 21
BATCH_DOCUMENTS = 4096
NUMPY_MAGIC = b"\x93NUMPY"
OFFSETS = ".csv.gz"  # in the place of .npy: Dolma's table of where each document stands


@dataclass(frozen=True)
class TokenFiles(Files):
    """Files of raw little-endian token ids, as OLMo trains on; each becomes a shard.

    Args:
        dtype: of the ids in the files.
        offsets: whether `<name>.csv.gz` beside `<name>.npy` tells where documents stand and what
            their ids are; by default, where it is there. Of URLs none is looked for by default.
            Without it a document ends where the end token stands, and has the id
            `<file>:<number from 1>`.
        unfinished: what to do with the end of a file that is no whole document, when there is no
            table: it is an error, or a document like others.

    Source: allenai/dolma, `python/dolma/tokenizer/memmap_writer.py`.
    """

    dtype: Literal["uint16", "uint32"] = "uint16"
    offsets: bool | None = None
    unfinished: Literal["refuse", "keep"] = "refuse"

    def listed(self) -> list[Piece]:
        return [
            Piece(path, name, files=((path, name), *self._beside(path, name)))
            for path, name in self._found()
        ]

    def outside(self) -> dict[str, Pin]:
        urls = [path for piece in self.listed() for path, _ in piece.files if is_url(path)]
        return {each: self.pins.get(each, Pin()) for each in urls}

    def _beside(self, path: str, name: str) -> list[tuple[str, str]]:
        table, named = (each.removesuffix(".npy") + OFFSETS for each in (path, name))
        there = self.offsets
        if there is None:
            there = not is_url(path) and Path(table).is_file()
        return [(table, named)] if there else []


def import_tokens(
    files: TokenFiles,
    tokenizer: Tokenizer,
    *,
    out: Path,
    engine: Engine = LOCAL,
    memo: FileMemo | None = None,
) -> Tokens:
    """Copy token files, a shard each in the order of their paths, with memory flat.

    Every id is looked at. The ids are stored in the narrowest type of the tokenizer's vocabulary,
    as our own are, so that both can be mixed.

    Args:
        tokenizer: that the ids are of; its end token ends each document.

    Raises:
        CorruptShard: a file has half an id, a header, an id beyond the vocabulary, or a table of
            documents that is not of it; the message has the file and the place.
        ChangedData: a file changed while it was read.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    pieces = files.pieces()
    form = dict(canonical(files))
    form.pop("fingerprint", None)  # each file has its own digest
    work = _ImportFile(files, form, pieces, tokenizer, out, memo)
    shards = engine.map(work, range(len(pieces)), label="import tokens")
    num_tokens = sum(each.num_tokens for each in shards)
    return tokens_of(out, tokenizer, shards, {files.source: num_tokens})


class _Found(NamedTuple):
    """A document in a file: its id, and the places of its tokens."""

    id: str
    start: int
    end: int


@dataclass(frozen=True)
class _ImportFile:
    files: TokenFiles
    form: dict[str, Json]  # of the files in a key
    pieces: list[Piece]
    tokenizer: Tokenizer
    out: Path
    memo: FileMemo | None

    def __call__(self, number: int) -> TokenShard:
        piece = self.pieces[number]
        key: dict[str, Json] = {
            "import_tokens": VERSION,
            "files": self.form,
            "file": [piece.name, piece.digest],
            "tokenizer": self.tokenizer.content,
        }
        if self.memo is not None and piece.digest:
            found = remembered_shard(self.memo, key, self.out, number)
            if found is not None:
                return found[0]
        shard = self._copied(number, piece)
        if self.files.digest_now(piece) != piece.digest:
            raise ChangedData(piece.path)
        if self.memo is not None and piece.digest:
            note = {"shard": asdict(shard), "sources": {}}
            self.memo.keep_files(key, self.out, list(shard_paths(number)), note)
        return shard

    def _copied(self, number: int, piece: Piece) -> TokenShard:
        dtype = token_dtype(self.tokenizer.vocab_size)
        told = _Table(self.files, piece.files[1][0]) if len(piece.files) > 1 else None
        cut = _Ends(piece.name, self.tokenizer.end_id) if told is None else None
        with TokenShardWriter(self.out, number, dtype) as writer:
            for ids in self._blocks(piece):
                first = writer.num_tokens
                writer.write_ids(ids)
                if cut is not None:
                    self._write(writer, cut.among(ids, first))
                elif told is not None:
                    self._write(writer, told.among(ids, first, self.tokenizer.end_id))
            if cut is not None:
                self._write(writer, self._rest(piece, cut, writer.num_tokens))
            elif told is not None:
                told.require_end(writer.num_tokens)
        return writer.shard

    def _rest(self, piece: Piece, cut: _Ends, num_tokens: int) -> list[_Found]:
        if cut.end == num_tokens:
            return []
        if self.files.unfinished == "refuse":
            reason = f"the last {num_tokens - cut.end} ids have no end, {self.tokenizer.end_id}"
            raise CorruptShard(piece.path, cut.end, reason)
        return [cut.next(num_tokens)]

    def _write(self, writer: TokenShardWriter, found: list[_Found]) -> None:
        for at in range(0, len(found), BATCH_DOCUMENTS):
            some = found[at : at + BATCH_DOCUMENTS]
            ends = np.array([each.end for each in some], np.int64)
            lengths = ends - np.array([each.start for each in some], np.int64)
            names = [each.id for each in some]
            writer.write_index([self.files.source] * len(some), names, ends, lengths)

    def _blocks(self, piece: Piece) -> Iterator[NDArray[Any]]:
        """The ids of a file, block by block, each of the vocabulary."""
        kind, path, at = DTYPES[self.files.dtype], piece.path, 0
        with reading(path), open_outside(path, self.files.pins.get(path)) as file:
            held = b""
            while block := file.read(BLOCK_IDS * kind.itemsize - len(held)):
                held += block
                if not at and held.startswith(NUMPY_MAGIC):
                    raise CorruptShard(path, None, "has a NumPy header; it must be ids alone")
                whole = len(held) - len(held) % kind.itemsize
                ids = np.frombuffer(held[:whole], kind)
                held = held[whole:]
                if ids.size and ids.max() >= self.tokenizer.vocab_size:
                    place = int(np.argmax(ids >= self.tokenizer.vocab_size))
                    limit = f"it must be below {self.tokenizer.vocab_size}"
                    raise CorruptShard(path, at + place, f"the id is {ids[place]}; {limit}")
                at += ids.size
                yield ids
            if held:
                size = at * kind.itemsize + len(held)
                reason = f"has {size} bytes; an id of {self.files.dtype} takes {kind.itemsize}"
                raise CorruptShard(path, None, reason)


class _Ends:
    """Documents that end where the end token stands."""

    def __init__(self, name: str, end_id: int) -> None:
        self.name, self.end_id = name, end_id
        self.number, self.end = 0, 0  # of the last document

    def among(self, ids: NDArray[Any], first: int) -> list[_Found]:
        """The documents that end among ids, the first of which stands at `first`."""
        return [self.next(first + int(at) + 1) for at in np.flatnonzero(ids == self.end_id)]

    def next(self, end: int) -> _Found:
        """The document that follows the last one."""
        self.number += 1
        found = _Found(f"{self.name}:{self.number}", self.end, end)
        self.end = end
        return found


class _Table:
    """Documents as a table says: rows start, end, id, source, place."""

    def __init__(self, files: TokenFiles, path: str) -> None:
        self.path, self.number, self.end = path, 0, 0
        self._rows = self._read(files)
        self._next = next(self._rows, None)

    def among(self, ids: NDArray[Any], first: int, end_id: int) -> list[_Found]:
        """The documents that end among ids, the first of which stands at `first`."""
        found = []
        while self._next is not None and self._next.end <= first + len(ids):
            last = int(ids[self._next.end - first - 1])
            if last != end_id:
                reason = f"the document ends in {last}; it must end in {end_id}"
                raise CorruptShard(self.path, self.number, reason)
            found.append(self._next)
            self._next = next(self._rows, None)
        return found

    def require_end(self, num_tokens: int) -> None:
        """Raises CorruptShard for a table that is not of a file of so many tokens."""
        if self._next is not None or self.end != num_tokens:
            end = self._next.end if self._next is not None else self.end
            reason = f"the documents end at {end}; the file has {num_tokens} tokens"
            raise CorruptShard(self.path, self.number, reason)

    def _read(self, files: TokenFiles) -> Iterator[_Found]:
        with reading(self.path), open_outside(self.path, files.pins.get(self.path)) as file:
            lines = csv.reader(io.TextIOWrapper(file, encoding="utf-8", newline=""))
            while (row := self._row(lines)) is not None:
                self.number += 1
                try:
                    start, end, id = int(row[0]), int(row[1]), row[2]
                except (ValueError, IndexError):
                    reason = f"is {','.join(row)[:80]!r}; it must be start,end,id,source,place"
                    raise CorruptShard(self.path, self.number, reason) from None
                if start != self.end or end <= start:
                    reason = f"is from {start} to {end}; it must follow {self.end}"
                    raise CorruptShard(self.path, self.number, reason)
                self.end = end
                yield _Found(id, start, end)

    def _row(self, lines: Iterator[list[str]]) -> list[str] | None:
        try:
            return next(lines, None)
        except (ValueError, csv.Error) as error:
            raise CorruptShard(self.path, self.number + 1, f"is no row ({error})") from error
