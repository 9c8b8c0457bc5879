"""Near duplicates: documents that share most of their n-grams, found by MinHash.

A document's n-grams are a set; of each of many random orders of all n-grams, its signature holds
the first that is in the set, and two documents agree there with the probability of their Jaccard
similarity. Signatures are cut into bands; documents that agree in all rows of a band are joined.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from pipeline.core.artifacts import Attributes, AttributeTable, Documents
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.files import Shard
from pipeline.core.shards import ShardWriter, shard_name
from pipeline.data.document import attribute_schema
from pipeline.data.duplicates.first_seen import Keys, Places, Run, RunWriter, firsts, part_bits
from pipeline.data.taggers import unicode_version
from pipeline.data.text_columns import TextColumn, read_text

VERSION = "001"
NAME = "near_duplicates"
COLUMNS = {"duplicate_near": "number", "cluster_size": "number", "kept_place": "number"}
PRIME = (1 << 61) - 1
MAX_SEED = 2**32 - 1
SIGNED_BYTES = 4 << 20  # of the signatures in memory at a time


def find_near_duplicates(
    documents: Documents,
    *,
    num_bands: int = 14,
    num_rows: int = 8,
    ngram_words: int = 5,
    seed: int = 1,
    out: Path,
    engine: Engine = LOCAL,
) -> Attributes:
    """Cluster documents that are nearly alike, and mark all but the first: table `near_duplicates`.

    Two documents of Jaccard similarity s share a band with probability 1 - (1 - s^rows)^bands: by
    default 0.01 at s = 0.4, 0.52 at 0.69, 0.92 at 0.8, 0.9996 at 0.9. Whoever shares a band is in
    one cluster, and so are those that a chain of such pairs connects. Of a cluster, the document
    that stands first in the corpus is kept: `duplicate_near` is 0 for it and for documents that are
    alone, else 1. `cluster_size` is 1 for a document that is alone; `kept_place` is the place in
    the corpus, from 0, of the one that is kept.

    Words are what stands between white space, punctuation and symbols, with letters in lower case
    and without accents (Unicode NFD without marks) and every number as `0`; an ideograph, a kana,
    and a letter of Thai, Lao, Khmer or Burmese is a word by itself. A document of fewer words than
    an n-gram has no signature and is never a near duplicate: exact dedup finds its equals.

    In memory are 16 bytes a document, and a part of the band keys; in `out` meanwhile 24 bytes a
    document and band. The result is the same whatever the shards and workers.

    Args:
        num_bands, num_rows: signatures have `num_bands * num_rows` values.
        seed: of the hash functions, below 2^32.

    Source: Broder 1997, "On the resemblance and containment of documents"; Lee et al. 2022,
        "Deduplicating training data makes language models better", appendix A; datatrove 0.10,
        `pipeline/dedup/minhash.py`, whose hash functions these are: XXH64 of an n-gram h, then
        (a h + b mod 2^64) mod (2^61 - 1) with a, b of numpy's `RandomState(seed)`.
    Differs: clusters are datatrove's where words are. Words are its English ones without the rules
        of spaCy (`cannot` is one word), all symbols are spaces, a capital sigma is never a final
        one. It keeps the root of a union by size, which need not be the first. Lee et al. compare
        the members of a band by their edit similarity; here sharing a band is enough.
    """
    given = {"num_bands": num_bands, "num_rows": num_rows, "ngram_words": ngram_words}
    for name, value in given.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed is {seed}; it must be from 0 to {MAX_SEED}")
    out = Path(out)
    scratch = out / ".bands"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    num_bits = part_bits(documents.num_documents * num_bands)
    work = _SignShard(documents, num_bands, num_rows, ngram_words, seed, num_bits, scratch)
    numbers = range(len(documents.shards))
    names = engine.map(work, numbers, label="near duplicates: sign", threads=True)
    begins = list(accumulate((each.num_records for each in documents.shards), initial=0))
    runs = [Run(scratch / name, begins[number]) for number in numbers for name in names[number]]
    kept, sizes = _clusters(runs, num_bits, documents.num_documents)
    shutil.rmtree(scratch)
    shards = [
        _write_marks(number, begins[number], kept[begins[number] : begins[number + 1]], sizes, out)
        for number in numbers
    ]
    table = AttributeTable(NAME, dict(COLUMNS), shards)
    return Attributes.of(out, describes=documents.content, tables=[table])


def fingerprint() -> str:
    """What tells words apart: letters, marks, digits and white space, by Python's Unicode."""
    return unicode_version()


@dataclass(frozen=True)
class _SignShard:
    """Write the band keys of a shard in runs; gives the runs' names."""

    documents: Documents
    num_bands: int
    num_rows: int
    ngram_words: int
    seed: int
    num_bits: int
    scratch: Path

    def __call__(self, number: int) -> list[str]:
        from pipeline.data.compiled import signatures  # numba

        factors, terms = hash_functions(self.num_bands * self.num_rows, self.seed)
        table = signatures.folding()
        first = 0
        runs = RunWriter(self.scratch, str(number), self.num_bits)
        for texts, _ in read_text(self.documents.root, self.documents.shards[number]):
            for data, offsets in self._pieces(texts):
                room = np.empty(signatures.MOST_BYTES * (int(np.diff(offsets).max()) + 1), np.uint8)
                least, counts = signatures.sign(
                    data, offsets, self.ngram_words, factors, terms, *table, room
                )
                signed = np.flatnonzero(counts >= self.ngram_words)
                keys = _band_keys(least[signed], self.num_bands)
                runs.add(keys, np.repeat(signed, self.num_bands) + first)
                first += len(offsets) - 1
        return runs.close()

    def _pieces(self, texts: TextColumn) -> Iterator[TextColumn]:
        """A batch in pieces whose signatures fit into memory, whatever the number of bands."""
        step = max(1, SIGNED_BYTES // (8 * self.num_bands * self.num_rows))
        for first in range(0, len(texts.offsets) - 1, step):
            yield TextColumn(texts.data, texts.offsets[first : first + step + 1])


def _band_keys(least: npt.NDArray[np.uint64], num_bands: int) -> Keys:
    """A key for each band of each signature: the hash of its number and its rows."""
    from pipeline.data.compiled import hashing  # numba

    rows = least.reshape(-1, least.shape[1] // num_bands)
    bands = np.arange(len(rows), dtype=np.uint64) % np.uint64(num_bands)
    block = np.column_stack([bands, rows])
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * np.int32(block[0:1].nbytes)
    return cast(Keys, hashing.hash_texts(block.ravel().view(np.uint8), offsets))


def hash_functions(
    num_functions: int, seed: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Factors and terms of the hash functions of a seed."""
    random = np.random.RandomState(seed)  # its numbers are the same in every version of numpy
    factors = random.randint(1, PRIME, dtype=np.uint64, size=num_functions)
    return factors, random.randint(0, PRIME, dtype=np.uint64, size=num_functions)


def _clusters(runs: list[Run], num_bits: int, num_documents: int) -> tuple[Places, Places]:
    """The first document of each one's cluster, and the size of the cluster of each such first."""
    from pipeline.data.compiled import hashing  # numba

    parents = np.arange(num_documents)
    sizes = np.zeros(num_documents, np.int64)
    for places, first in firsts(runs, num_bits):
        hashing.join_sets(parents, places, first)
    hashing.settle_sets(parents, sizes)
    return parents, sizes


def _write_marks(number: int, begin: int, kept: Places, sizes: Places, out: Path) -> Shard:
    schema = attribute_schema(COLUMNS)
    with ShardWriter(out, f"{NAME}/{shard_name(number)}", schema) as writer:
        marks = kept != np.arange(begin, begin + len(kept))
        columns = [each.astype(np.float64) for each in (marks, sizes[kept], kept)]
        writer.write({name: column for name, column in zip(COLUMNS, columns, strict=True)})
    return writer.shard
