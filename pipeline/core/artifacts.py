"""The manifests: small JSON files that say what the files of a result are.

An artifact is a frozen dataclass; `root` is the folder of its files and is not part of it, so a
result can be moved. Its `content` is the digest of its logical content: every field, with each
file standing by its own content digest and not by its encoding, size or SHA-256.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, TypeVar

from pipeline.core.errors import CorruptShard, MismatchedInputs
from pipeline.core.keys import digest
from pipeline.core.temporary import temporary_for
from pipeline.core.untrusted import built, read_json

MANIFEST = "manifest.json"
MAX_REASON = 300  # characters of what a broken manifest says that are repeated
A = TypeVar("A", bound="Artifact")


@dataclass(frozen=True)
class StoredFile:
    """A file of an artifact: its place below the root, its size, and two digests.

    `content` is of what the file means (rows, ids, tensors); `sha256` only proves it whole.
    """

    path: str
    num_bytes: int
    content: str
    sha256: str

    def __post_init__(self) -> None:
        require_inside(self.path)
        if self.num_bytes < 0:
            raise ValueError(f"num_bytes is {self.num_bytes}; it must not be negative")

    def logical(self) -> dict[str, Any]:
        """What of this record belongs to the content of its artifact."""
        return {"content": self.content}

    @classmethod
    def of(cls: type[F], root: Path, path: str, content: str | None = None, **more: Any) -> F:
        """The record of the file at `root / path`; without `content`, its bytes are its content."""
        sha256 = file_sha256(root / path)
        size = (root / path).stat().st_size
        return cls(path=path, num_bytes=size, content=content or sha256, sha256=sha256, **more)

    def parts(self) -> Iterator[StoredFile]:
        """Every file that this record is of."""
        yield self

    def place(self, root: Path) -> Path:
        """Where the file is, as far as a look at its name and size can tell.

        Raises:
            CorruptShard: it is missing, no plain file of its own below `root`, or of another size.
        """
        path = Path(root) / self.path
        try:
            found = os.lstat(path)
            real = os.path.realpath(path, strict=True)
        except (OSError, ValueError) as error:
            raise CorruptShard(path, None, f"is missing from its artifact ({error})") from error
        within = os.path.join(os.path.realpath(root), os.path.normpath(self.path))
        if not stat.S_ISREG(found.st_mode) or real != within:
            raise CorruptShard(path, None, "is no plain file inside its artifact")
        if found.st_size != self.num_bytes:
            reason = f"has {found.st_size} bytes; its manifest says {self.num_bytes}"
            raise CorruptShard(path, None, reason)
        return path

    def verify(self, root: Path) -> None:
        """Check size and SHA-256.

        Raises:
            CorruptShard: the file is missing, is no plain file inside `root`, or differs.
        """
        path = self.place(root)
        if file_sha256(path) != self.sha256:
            raise CorruptShard(path, None, "its SHA-256 is not the one in its manifest")


def require_inside(path: str) -> None:
    """Raises ValueError for a path that is not relative, or that leads out of its folder."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or set(path) & {"\\", "\0"}:
        raise ValueError(f"path is {path!r}; it must be relative and inside the artifact")


F = TypeVar("F", bound=StoredFile)


@dataclass(frozen=True)
class NamedFile(StoredFile):
    """A file whose name is part of the content, as in a model folder others open by name."""

    def logical(self) -> dict[str, Any]:
        return {"path": self.path, "content": self.content}


@dataclass(frozen=True)
class Shard(StoredFile):
    """A file of records; row i of shard k is one logical place in an artifact."""

    num_records: int = 0

    def logical(self) -> dict[str, Any]:
        return {"content": self.content, "num_records": self.num_records}


@dataclass(frozen=True)
class Artifact:
    """Base of all manifests."""

    root: Path = field(compare=False, repr=False)
    content: str

    KINDS: ClassVar[dict[str, type[Artifact]]] = {}
    DERIVED: ClassVar[tuple[str, ...]] = ()  # fields that say where, not what

    def __init_subclass__(cls) -> None:
        Artifact.KINDS[cls.__name__] = cls

    @classmethod
    def of(cls: type[A], root: Path, **values: Any) -> A:
        """Build the manifest from its fields, compute `content`, write `manifest.json`."""
        draft = cls(root=Path(root), content="", **values)
        made = dataclasses.replace(draft, content=draft.logical_digest())
        write_json(Path(root) / MANIFEST, made.to_json())
        return made

    def logical_digest(self) -> str:
        """Digest of what the artifact means, whatever the encoding of its files."""
        form = {"artifact": type(self).__name__}
        for each in dataclasses.fields(self):
            if each.name not in ("root", "content", *self.DERIVED):
                form[each.name] = _logical(getattr(self, each.name))
        return digest(form)

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON values, `artifact` and `content` first."""
        form: dict[str, Any] = {"artifact": type(self).__name__, "content": self.content}
        for each in dataclasses.fields(self):
            if each.name not in ("root", "content"):
                form[each.name] = _plain(getattr(self, each.name))
        return form

    @staticmethod
    def load(root: Path) -> Artifact:
        """Read the manifest in `root`; nothing it names is opened.

        Raises:
            CorruptShard: it is not a manifest, or its `content` is not the digest of its fields.
        """
        path = Path(root) / MANIFEST
        try:
            form = read_json(path)
            kind = Artifact.KINDS[form.pop("artifact")]
            content = form.pop("content")
            hints = typing.get_type_hints(kind)
            names = {each.name for each in dataclasses.fields(kind)} - {"root", "content"}
            if names != form.keys():
                raise ValueError(f"its fields are {sorted(form)}; they must be {sorted(names)}")
            values = {name: built(hints[name], form[name], name) for name in names}
            made = kind(root=Path(root), content=content, **values)
            made.check()
            matches = made.logical_digest() == content
        except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
            reason = str(error)[:MAX_REASON]
            raise CorruptShard(path, None, f"not a manifest ({reason})") from error
        except RecursionError:
            raise CorruptShard(path, None, "not a manifest (it is nested too deeply)") from None
        if not matches:
            raise CorruptShard(path, None, "its content digest is not that of its fields")
        return made

    def check(self) -> None:
        """Raises ValueError where fields contradict each other; called when a manifest is read."""

    def files(self) -> Iterator[StoredFile]:
        """Every file the manifest names."""
        for each in dataclasses.fields(self):
            for record in _files(getattr(self, each.name)):
                yield from record.parts()

    def verify(self) -> None:
        """Check every file against the manifest; raises CorruptShard for the first that differs."""
        for each in self.files():
            each.verify(self.root)

    def canonical(self) -> dict[str, str]:
        """An artifact stands in a content key by its content."""
        return {"artifact": type(self).__name__, "content": self.content}


# ---------------------------------------------------------------------------- text


@dataclass(frozen=True)
class SourceCount:
    """What one source gave: the corpus's data sheet is made of these."""

    source: str
    licence: str
    provenance: str
    num_documents: int
    num_text_bytes: int


@dataclass(frozen=True)
class Documents(Artifact):
    """Text: Parquet shards of rows id, text, source, added, created, metadata (JSON text).

    (source, id) is unique. `num_text_bytes` counts UTF-8. `num_malformed` records were set aside.
    """

    num_documents: int
    num_text_bytes: int
    sources: list[SourceCount]
    shards: list[Shard]
    num_malformed: int = 0

    def check(self) -> None:
        _require_sum("num_documents", self.num_documents, (s.num_records for s in self.shards))


@dataclass(frozen=True)
class AttributeTable:
    """What one tagger measured: a Parquet file a shard, row i about row i of the document shard.

    `columns` gives each column's kind: "number" (float64 or int64) or "spans"
    (list<struct<start: int32, end: int32, score: float64>>, half-open, in code points).
    """

    name: str
    columns: dict[str, str]
    shards: list[Shard]


@dataclass(frozen=True)
class Attributes(Artifact):
    """Measures beside documents; a rule names a column as `<table>.<column>`.

    `describes` is the content digest of the Documents.
    """

    describes: str
    tables: list[AttributeTable]

    def require_describes(self, documents: Documents) -> None:
        """Raises MismatchedInputs unless these measures are of those documents."""
        if self.describes != documents.content:
            raise MismatchedInputs(
                f"Attributes {self.content[:12]}",
                f"Documents {documents.content[:12]}",
                f"the attributes describe {self.describes[:12]}",
            )


@dataclass(frozen=True)
class Questions(Artifact):
    """Evaluation items: Parquet rows task, id, contexts, continuations, gold, text, licence."""

    num_questions: int
    tasks: dict[str, int]
    licences: dict[str, str]
    shards: list[Shard]


# ---------------------------------------------------------------------------- tokens


@dataclass(frozen=True)
class Tokenizer(Artifact):
    """A `tokenizer.json` that Hugging Face `tokenizers` loads, with its special ids named."""

    file: StoredFile
    vocab_size: int
    end_id: int
    pad_id: int


@dataclass(frozen=True)
class TokenShard(Shard):
    """Raw little-endian ids (`path`), and beside them `index_path`: a row a document.

    `num_records` counts documents. The index has columns source, id, start, end (token offsets).
    """

    num_tokens: int = 0
    index_path: str = ""
    index_bytes: int = 0
    index_sha256: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_inside(self.index_path)

    def parts(self) -> Iterator[StoredFile]:
        yield self
        yield Shard(
            self.index_path, self.index_bytes, "", self.index_sha256, num_records=self.num_records
        )


@dataclass(frozen=True)
class Tokens(Artifact):
    """Token ids of documents, each ending in `end_id`."""

    tokenizer: str  # content digest
    dtype: str  # "uint16" or "uint32"
    vocab_size: int
    end_id: int
    num_tokens: int
    num_documents: int
    sources: dict[str, int]  # tokens by source
    shards: list[TokenShard]

    def check(self) -> None:
        _require_sum("num_documents", self.num_documents, (s.num_records for s in self.shards))
        _require_sum("num_tokens", self.num_tokens, (s.num_tokens for s in self.shards))


@dataclass(frozen=True)
class MixPart:
    """One of the Tokens of a mix: how many instances are drawn from it, in how many repeats."""

    name: str
    tokens: str  # content digest
    num_instances: int  # it holds
    num_drawn: int  # the mix reads of it in one epoch


@dataclass(frozen=True)
class TokenMix(Artifact):
    """Several Tokens in given proportions: a manifest of its own that copies nothing.

    `locations[i]` is the folder of part i relative to this one's root.
    """

    sequence_length: int
    tokenizer: str
    dtype: str
    vocab_size: int
    end_id: int
    parts: list[MixPart]
    locations: list[str]

    DERIVED: ClassVar[tuple[str, ...]] = ("locations",)

    def check(self) -> None:
        if len(self.locations) != len(self.parts):
            raise ValueError(f"{len(self.parts)} parts have {len(self.locations)} locations")

    def folders(self) -> list[Path]:
        """The folder of each part; raises CorruptShard where one is outside of the workspace."""
        return [_within_workspace(self.root, each) for each in self.locations]

    def load_parts(self) -> list[Tokens]:
        """The Tokens it draws on; raises CorruptShard where one is not what the mix was made of."""
        loaded = []
        for part, folder in zip(self.parts, self.folders(), strict=True):
            tokens = Artifact.load(folder)
            if not isinstance(tokens, Tokens) or tokens.content != part.tokens:
                raise CorruptShard(tokens.root, None, f"is not the part {part.name!r} of the mix")
            loaded.append(tokens)
        return loaded


@dataclass(frozen=True)
class OrderTable(Artifact):
    """Who reads what and when: Parquet rows step, rank, row, part, source, id, start, end."""

    num_steps: int
    table: Shard


@dataclass(frozen=True)
class Examples(Artifact):
    """Supervised sequences; mask 1 marks a token that is learned.

    Parquet rows id, input_ids (list<int32>), mask (list<int8>), num_answer_bytes.
    """

    tokenizer: str
    num_examples: int
    num_skipped: int  # longer than the limit, or with nothing to learn
    shards: list[Shard]


@dataclass(frozen=True)
class Pairs(Artifact):
    """Preferences: Parquet rows id, chosen_ids, chosen_mask, rejected_ids, rejected_mask,
    chosen_bytes, rejected_bytes and, once computed, chosen_logprob, rejected_logprob (float64)
    under the reference.
    """

    tokenizer: str
    num_pairs: int
    num_skipped: int
    reference: str  # content digest of the reference's weights, "" before it is computed
    shards: list[Shard]


# ---------------------------------------------------------------------------- models


@dataclass(frozen=True)
class Checkpoint:
    """One saved step of a series: its folder, and the digest of its weights."""

    name: str  # "step000400"
    step: int
    num_tokens_seen: int
    weights: str  # content digest of the weights alone


@dataclass(frozen=True)
class Checkpoints(Artifact):
    """A view of a training series up to a step; the files stand in `<workspace>/series/<series>/`.

    `<series>/step000400/` holds `model.safetensors`, `optimizer.safetensors` and `state.json`.
    """

    series: str  # id: 64 hexadecimal digits
    model: dict[str, Any]  # fields of OlmoConfig
    tokenizer: str  # content digest
    objective: str  # "next_token", "masked" or "dpo"
    steps: list[Checkpoint]
    history: StoredFile  # history.parquet, in this artifact's own folder

    DERIVED: ClassVar[tuple[str, ...]] = ("series",)

    def check(self) -> None:
        if len(self.series) != 64 or not set(self.series) <= set("0123456789abcdef"):
            raise ValueError(f"series is {self.series!r}, which is not an id")
        if not self.steps:
            raise ValueError("steps is empty; it must name a checkpoint")

    @property
    def series_root(self) -> Path:
        """The folder of the series, found from where this manifest stands in the workspace.

        Raises:
            CorruptShard: it would be elsewhere.
        """
        try:
            self.check()
        except ValueError as error:
            raise CorruptShard(self.root / MANIFEST, None, str(error)) from error
        return _within_workspace(self.root, f"../../series/{self.series}")

    @property
    def latest(self) -> Checkpoint:
        return self.steps[-1]

    def folder(self, checkpoint: Checkpoint) -> Path:
        """Where the files of one checkpoint stand."""
        return _within_workspace(
            self.root, f"../../series/{self.series_root.name}/step{checkpoint.step:06d}"
        )


@dataclass(frozen=True)
class Generations(Artifact):
    """Text a model wrote: Parquet rows checkpoint, prompt, text, tokens, seed."""

    settings: dict[str, Any]
    shards: list[Shard]


@dataclass(frozen=True)
class HfModel(Artifact):
    """A folder that `transformers` opens: config.json, model.safetensors, tokenizer.json."""

    weights: str
    model: dict[str, Any]
    tokenizer: str
    model_files: list[NamedFile]


# ---------------------------------------------------------------------------- results


@dataclass(frozen=True)
class Scores(Artifact):
    """Measures of checkpoints.

    `answers`: a row a checkpoint, task and item. `scores`: rows model, step, task, metric, value,
    unit, num_items, standard_error.
    """

    kind: str  # "rank" or "perplexity"
    answers: Shard
    scores: Shard


@dataclass(frozen=True)
class Report(Artifact):
    """One page that needs no network."""

    page: NamedFile


# ---------------------------------------------------------------------------- JSON


def write_json(path: Path, value: object) -> None:
    """Write a JSON file under a temporary name, sync it and rename it into place."""
    text = json.dumps(value, indent=1, sort_keys=False, allow_nan=False)
    write_file(path, f"{text}\n".encode())


def write_file(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, sync it and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_for(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # a full disk most of all
        temporary.unlink(missing_ok=True)
        raise


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        state = hashlib.sha256()
        while block := file.read(1 << 20):
            state.update(block)
        return state.hexdigest()


def _within_workspace(root: Path, location: str) -> Path:
    """The folder at `location` from a result's `root`, held to the workspace two levels up.

    The folder may not be a link, as a link leads anywhere; those above it (`cache`, `series`) may,
    as whoever owns the workspace puts them on another disk.
    """
    home = Path(os.path.realpath(root)) if os.path.islink(root) else Path(os.path.abspath(root))
    place = Path(os.path.normpath(home / location))
    above = home.parent.parent
    if os.path.isabs(location) or above not in place.parents or os.path.islink(place):
        raise CorruptShard(home / MANIFEST, None, f"names {location!r}, outside of {above}")
    return place


def _require_sum(name: str, said: int, counts: Iterable[int]) -> None:
    each = list(counts)
    if each and said != (total := sum(each)):  # without a shard there is nothing to be misled on
        raise ValueError(f"{name} is {said}; its shards have {total}")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _logical(value: Any) -> Any:
    if isinstance(value, StoredFile):
        return value.logical()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _logical(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [_logical(item) for item in value]
    if isinstance(value, dict):
        return {name: _logical(item) for name, item in value.items()}
    return value


def _files(value: Any) -> Iterator[StoredFile]:
    if isinstance(value, StoredFile):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for each in dataclasses.fields(value):
            yield from _files(getattr(value, each.name))
    elif isinstance(value, list):
        for item in value:
            yield from _files(item)
