"""What `filter` may be told: keep within bounds, keep a sample, keep by any or all, replace spans.

In an experiment: { attribute: 'gopher.word_count', at_least: 50, at_most: 100000 },
{ any: [{ attribute: 'language.en', at_least: 0.5 }, { attribute: 'language.de', at_least: 0.5 }] },
{ sample_by: 'id', from_fraction: 0, to_fraction: 0.1, seed: 's' },
{ spans: 'pii.email_address', replace_with: '|||EMAIL_ADDRESS|||', min_score: 0.5 }.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import xxhash

from pipeline.core.errors import nearest


def exact(number: float) -> str:
    """The shortest text that is this number and no other: `0.1`, and `50` of 50.0."""
    number = float(number)
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)


@dataclass(frozen=True)
class Keep:
    """Keep documents whose attribute is within bounds, both included.

    A measure that is not defined for a document (null) removes nothing, as in Dolma.

    Args:
        attribute: `<table>.<column>`, a number.
    """

    attribute: str
    at_least: float | None = None
    at_most: float | None = None

    VERSION: ClassVar[str] = "001"

    def __post_init__(self) -> None:
        if self.at_least is None and self.at_most is None:
            raise ValueError("neither at_least nor at_most is given; a rule needs one of them")
        if self.at_least is not None and self.at_most is not None:
            if self.at_least > self.at_most:
                raise ValueError(
                    f"at_least is {exact(self.at_least)}; it must not be above at_most, "
                    f"{exact(self.at_most)}"
                )

    def __str__(self) -> str:
        low = "" if self.at_least is None else f" at least {exact(self.at_least)}"
        high = "" if self.at_most is None else f" at most {exact(self.at_most)}"
        return f"{self.attribute}{low}{' and' if low and high else ''}{high}"


@dataclass(frozen=True)
class Sample:
    """Keep documents for which a hash of `seed` and a field falls in [from, to) of [0, 1).

    Documents with the same value stay together, and a document's fate does not depend on the
    others, so that one more shard disturbs nothing.

    Args:
        sample_by: `id`, `text`, `source`, or `metadata.<name>`.
    """

    sample_by: str
    from_fraction: float
    to_fraction: float
    seed: str

    VERSION: ClassVar[str] = "001"

    def __post_init__(self) -> None:
        if not 0 <= self.from_fraction <= self.to_fraction <= 1:
            raise ValueError(
                f"from_fraction is {exact(self.from_fraction)}, to_fraction is "
                f"{exact(self.to_fraction)}; they must lie in order in [0, 1]"
            )
        if self.sample_by not in ("id", "text", "source") and not (
            self.sample_by.startswith("metadata.") and len(self.sample_by) > len("metadata.")
        ):
            raise ValueError(
                f"sample_by is {self.sample_by!r}; it must be id, text, source or metadata.<name>"
            )

    def __str__(self) -> str:
        return (
            f"hash of {self.sample_by} with {self.seed!r} in "
            f"[{exact(self.from_fraction)}, {exact(self.to_fraction)})"
        )


@dataclass(frozen=True)
class Replace:
    """Put `replace_with` in the place of an attribute's spans.

    Spans of all such rules are taken in order of their start, then of the rules, then of their end.
    Spans that overlap are merged, and the first one's replacement stands for all: on `0123456789`,
    [0, 5) by `A` and [3, 8) by `B` give `A89`. One that starts where another ends is replaced too.

    Args:
        spans: `<table>.<column>`, spans.
        min_score: of the spans that are replaced.
        merge: false leaves out whole what starts inside an earlier span, so that its end stays in
            the text (`A56789`), as Dolma's tool does.
        keep_empty: whether a document stays, as in Dolma, that such rules alone left without text.

    Source: allenai/dolma, `dolma mix`, `span_replacement`.
    Differs: overlaps are merged, as the end of an address would stay otherwise; an empty span does
        nothing (there it deletes a character and blocks later spans); a score has no upper bound;
        `{}` in `replace_with` is itself (there it is the old text).
    """

    spans: str
    replace_with: str = ""
    min_score: float = 0.5
    merge: bool = True
    keep_empty: bool = False

    VERSION: ClassVar[str] = "002"

    def __str__(self) -> str:
        return f"replace {self.spans} by {self.replace_with!r}"


@dataclass(frozen=True)
class AnyOf:
    """Keep documents that at least one of some conditions would keep."""

    any: list[Condition]

    VERSION: ClassVar[str] = "001"

    def __post_init__(self) -> None:
        if not self.any:
            raise ValueError("any is empty; no document passes one of no conditions")

    def __str__(self) -> str:
        return " or ".join(_inside(each) for each in self.any)


@dataclass(frozen=True)
class AllOf:
    """Keep documents that each of some conditions would keep; for use within `any`."""

    all: list[Condition]

    VERSION: ClassVar[str] = "001"

    def __post_init__(self) -> None:
        if not self.all:
            raise ValueError("all is empty; it must name a condition")

    def __str__(self) -> str:
        return " and ".join(_inside(each) for each in self.all)


Condition = Keep | Sample | AnyOf | AllOf
Rule = Condition | Replace


def _inside(condition: Condition) -> str:
    return f"({condition})" if isinstance(condition, (AnyOf, AllOf)) else str(condition)


def measures(rule: Rule) -> Iterator[Keep | Sample]:
    """The conditions of a rule that look at one number each, in their order."""
    if isinstance(rule, AnyOf | AllOf):
        for each in rule.any if isinstance(rule, AnyOf) else rule.all:
            yield from measures(each)
    elif not isinstance(rule, Replace):
        yield rule


class Reading(NamedTuple):
    """An attribute that a rule looks at: the place that names it, and the kind that it must be."""

    path: str
    name: str
    kind: str


def readings(rules: Sequence[Rule], path: str = "rules") -> Iterator[Reading]:
    """The attributes, `<table>.<column>`, that rules look at."""
    for place, rule in enumerate(rules):
        here = f"{path}[{place}]"
        if isinstance(rule, Keep):
            yield Reading(f"{here}.attribute", rule.attribute, "number")
        elif isinstance(rule, Replace):
            yield Reading(f"{here}.spans", rule.spans, "spans")
        elif isinstance(rule, AnyOf):
            yield from readings(rule.any, f"{here}.any")
        elif isinstance(rule, AllOf):
            yield from readings(rule.all, f"{here}.all")


def check_rules(rules: Sequence[Rule], columns: Mapping[str, str], path: str = "rules") -> None:
    """Raises ValueError for a rule on an attribute that is not there, or of the other kind.

    Args:
        columns: `<table>.<column>` -> "number" or "spans".
    """
    for each in readings(rules, path):
        here = f"{each.path} is {each.name!r}"
        if each.name not in columns:
            raise ValueError(f"{here}, which nothing measures{nearest(each.name, columns)}")
        if columns[each.name] != each.kind:
            right = [name for name, kind in columns.items() if kind == each.kind]
            table = each.name.split(".", 1)[0]
            right = [name for name in right if name.startswith(f"{table}.")] or right
            raise ValueError(
                f"{here}, which holds {columns[each.name]}; the rule needs {each.kind}"
                f"{nearest(each.name, right)}"
            )


def sample_place(seed: str, value: str) -> float:
    """The place of a value in [0, 1): the upper 53 bits of the 64-bit xxh3 hash of both."""
    return (xxhash.xxh3_64_intdigest(f"{seed}\0{value}".encode()) >> 11) / (1 << 53)
