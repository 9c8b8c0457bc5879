"""The kinds of artifact: what the manifest of each step's result says, and what it promises.

What all of them share is in `manifest.py`. Whoever needs the base takes it from here, as it reads
the manifests of all kinds that are known.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipeline.core.errors import CorruptShard, MismatchedInputs
from pipeline.core.files import NamedFile, Shard, StoredFile, require_inside
from pipeline.core.manifest import MANIFEST as MANIFEST
from pipeline.core.manifest import Artifact as Artifact

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
class DolmaAttributes:
    """Files below `attributes/<experiment>/`; file k is about file k of the documents."""

    experiment: str
    shards: list[Shard]


@dataclass(frozen=True)
class DolmaFolder(Artifact):
    """`documents/*.jsonl.gz` and `attributes/<experiment>/*.jsonl.gz`, as Dolma's commands read."""

    num_documents: int
    documents: list[Shard]
    attributes: list[DolmaAttributes]

    def check(self) -> None:
        _require_sum("num_documents", self.num_documents, (s.num_records for s in self.documents))


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
class ReadingOrder(Artifact):
    """The numbers of instances in the order they are read: raw little-endian uint32, none twice.

    It is a permutation of all up to its largest where that is `num_instances - 1`.
    """

    num_instances: int
    largest: int
    file: StoredFile

    def check(self) -> None:
        if self.file.num_bytes != 4 * self.num_instances or self.num_instances < 1:
            raise ValueError(
                f"num_instances is {self.num_instances}; its file has {self.file.num_bytes} bytes"
            )
        if self.largest < self.num_instances - 1:
            raise ValueError(f"largest is {self.largest}, of {self.num_instances} without repeats")


@dataclass(frozen=True)
class OrderTable(Artifact):
    """Who reads what and when: Parquet rows step, rank, row, part, source, id, start, end.

    Steps are optimizer updates, the first being 1.
    """

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


def checkpoint_name(step: int) -> str:
    """What the checkpoint of a step is called, and its folder in the series."""
    return f"step{step:06d}"


@dataclass(frozen=True)
class Checkpoint:
    """One saved step of a series: its folder, and the digest of its weights.

    Both counts are of all steps up to it, a token as often as it was read. `num_tokens_read` counts
    every id that the model was given, context and prompts too, without what only fills a row;
    `num_tokens_learned` those whose loss was minimized.
    """

    name: str  # "step000400"
    step: int
    num_tokens_read: int
    num_tokens_learned: int
    weights: str  # content digest of the weights alone


@dataclass(frozen=True)
class Checkpoints(Artifact):
    """A view of a training series up to a step; the files stand in `<workspace>/series/<series>/`.

    `<series>/step000400/` holds `model.safetensors` and `state.json`, and the last few checkpoints
    `optimizer.safetensors`; of two ranks `model-00001-of-00002.safetensors`, and so on.
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
        name = checkpoint_name(checkpoint.step)
        return _within_workspace(self.root, f"../../series/{self.series_root.name}/{name}")


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
