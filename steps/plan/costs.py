"""What the training steps of a graph will cost, foretold from the experiment alone, as a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tango.step import Step

from pipeline.core.energy import INTENSITY, PUE
from pipeline.core.terminal import counted, duration, size
from pipeline.train.plan.cards import CARDS, GBPS, Card, find_card
from pipeline.train.plan.foretelling import Effort, Job
from steps.execution.needs import Needs, num_bytes
from steps.train import TrainingStep

MFU = 0.5
CARD = "H100"
LEFT = "  left"
NOTHING_KNOWN: Mapping[str, int] = {}
TIGHT = 0.9  # of a card's memory: above it a warning is given though it fits


@dataclass(frozen=True)
class Assumptions:
    """What an experiment does not say.

    Args:
        gpu: the card; by default a step's `gpu_type`, or an H100 where it asks for GPUs.
        network_gbps: gigabits a second that go out of a node, each way; by default as
            `pipeline/train/plan/cards.py` says.
    """

    gpu: str | None = None
    mfu: float = MFU
    pue: float = PUE
    intensity: float = INTENSITY
    network_gbps: float | None = None

    def __post_init__(self) -> None:
        if self.gpu is not None and find_card(self.gpu) is None:
            known = ", ".join(each.name for each in CARDS)
            raise ValueError(f"gpu is {self.gpu!r}; it must be one of {known}")
        if not 0 < self.mfu <= 1:
            raise ValueError(f"mfu is {self.mfu}; it must be above 0 and at most 1")
        if not 1 <= self.pue < math.inf:
            raise ValueError(f"pue is {self.pue}; it must be at least 1")
        if not 0 <= self.intensity < math.inf:
            raise ValueError(f"intensity is {self.intensity}; it must be finite and not negative")
        if self.network_gbps is not None and not 0 < self.network_gbps < math.inf:
            raise ValueError(f"network_gbps is {self.network_gbps}; it must be positive and finite")

    def effort(self, job: Job, card: Card) -> Effort:
        network = None if self.network_gbps is None else self.network_gbps * GBPS
        return Effort(job, card, self.mfu, self.pue, self.intensity, network)


@dataclass(frozen=True)
class Foretold:
    """The costs of one step.

    Args:
        effort: null without GPUs, whose speed is not known beforehand.
        full_rows: whether tokens are counted, or a bound.
        left: updates that are to be made; null where that is not known.
    """

    name: str
    job: Job
    effort: Effort | None
    full_rows: bool
    warnings: list[str]
    left: int | None = None

    def share_left(self) -> float | None:
        """Of the updates, those that are to be made; None for all."""
        whole = self.job.config.last_step
        return None if self.left is None or self.left >= whole else self.left / whole


def foretell(
    steps: Iterable[Step[Any]], assumed: Assumptions, left: Mapping[str, int] = NOTHING_KNOWN
) -> list[Foretold]:
    """The costs of every training step whose model's shape the graph tells, in their order.

    Args:
        left: name of a step -> the updates that are to be made, where that is known.
    """
    found = []
    for step in steps:
        if isinstance(step, TrainingStep) and (job := step.job()) is not None:
            card = _card(step, assumed)
            effort = assumed.effort(job, card) if card else None
            told = [
                *_warnings(step, job, card, assumed),
                *(_slow_network(effort) if effort else ()),
            ]
            warnings = [f"{step.name} {each}" for each in told]
            rest = left.get(step.name)
            found.append(Foretold(step.name, job, effort, step.FULL_ROWS, warnings, rest))
    return found


def _card(step: Step[Any], assumed: Assumptions) -> Card | None:
    resources = step.resources
    wanted = assumed.gpu or resources.gpu_type or (CARD if resources.gpu_count else None)
    return find_card(wanted) if wanted else None


def _warnings(step: Step[Any], job: Job, card: Card | None, assumed: Assumptions) -> Iterator[str]:
    resources, total = step.resources, job.memory().total
    if card is None and resources.gpu_type and not assumed.gpu:
        yield f"asks for gpu_type {resources.gpu_type!r}, whose numbers are not known; say --gpu"
    if card is not None and total > TIGHT * card.memory:
        fits = total <= card.memory
        words = job.suited(TIGHT * card.memory if fits else card.memory)
        yield (
            f"{'only just fits' if fits else 'does not fit'}: a rank takes {size(total)}, one "
            f"{card.name} has {size(card.memory)}; "
            + (f"with {words} it takes less" if words else "split it over more ranks")
        )
    asked = num_bytes(resources.memory) if resources.memory else 0
    if card is None and asked and total > asked:
        yield f"needs {size(total)} of memory, and step_resources.memory is {resources.memory}"
    needs: Needs = getattr(step, "needs", None) or Needs()
    disk = num_bytes(needs.disk)
    if disk and job.series_bytes > disk:
        yield f"writes {size(job.series_bytes)} of checkpoints, and needs.disk is {needs.disk}"
    each, gpus = job.launch.ranks, resources.gpu_count
    if gpus and each != gpus:
        yield f"launches {counted(each, 'rank')} a machine, and step_resources.gpu_count is {gpus}"


def _slow_network(effort: Effort) -> Iterator[str]:
    """Where an update cannot be as fast as the MFU has it, as its traffic alone takes longer."""
    took, network = effort.communication_seconds, effort.out_of_node
    if took is None:
        yield (
            f"spans nodes of {effort.card.name}, whose network is not known: say --network-gbps, "
            "or what is sent is not held against it"
        )
    elif took > effort.update_seconds:
        within = f"{size(effort.card.link)} a second over a card's link"
        out = f" and {network / GBPS:,.0f} Gb/s out of a node" if _spans(effort) and network else ""
        most = effort.mfu * effort.update_seconds / took
        yield (
            f"sends for {took:.3g} s in an update that is to take {effort.update_seconds:.3g} s: "
            f"at {within}{out}, with nothing else on them, the MFU is at most {most:.2g}, "
            f"and not {effort.mfu:g}"
        )


def _spans(effort: Effort) -> bool:
    return effort.job.ranks > effort.job.launch.ranks


Row = tuple[str, Callable[[Foretold], str]]


def as_table(foretold: Sequence[Foretold], *, full: bool = True) -> Iterator[str]:
    """The lines of the table, a column a step; below it what it assumes, and warnings.

    Args:
        full: the parts of memory and of traffic too; they are told in any case where GPUs are.
    """
    gpus = any(each.effort for each in foretold)
    rows = [
        *_work(),
        *_memory(full or gpus),
        *_traffic(),
        *_checkpoints(),
        *(_effort() if gpus else ()),
    ]
    cells = [[label, *(tell(each) for each in foretold)] for label, tell in rows]
    cells = [each for each in cells if any(each[1:])]
    table = [["training, foretold", *(each.name for each in foretold)], *cells]
    widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
    for label, *values in table:
        told = (f"{each:>{width}}" for each, width in zip(values, widths[1:], strict=True))
        yield f"{label:{widths[0]}}  {'  '.join(told)}".rstrip()
    yield from _notes(foretold)
    yield from (f"warning: {line}" for each in foretold for line in each.warnings)


def _work() -> Iterator[Row]:
    yield "parameters", lambda each: f"{each.job.shape.num_parameters():,}"
    yield "updates", lambda each: f"{each.job.config.last_step:,}"
    yield LEFT, lambda each: "" if each.share_left() is None else f"{each.left:,}"
    yield "tokens of an update", lambda each: _most(each) + f"{each.job.tokens_per_update:,}"
    yield "tokens", lambda each: _most(each) + _rounded(each.job.num_tokens)
    yield "operations", lambda each: _most(each) + f"{each.job.num_flops:.3g}".replace("e+", "e")
    yield "ranks", _ranks


def _memory(parts: bool) -> Iterator[Row]:
    yield "peak memory of a rank", lambda each: size(each.job.memory().total)
    if parts:
        yield "  parameters", lambda each: size(each.job.memory().parameters)
        yield "  gradients", lambda each: size(each.job.memory().gradients)
        yield "  optimizer", lambda each: size(each.job.memory().optimizer)
        yield "  activations", lambda each: size(each.job.memory().activations)
        yield "  logits and loss", lambda each: size(each.job.memory().logits)
        yield "  weights at work", lambda each: size(each.job.memory().weights)


def _traffic() -> Iterator[Row]:
    yield "all-gather of an update", lambda each: _some(each.job.traffic().all_gather)
    yield "reduce-scatter of an update", lambda each: _some(each.job.traffic().reduce_scatter)
    yield "all-reduce of an update", lambda each: _some(each.job.traffic().all_reduce)


def _checkpoints() -> Iterator[Row]:
    yield (
        "a checkpoint",
        lambda each: f"{size(each.job.weights_bytes)} + {size(each.job.optimizer_bytes)}",
    )
    yield "checkpoints", lambda each: f"{each.job.num_checkpoints:,}"
    yield "  in all", lambda each: size(each.job.series_bytes)


def _effort() -> Iterator[Row]:
    def of(tell: Callable[[Effort], str]) -> Callable[[Foretold], str]:
        return lambda each: tell(each.effort) if each.effort else ""

    yield "GPU", of(lambda each: each.card.name)
    yield "tokens a second", of(lambda each: f"{each.tokens_per_second:,.0f}")
    yield "a rank sends, a second", of(_sent)
    yield "a card's link carries", of(lambda each: size(each.card.link) if _sent(each) else "")
    yield "a node's network carries", of(_carried)
    yield "an update", of(lambda each: f"{each.update_seconds:.3g} s")
    yield "  sending alone takes", of(_sending)
    for label, amount, tell in (
        ("GPU-hours", lambda each: each.gpu_hours, "{:,.0f}".format),
        ("time", lambda each: 86400 * each.days, duration),
        ("energy, kWh", lambda each: each.kwh, "{:,.0f}".format),
        ("CO2-equivalent, kg", lambda each: each.co2_kilograms, "{:,.0f}".format),
    ):
        yield from _whole_and_left(label, amount, tell)


def _whole_and_left(
    label: str, amount: Callable[[Effort], float], tell: Callable[[float], str]
) -> Iterator[Row]:
    """A cost of the whole training and, in proportion, of the updates that are to be made."""

    def whole(each: Foretold) -> str:
        return tell(amount(each.effort)) if each.effort else ""

    def left(each: Foretold) -> str:
        share = each.share_left()
        return "" if each.effort is None or share is None else tell(share * amount(each.effort))

    yield label, whole
    yield LEFT, left


def _notes(foretold: Sequence[Foretold]) -> Iterator[str]:
    effort = next((each.effort for each in foretold if each.effort), None)
    if effort is not None:
        yield (
            f"at an MFU of {effort.mfu:g} and the cards' thermal design power; CO2 with a PUE of "
            f"{effort.pue:g} and {effort.intensity:g} kg a kWh"
        )
    if not all(each.full_rows for each in foretold):
        yield "≤: as if every row were as long as the longest may be"
    yield "a checkpoint is its weights + the optimizer's state"
    if any(each.share_left() is not None for each in foretold):
        yield "left: what is still to be made; all else is of the whole training"


def _sent(effort: Effort) -> str:
    """What the network must carry at that speed."""
    traffic = effort.job.traffic()
    num_bytes = traffic.all_gather + traffic.reduce_scatter + traffic.all_reduce
    return _some(num_bytes * effort.tokens_per_second / effort.job.tokens_per_update)


def _carried(effort: Effort) -> str:
    return size(effort.out_of_node) if _spans(effort) and effort.out_of_node else ""


def _sending(effort: Effort) -> str:
    seconds = effort.communication_seconds
    return "not known" if seconds is None else f"{seconds:.3g} s" if seconds else ""


def _ranks(each: Foretold) -> str:
    job = each.job
    copies = job.ranks // job.shards
    return f"{job.ranks:,}" + (f" in {counted(copies, 'copy', 'copies')}" if copies > 1 else "")


def _most(each: Foretold) -> str:
    return "" if each.full_rows else "≤ "


def _some(num_bytes: float) -> str:
    return size(num_bytes) if num_bytes else ""


def _rounded(number: float) -> str:
    """A large number for people: 2.00 trillion."""
    for unit, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:,.0f}"


def as_form(each: Foretold) -> dict[str, Any]:
    """The costs of a step as values of JSON, in bytes, hours, kWh and kilograms."""
    job, memory, effort = each.job, each.job.memory(), each.effort
    return {
        "parameters": job.shape.num_parameters(),
        "updates": job.config.last_step,
        "updates_left": each.left,
        "tokens_per_update": job.tokens_per_update,
        "tokens": job.num_tokens,
        "tokens_are_a_bound": not each.full_rows,
        "flops": job.num_flops,
        "ranks": job.ranks,
        "ranks_of_a_copy": job.shards,
        "memory_bytes": {**vars(memory), "total": memory.total},
        "traffic_bytes_per_update": vars(job.traffic()),
        "checkpoints": {
            "number": job.num_checkpoints,
            "weights_bytes": job.weights_bytes,
            "optimizer_bytes": job.optimizer_bytes,
            "series_bytes": job.series_bytes,
        },
        "effort": effort
        and {
            "gpu": effort.card.name,
            "mfu": effort.mfu,
            "tokens_per_second": effort.tokens_per_second,
            "seconds_per_update": effort.update_seconds,
            "communication_seconds_per_update": effort.communication_seconds,
            "link_bytes_per_second": effort.card.link,
            "node_bytes_per_second": effort.out_of_node,
            "gpu_hours": effort.gpu_hours,
            "days": effort.days,
            "kwh": effort.kwh,
            "pue": effort.pue,
            "kg_co2_per_kwh": effort.intensity,
            "co2_kilograms": effort.co2_kilograms,
        },
        "warnings": each.warnings,
    }
