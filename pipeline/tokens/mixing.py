"""Several Tokens in given proportions, as a manifest that copies nothing.

Instance i of a part is the i-th run of `sequence_length` tokens in its shards laid end to end;
what is left over at the end of a part is not read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path

from pipeline.core.artifacts import MixPart, TokenMix, Tokens
from pipeline.core.errors import MismatchedInputs, nearest


def mix_tokens(
    tokens: Mapping[str, Tokens],
    *,
    sequence_length: int,
    proportions: Mapping[str, float] | None = None,
    repeats: Mapping[str, float] | None = None,
    num_instances: int | None = None,
    out: Path,
) -> TokenMix:
    """Say how many instances of each part one epoch reads.

    With neither proportions nor repeats every part is read once. The order of `tokens` does not
    matter. A part drawn less than once gives its first instances; more than once, it starts over.

    Args:
        sequence_length: tokens of an instance.
        proportions: weight of each part among the instances, in any unit.
        repeats: how often each part is read, 1 where it is not named; not with `proportions`.
        num_instances: of one epoch. Without it, repeats are exact, and proportions give the largest
            mix in which no part's share, before rounding, exceeds what the part holds.

    Raises:
        MismatchedInputs: two parts have different tokenizers.
    """
    if sequence_length < 1:
        raise ValueError(f"sequence_length is {sequence_length}; it must be at least 1")
    if not tokens:
        raise ValueError("tokens is empty; it must name at least one part")
    if proportions is not None and repeats is not None:
        raise ValueError("proportions and repeats are both given; it must be one of them")
    if num_instances is not None and num_instances < 1:
        raise ValueError(f"num_instances is {num_instances}; it must be at least 1")
    names = sorted(tokens)
    first = tokens[names[0]]
    for name in names:
        _require_alike(names[0], first, name, tokens[name])
    held = {name: tokens[name].num_tokens // sequence_length for name in names}
    weights = _weights(held, proportions, repeats, sequence_length)
    if num_instances is None:
        num_instances = _natural_size(held, weights, proportions is not None)
    drawn = apportion(weights, num_instances)
    return TokenMix.of(
        Path(out),
        sequence_length=sequence_length,
        tokenizer=first.tokenizer,
        dtype=first.dtype,
        vocab_size=first.vocab_size,
        end_id=first.end_id,
        parts=[MixPart(n, tokens[n].content, held[n], drawn[n]) for n in names],
        locations=[Path(os.path.relpath(tokens[n].root, out)).as_posix() for n in names],
    )


def check_proportions(
    proportions: Mapping[str, float], parts: Iterable[str], path: str = "proportions"
) -> None:
    """Raises ValueError unless there is one for each part, none negative and one above 0."""
    names = sorted(parts)
    for name, value in proportions.items():
        if name not in names:
            raise ValueError(f"{path}.{name} is of no part{nearest(name, names)}")
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{path}.{name} is {value:g}; it must be finite and at least 0")
    for name in names:
        if name not in proportions:
            raise ValueError(f"{path}.{name} is missing; a part that is not read has 0")
    if not any(proportions.values()):
        raise ValueError(f"{path} are 0 for every part; one must be above 0")


def check_repeats(
    repeats: Mapping[str, float], parts: Iterable[str], path: str = "repeats"
) -> None:
    """Raises ValueError for one of no part or below 0, or where no part is read."""
    names = sorted(parts)
    for name, value in repeats.items():
        if name not in names:
            raise ValueError(f"{path}.{name} is of no part{nearest(name, names)}")
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{path}.{name} is {value:g}; it must be finite and at least 0")
    if not any(repeats.get(name, 1) for name in names):
        raise ValueError(f"{path} are 0 for every part; one must be above 0")


def apportion(weights: Mapping[str, Fraction], total: int) -> dict[str, int]:
    """Split `total` by the weights to whole numbers, none off its share by one or more.

    Largest remainders get what rounding down leaves; of equal remainders the first name.
    """
    whole = sum(weights.values())
    shares = {name: total * weights[name] / whole for name in weights}
    counts = {name: math.floor(share) for name, share in shares.items()}
    left = total - sum(counts.values())
    for name in sorted(shares, key=lambda name: (counts[name] - shares[name], name))[:left]:
        counts[name] += 1
    return counts


def _weights(
    held: Mapping[str, int],
    proportions: Mapping[str, float] | None,
    repeats: Mapping[str, float] | None,
    sequence_length: int,
) -> dict[str, Fraction]:
    given = proportions if proportions is not None else repeats or {}
    label = "proportions" if proportions is not None else "repeats"
    if proportions is not None:
        check_proportions(proportions, held)
    else:
        check_repeats(given, held)
    exact = {name: Fraction(repr(value)) for name, value in given.items()}  # 0.1 is a tenth
    if proportions is None:
        exact = {name: exact.get(name, Fraction(1)) for name in held}
    for name, weight in exact.items():
        if weight and not held[name]:
            raise ValueError(
                f"sequence_length is {sequence_length}; {name!r} has fewer tokens, so no instance: "
                "leave it out or give it 0"
            )
    if proportions is None:
        exact = {name: exact[name] * held[name] for name in held}
    if not any(exact.values()):
        raise ValueError(f"{label} and tokens give no instance; one part must give some")
    return {name: exact[name] for name in held}


def _natural_size(held: Mapping[str, int], weights: Mapping[str, Fraction], limited: bool) -> int:
    whole = sum(weights.values(), Fraction(0))
    if not limited:  # repeats: the weights are counts
        size = math.floor(whole)
    else:
        size = math.floor(min(held[n] * whole / weights[n] for n in held if weights[n]))
    if size < 1:
        raise ValueError(f"the mix has {size} instances; it must have at least 1")
    return size


def _require_alike(left_name: str, left: Tokens, right_name: str, right: Tokens) -> None:
    for field in ("tokenizer", "dtype", "vocab_size", "end_id"):
        if getattr(left, field) != getattr(right, field):
            raise MismatchedInputs(
                f"Tokens {left_name!r}",
                f"Tokens {right_name!r}",
                f"{field} is {getattr(left, field)} and {getattr(right, field)}",
            )
