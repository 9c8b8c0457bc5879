"""The floor of a stage: what it reads is read, what it made is written again, and nothing else.

Inputs are decompressed and parsed, outputs compressed and digested, by the code that the stage uses
itself. What is written must be read first, which counts as well.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.core.artifacts import Artifact, Attributes, Tokens
from pipeline.core.engine import Local
from pipeline.core.shards import ShardWriter, read_groups


def copy(inputs: list[Artifact], made: Artifact, out: Path, workers: int) -> None:
    """Read the shards of `inputs`, and write those of `made` below `out`."""
    engine = Local(workers)
    given = list(zip(*map(_shards, inputs), strict=True))
    written = _shards(made)
    roots = [each.root for each in inputs]
    engine.map(_Read(roots, given), range(len(given)), threads=True)
    engine.map(_Write(made.root, written, out), range(len(written)), threads=True)


def read_jsonl(files: list[Path], workers: int) -> None:
    """Decompress and parse lines of JSON."""
    Local(workers).map(_parse, files)


def _parse(path: Path) -> None:
    import orjson
    from isal import igzip

    with igzip.open(path) as lines:
        for line in lines:
            orjson.loads(line)


def _shards(made: Artifact) -> list[list[Any]]:
    """The files of each shard."""
    if isinstance(made, Attributes):
        return [list(each) for each in zip(*(table.shards for table in made.tables), strict=True)]
    if isinstance(made, Tokens):
        return [[part for part in shard.parts()] for shard in made.shards]
    return [[shard] for shard in made.shards]


@dataclass
class _Read:
    roots: list[Path]
    given: list[Any]

    def __call__(self, number: int) -> None:
        for root, shards in zip(self.roots, self.given[number], strict=True):
            for shard in shards:
                for _ in read_groups(root, shard):
                    pass


@dataclass
class _Write:
    root: Path
    written: list[Any]
    out: Path

    def __call__(self, number: int) -> None:
        for part in self.written[number]:
            if part.path.endswith(".parquet"):
                table = pq.read_table(self.root / part.path)
                with ShardWriter(self.out, part.path, table.schema) as writer:
                    writer.write(table)
            else:
                (self.out / part.path).parent.mkdir(parents=True, exist_ok=True)
                (self.out / part.path).write_bytes((self.root / part.path).read_bytes())
