"""A batch of texts as Arrow holds them, and what is measured of all of them at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.data.document import SPAN
from pipeline.data.taggers import DECIMALS, SpanList, Value

Bytes: TypeAlias = npt.NDArray[np.uint8]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]
Floats: TypeAlias = npt.NDArray[np.float64]
Column: TypeAlias = "Floats | Spans"
EXACT_BELOW = 1e6  # values of which five decimals are told by a product and a look for halves


@dataclass(frozen=True)
class Texts:
    """Texts one after another in UTF-8: text i is `data[bounds[i]:bounds[i + 1]]`.

    What several taggers ask is worked out once: `kinds` of the characters (see `compiled`), and
    `counts` of characters, words and newlines, a row a text.
    """

    data: Bytes
    bounds: npt.NDArray[np.int64]

    @classmethod
    def of(cls, column: pa.Array) -> Texts:
        """The texts of a column of strings without nulls; copies none of them.

        Raises:
            pa.ArrowInvalid: they are no UTF-8.
        """
        column.validate(full=True)
        wide = column.cast(pa.large_string())
        _, offsets, data = wide.buffers()
        bounds = np.frombuffer(offsets or bytes(8), np.int64)[wide.offset :][: len(wide) + 1]
        held = np.frombuffer(data or b"", np.uint8)[bounds[0] : bounds[-1]]
        return cls(held, bounds - bounds[0])

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: int) -> str:
        return str(self.data[self.bounds[place] : self.bounds[place + 1]].data, "utf-8")

    @cached_property
    def kinds(self) -> Bytes:
        from pipeline.data.compiled import characters

        kinds: Bytes = characters.kinds_of(self.data, characters.kind_table())
        return kinds

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        from pipeline.data.compiled import characters

        counts: npt.NDArray[np.int64] = characters.counts_of(self.data, self.kinds, self.bounds)
        return counts

    def forget(self) -> None:
        """Let go of what takes a byte for each of the text's, and can be worked out again."""
        self.__dict__.pop("kinds", None)

    @property
    def num_characters(self) -> npt.NDArray[np.int64]:
        return self.counts[:, 0]


@dataclass(frozen=True)
class Spans:
    """Spans of several texts, in their order; `counts` says how many are of each."""

    starts: Ints
    ends: Ints
    counts: Ints
    scores: Floats | None = None  # without them each is 1

    @property
    def covered(self) -> Ints:
        """How many characters of each text its spans have, together."""
        sums = np.concatenate(([0], np.cumsum(self.ends - self.starts, dtype=np.int64)))
        bounds = np.concatenate(([0], np.cumsum(self.counts)))
        return np.diff(sums[bounds])

    def as_array(self, ones: Floats) -> pa.Array:
        """As Arrow holds them; takes scores from `ones` where there are none."""
        scores = ones[: len(self.starts)] if self.scores is None else self.scores
        held = [self.starts, self.ends, scores]
        rows = pa.StructArray.from_arrays(
            [pa.array(each, field.type) for each, field in zip(held, SPAN, strict=True)],
            fields=list(SPAN),
        )
        bounds = np.concatenate(([0], np.cumsum(self.counts))).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(bounds), rows)


class BatchTagger(ABC):
    """A tagger that measures many texts at once; of one text it measures a batch of one."""

    COLUMNS: ClassVar[Mapping[str, str]]

    @abstractmethod
    def measure_all(self, texts: Texts) -> dict[str, Column]:
        """A column for each of `COLUMNS`; NaN is a number that is not defined for a text."""

    def measure(self, text: str) -> dict[str, Value]:
        """A value for each column; None where the measure is not defined for the text."""
        made = self.measure_all(Texts.of(pa.array([text], pa.string())))
        values = {name: as_array(column)[0].as_py() for name, column in made.items()}
        return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Value:
    if isinstance(value, list):
        return [(each["start"], each["end"], each["score"]) for each in value]
    number: float | None = value
    return number


def as_array(column: Column) -> pa.Array:
    """A column as Arrow holds it."""
    return as_arrays([column])[0]


def as_arrays(columns: Sequence[Column]) -> list[pa.Array]:
    """Columns as Arrow holds them; the scores of 1 of all spans are the same memory."""
    spans = [each for each in columns if isinstance(each, Spans) and each.scores is None]
    ones = np.ones(max((len(each.starts) for each in spans), default=0))
    return [
        each.as_array(ones)
        if isinstance(each, Spans)
        else pa.array(np.ascontiguousarray(each), pa.float64(), from_pandas=True)
        for each in columns
    ]


def as_row(values: Mapping[str, Value], kinds: Mapping[str, str]) -> dict[str, SpanList | float]:
    """What a tagger says of one text as columns hold it: spans as numbers, NaN in place of None.

    Raises:
        ValueError: a number is NaN, which no measure is.
    """
    row: dict[str, SpanList | float] = {}
    for name, kind in kinds.items():
        value: Any = values[name]
        if kind == "spans":
            row[name] = value if isinstance(value, SpanList) else SpanList(value or ())
        elif value is not None and value != value:
            raise ValueError(f"{name} is {value}; it must be a finite number or None")
        else:
            row[name] = np.nan if value is None else 1.0 * value
    return row


def columns_of(rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, str]) -> dict[str, Column]:
    """What was measured a text at a time, in columns; rows are of `as_row`."""
    made: dict[str, Column] = {}
    for name, kind in kinds.items():
        values = [row[name] for row in rows]
        if kind == "spans":
            counts = np.array([len(each) for each in values], np.int64)
            starts, ends, scores = (
                _joined([np.asarray(getattr(each, part)) for each in values])
                for part in ("starts", "ends", "scores")
            )
            made[name] = Spans(starts, ends, counts, scores)
        else:
            made[name] = np.array(values, np.float64)
    return made


def _joined(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def rounded(values: Floats) -> Floats:
    """Each value to five decimals, as Python's `round` does it.

    The quotient of a whole number by 100,000 is the float nearest to those decimals. Which whole
    number is nearest is plain unless the product is close to a half, or large.
    """
    scale = 10.0**DECIMALS
    product = values * scale
    nearest = np.rint(product)
    made: Floats = nearest / scale
    doubt = (np.abs(product - nearest) > 0.499) | (np.abs(values) > EXACT_BELOW)
    for place in zip(*np.nonzero(doubt), strict=True):
        made[place] = round(float(values[place]), DECIMALS)
    return made
