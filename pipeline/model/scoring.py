"""Log-probabilities of chosen tokens, batched by length and projected only where they are scored.

Rows that differ only in what is scored, as the choices of a question do, are one sequence with
branches: the shared context is computed once. Rows are sorted by length and content before they
are batched, so the order in which they are asked for changes nothing.

Shapes: B rows, T tokens, D width, N scored places, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.model.olmo import Olmo

LOGIT_FLOATS = 1 << 24  # at most so many logits in memory at once
BATCH_TOKENS = 2048
Numbers = NDArray[np.float64]


class Row(NamedTuple):
    """Ids, and the places (1 or later) whose tokens are scored, given all before them."""

    ids: tuple[int, ...]
    scored: tuple[int, ...]
    num_cut: int = 0  # tokens lost on the left


class Scored(NamedTuple):
    """Natural log-probabilities of the scored tokens, and whether each is the likeliest."""

    logprobs: NDArray[np.float64]
    greedy: NDArray[np.bool_]


class Sharing(Protocol):
    """The processes that hold a model together, each of which must make every call of it."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def added(self, numbers: Numbers) -> Numbers:
        """The sum over all of them, in each."""
        ...


class Alone:
    """A process that holds the whole model."""

    rank, size = 0, 1

    def added(self, numbers: Numbers) -> Numbers:
        return numbers


ALONE = Alone()


@dataclass(frozen=True)
class Scorer:
    """A model and how it scores rows.

    Args:
        batch_tokens, ranks: as of `score_rows`.
    """

    model: Olmo
    batch_tokens: int = BATCH_TOKENS
    ranks: Sharing = ALONE

    @property
    def max_sequence_length(self) -> int:
        return self.model.config.max_sequence_length

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """Score rows, in their order."""
        return score_rows(self.model, rows, batch_tokens=self.batch_tokens, ranks=self.ranks)


def row(ids: Sequence[int], scored: Sequence[int], max_sequence_length: int) -> Row:
    """A row that fits the model, cut on the left; the first token is context for the rest."""
    excess = max(0, len(ids) - max_sequence_length - 1)
    kept = tuple(place - excess for place in scored if place - excess >= 1)
    return Row(tuple(ids[excess:]), kept, excess)


def masked_row(ids: Sequence[int], mask: Sequence[int], max_sequence_length: int) -> Row:
    """A row that fits the model and scores the tokens whose mask is 1."""
    return row(ids, [i for i, kept in enumerate(mask) if kept and i], max_sequence_length)


@torch.no_grad()  # FSDP cannot gather parameters in inference mode
def score_rows(
    model: Olmo,
    rows: Sequence[Row],
    *,
    batch_tokens: int = BATCH_TOKENS,
    ranks: Sharing = ALONE,
) -> list[Scored]:
    """Score rows, in their order; equal rows are computed once.

    Args:
        batch_tokens: tokens of a batch, its padding included; a longer row is a batch of its own.
        ranks: that hold the model together and ask for the same rows. The batches are those of one
            process and are dealt to them, so that each value is what one process would find.

    Raises:
        ValueError: a row has an id that is none of the model's, as those of another tokenizer do.
    """
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens is {batch_tokens}; it must be at least 1")
    found: dict[_Key, Scored] = {}
    branches: dict[tuple[int, ...], list[_Key]] = {}
    longest = min(batch_tokens, model.config.max_sequence_length)
    wanted = sorted({_key(each) for each in rows if each.scored})
    highest = max((max(ids) for ids, _ in wanted), default=0)
    if highest >= (size := model.config.vocab_size):
        raise ValueError(f"a row has the token id {highest}; the model's are below {size}")
    for key in wanted:
        branches.setdefault(key[0][: key[1][0]], []).append(key)
    packs = [each for keys in branches.values() for each in _packs(keys, longest)]
    packs.sort(key=lambda pack: (-_width(pack), pack))
    batches = list(_batches(packs, batch_tokens))
    for batch, scored in zip(batches, _score_dealt(model, batches, ranks), strict=True):
        found |= zip((key for pack in batch for key in pack), scored, strict=True)
    nothing = Scored(np.zeros(0), np.zeros(0, bool))
    return [found[_key(each)] if each.scored else nothing for each in rows]


_Key = tuple[tuple[int, ...], tuple[int, ...]]  # ids up to the last scored, and the scored places
_Pack = list[_Key]


def _key(each: Row) -> _Key:
    return each.ids[: each.scored[-1] + 1], each.scored


def _width(pack: _Pack) -> int:
    """Tokens the model reads for rows that share all before the first scored place."""
    return pack[0][1][0] + sum(len(ids) - 1 - scored[0] for ids, scored in pack)


def _packs(keys: list[_Key], longest: int) -> Iterator[_Pack]:
    """Rows with one context, as many together as fit and as pays.

    Branches cost attention to each other's masked places, so one more than twice as long as the
    context, such as a document after the end token, stays alone.
    """
    pack: _Pack = []
    for key in keys:
        alone = len(key[0]) - 1 > 3 * key[1][0]
        if pack and (alone or _width([*pack, key]) > longest):
            yield pack
            pack = []
        pack.append(key)
    yield pack


def _batches(packs: Sequence[_Pack], batch_tokens: int) -> Iterator[Sequence[_Pack]]:
    """Packs, the widest first, as many together as a batch holds."""
    first = 0
    while first < len(packs):
        batch = packs[first : first + max(1, batch_tokens // _width(packs[first]))]
        yield batch
        first += len(batch)


def _score_dealt(
    model: Olmo, batches: Sequence[Sequence[_Pack]], ranks: Sharing
) -> Iterator[list[Scored]]:
    """The scores of each batch, of which each rank makes every so many-th.

    A rank that has none left when others have makes one of theirs: parts of the model are in all.
    """
    if ranks.size == 1:
        yield from (_score_batch(model, batch) for batch in batches)
        return
    lengths = [[len(scored) for pack in batch for _, scored in pack] for batch in batches]
    bounds = np.cumsum([0, *(sum(each) for each in lengths)])
    values = np.zeros((2, bounds[-1]))
    for first in range(0, len(batches), ranks.size):
        place = first + ranks.rank
        scored = _score_batch(model, batches[min(place, len(batches) - 1)])
        if place < len(batches):
            part = values[:, bounds[place] : bounds[place + 1]]
            part[0] = np.concatenate([each.logprobs for each in scored])
            part[1] = np.concatenate([each.greedy for each in scored])
    logprobs, greedy = ranks.added(values)
    for place, each in enumerate(lengths):
        span, inner = slice(bounds[place], bounds[place + 1]), np.cumsum(each)[:-1]
        parts = np.split(logprobs[span], inner), np.split(greedy[span] > 0, inner)
        yield [Scored(*both) for both in zip(*parts, strict=True)]


def _score_batch(model: Olmo, batch: Sequence[_Pack]) -> list[Scored]:
    """The scores of every row of every pack, in order."""
    device = next(model.parameters()).device
    shape = (len(batch), _width(batch[0]))
    ids_BT, places_BT = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    branch_BT = np.zeros(shape, np.int64)  # 0 is the shared context
    rows, places, targets = [], [], []
    for number, pack in enumerate(batch):
        start = end = pack[0][1][0]
        ids_BT[number, :start] = pack[0][0][:start]
        places_BT[number, :start] = range(start)
        for branch, (ids, scored) in enumerate(pack, start=1):
            shift, first = end - start, end
            end += len(ids) - 1 - start
            ids_BT[number, first:end] = ids[start:-1]
            places_BT[number, first:end] = range(start, len(ids) - 1)
            branch_BT[number, first:end] = branch
            rows += [number] * len(scored)
            # the first scored token is predicted by the end of the context
            places += [place - 1 if place == start else place - 1 + shift for place in scored]
            targets += [ids[place] for place in scored]
    inputs = [torch.from_numpy(ids_BT).to(device)]
    if any(len(pack) > 1 for pack in batch):  # else causal: padding on the right is unseen
        branches_BT = torch.from_numpy(branch_BT).to(device)
        same_BTT = branches_BT[:, :, None] == branches_BT[:, None, :]
        before_TT = torch.ones(shape[1], shape[1], dtype=torch.bool, device=device).tril()
        inputs.append(torch.from_numpy(places_BT).to(device))
        inputs.append(before_TT & (same_BTT | (branches_BT == 0)[:, None, :]))
    hidden_BTD = model(*inputs)
    hidden_ND = hidden_BTD[torch.tensor(rows, device=device), torch.tensor(places, device=device)]
    targets_N = torch.tensor(targets, device=device)
    logprobs, greedy = [], []
    at_once = max(1, LOGIT_FLOATS // model.config.vocab_size)
    for first in range(0, len(targets), at_once):
        logits_NV = model.logits(hidden_ND[first : first + at_once]).float()
        wanted_N = targets_N[first : first + at_once]
        chosen_N = torch.log_softmax(logits_NV, -1).gather(1, wanted_N[:, None])[:, 0]
        logprobs.append(chosen_N.double().cpu().numpy())
        greedy.append((logits_NV.argmax(-1) == wanted_N).cpu().numpy())
    bounds = np.cumsum([len(scored) for pack in batch for _, scored in pack])[:-1]
    return [
        Scored(*parts)
        for parts in zip(
            np.split(np.concatenate(logprobs), bounds),
            np.split(np.concatenate(greedy), bounds),
            strict=True,
        )
    ]
