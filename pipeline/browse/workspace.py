"""A workspace from Python, for notebooks.

workspace = open_workspace(".")
workspace["kept"].to_arrow()            # a step of the latest run
workspace["my-run:kept"].manifest       # of any run
workspace["base"].latest.load()         # an Olmo model
for run in workspace: print(run)
"""

from __future__ import annotations

import html
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.browse.visible import as_age
from pipeline.core.artifacts import (
    Artifact,
    Attributes,
    Checkpoint,
    Checkpoints,
    Documents,
    HfModel,
    OrderTable,
    Scores,
    Tokens,
)
from pipeline.core.errors import CorruptShard
from pipeline.core.files import Shard
from pipeline.core.keys import Json
from pipeline.core.shards import read_shard
from pipeline.core.terminal import counted, visible
from pipeline.data.document import DOCUMENT_SCHEMA
from pipeline.store.finding import NotFound, find_result
from pipeline.store.results import Results
from pipeline.store.survey import RunOf, read_runs
from pipeline.tokens.format import INDEX

if TYPE_CHECKING:
    from pipeline.model.olmo import Olmo


def open_workspace(path: str | Path = ".") -> Workspace:
    """What is in a workspace; `path` is its folder, or one with a `workspace/`, or below that one.

    Raises:
        FileNotFoundError: there is no workspace.
    """
    place = Path(path)
    above = [each / "workspace" for each in (place, *place.resolve().parents)]
    for each in (place, *above):
        if (each / "cache").is_dir() or (each / "runs").is_dir():
            return Workspace(Results(each))
    raise FileNotFoundError(f"{place}: there is no workspace; nothing was run yet")


class Workspace:
    """The results below one folder: by run and step, or by id."""

    def __init__(self, results: Results) -> None:
        self.results = results

    @property
    def path(self) -> Path:
        return self.results.root

    @property
    def runs(self) -> dict[str, Run]:
        """The runs by name, the latest first."""
        return {name: Run(self, run) for name, run in read_runs(self.results).items()}

    @property
    def latest(self) -> Run:
        """The latest run; raises NotFound where there is none."""
        for run in self.runs.values():
            return run
        raise NotFound(f"{self.path}: there is no run in this workspace")

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs.values())

    def __contains__(self, name: object) -> bool:
        """Whether there is a whole result of this name."""
        try:
            return self.find(str(name)) in self.results
        except NotFound:
            return False

    def __getitem__(self, name: str) -> Result:
        """The result called `step` (of the latest run), `run:step`, or by the start of its id.

        Raises:
            NotFound: there is none, or an id has several ends.
            CorruptShard: it is damaged.
        """
        return self.result(self.find(str(name)))

    def result(self, id: str) -> Result:
        """The result of an id; raises NotFound or CorruptShard where it cannot be used."""
        try:
            self.results.load(id)
        except KeyError:
            raise NotFound(f"{id} is not there: its step has not been finished") from None
        return Result(self.results, id)

    def find(self, name: str) -> str:
        """The id that a name stands for; the result need not be there."""
        return find_result(self.results, name)

    def __repr__(self) -> str:
        runs = self.runs
        lines = [f"Workspace {self.path}: {counted(len(runs), 'run')}"]
        lines += [f"  {run}" for run in list(runs.values())[:10]]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [[run.name, f"{run.num_done} of {len(run)}", as_age(run.registered)] for run in self]
        return _html_table(f"Workspace {self.path}", ["run", "steps", "age"], rows)


class Run(Mapping[str, "Result"]):
    """One run of an experiment: its steps by name, in order."""

    def __init__(self, workspace: Workspace, run: RunOf) -> None:
        self.workspace = workspace
        self.name = run.name
        self.ids = run.steps
        self.registered = run.registered

    def __getitem__(self, step: str) -> Result:
        return self.workspace[f"{self.name}:{step}"]

    def __iter__(self) -> Iterator[str]:
        """Names of the steps that are finished."""
        return (name for name, id in self.ids.items() if id in self.workspace.results)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_done(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"Run {visible(self.name)}: {self.num_done} of {counted(len(self), 'step')}"

    def _repr_html_(self) -> str:
        rows = [
            [name, id.split("-")[0], id if id in self.workspace.results else "not there"]
            for name, id in self.ids.items()
        ]
        return _html_table(f"Run {self.name}", ["step", "kind", "result"], rows)


class Result:
    """One result: what it is, why it is that, how it was made, and its data."""

    def __init__(self, results: Results, id: str) -> None:
        self.results = results
        self.id = id

    @property
    def path(self) -> Path:
        """The folder of its files."""
        return self.results.folder(self.id)

    @cached_property
    def manifest(self) -> Artifact:
        return self.results.load(self.id)

    @property
    def key(self) -> dict[str, Json]:
        """The document whose digest is its id."""
        return self.results.key(self.id) or {}

    @property
    def record(self) -> dict[str, Any]:
        """How it was made: when, how long, with which packages."""
        return self.results.record(self.id)

    @property
    def discarded(self) -> bool:
        return self.results.inventory(self.id).discarded

    def readable(self) -> Artifact:
        """The manifest, once it is certain that the files are there and whole.

        Raises:
            CorruptShard: data was discarded or is damaged.
        """
        for each in self.results.unreadable(self.id):
            mend = "a step that reads it makes it again" if each.discarded else "run again"
            folder = self.results.folder(each.id)
            raise CorruptShard(folder, None, f"{each.reason}; {mend}")
        return self.manifest

    def to_arrow(self, columns: list[str] | None = None) -> pa.Table:
        """All rows, as one table; of Attributes the columns are `<table>.<column>`.

        Raises:
            ValueError: it is no table.
        """
        made = self.readable()
        if isinstance(made, Attributes):
            return self._attributes(made, columns)
        tables = [read_shard(made.root, shard, columns) for shard in self._shards(made)]
        if not tables:  # of an empty corpus
            schema = INDEX if isinstance(made, Tokens) else DOCUMENT_SCHEMA
            tables = [schema.empty_table().select(columns or schema.names)]
        return pa.concat_tables(tables)

    def to_pandas(self, columns: list[str] | None = None) -> Any:
        """As `to_arrow`, for pandas, which must be installed."""
        return self.to_arrow(columns).to_pandas()

    @staticmethod
    def _shards(made: Artifact) -> list[Shard]:
        if isinstance(made, OrderTable):
            return [made.table]
        if isinstance(made, Scores):
            return [made.scores]
        if isinstance(made, Checkpoints):
            history = made.history
            rows = pq.read_metadata(history.place(made.root)).num_rows
            return [Shard(history.path, history.num_bytes, history.content, history.sha256, rows)]
        shards: list[Shard] = getattr(made, "shards", [])
        if isinstance(made, Tokens):  # a row a document: where its ids stand in the shard
            parts = (part for shard in made.shards for part in shard.parts())
            return [part for part in parts if isinstance(part, Shard) and not part.content]
        if not shards and not isinstance(made, (Documents, Tokens)):
            raise ValueError(f"a {type(made).__name__} is no table")
        return shards

    @staticmethod
    def _attributes(made: Attributes, columns: list[str] | None) -> pa.Table:
        found: dict[str, pa.ChunkedArray] = {}
        for table in made.tables:
            wanted = [n for n in table.columns if not columns or f"{table.name}.{n}" in columns]
            if wanted:
                whole = pa.concat_tables(read_shard(made.root, s, wanted) for s in table.shards)
                found |= {f"{table.name}.{name}": whole[name] for name in wanted}
        if columns and (missing := [name for name in columns if name not in found]):
            raise ValueError(f"columns are {missing}; nothing measured them")
        return pa.table(found)

    @property
    def checkpoints(self) -> list[OpenCheckpoint]:
        """The checkpoints of a training; raises ValueError for anything else."""
        made = self.readable()
        if not isinstance(made, Checkpoints):
            raise ValueError(f"{self.id} is a {type(made).__name__}; it has no checkpoints")
        return [OpenCheckpoint(made, each) for each in made.steps]

    @property
    def latest(self) -> OpenCheckpoint:
        """The last checkpoint of a training."""
        return self.checkpoints[-1]

    def load(self) -> Olmo:
        """The model of a Hugging Face folder, or of the last checkpoint of a training."""
        made = self.readable()
        if isinstance(made, HfModel):
            from pipeline.model.hf import load_hf

            return load_hf(made)
        return self.latest.load()

    def __repr__(self) -> str:
        return f"{type(self.manifest).__name__} {self.id} in {visible(str(self.path))}"

    def _repr_html_(self) -> str:
        rows = [
            [name, value]
            for name, value in self.manifest.to_json().items()
            if isinstance(value, (str, int, float))
        ]
        return _html_table(self.id, ["field", "value"], [["path", self.path], *rows])


@dataclass(frozen=True)
class OpenCheckpoint:
    """One saved step of a training."""

    view: Checkpoints
    checkpoint: Checkpoint

    @property
    def step(self) -> int:
        return self.checkpoint.step

    @property
    def path(self) -> Path:
        """The folder of its files."""
        return self.view.folder(self.checkpoint)

    def load(self) -> Olmo:
        """The model, in float32 on the CPU.

        Raises:
            CorruptShard: its file is damaged.
        """
        from pipeline.model.hf import load_checkpoint_model

        return load_checkpoint_model(self.view, self.checkpoint)

    def __repr__(self) -> str:
        return f"checkpoint of step {self.step} in {visible(os.fspath(self.path))}"


def _html_table(title: str, heads: list[str], rows: list[list[Any]]) -> str:
    def cells(tag: str, values: list[Any]) -> str:
        return "".join(f"<{tag}>{html.escape(visible(str(v)))}</{tag}>" for v in values)

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    caption = html.escape(visible(title))
    return f"<table><caption>{caption}</caption><tr>{cells('th', heads)}</tr>{body}</table>"
