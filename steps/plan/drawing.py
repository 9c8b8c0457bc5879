"""A plan as lines for people, JSON for machines, and as a picture's source."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pipeline.core.terminal import duration, size
from pipeline.store.earlier import Cost
from steps.plan.planning import Reason, StepPlan

MAX_REASONS = 3
COLOURS = {  # of the boxes in a picture
    "cached": "#d5e8d4",
    "linked": "#d5e8d4",
    "in remote": "#d5e8d4",
    "code changed": "#fff2cc",
    "maybe linked": "#dae8fc",
    "will run": "#f8cecc",
    "waits": "#f5f5f5",
    "uncacheable": "#e1d5e7",
}


def as_text(planned: list[StepPlan]) -> Iterator[str]:
    """The lines of a plan: each step, and below it why, what it needs and what it took before."""
    width = max((len(each.name) for each in planned), default=0)
    for each in planned:
        lines = [] if each.state == "cached" else _reasons(each.reasons)
        lines += [str(each.updates)] if each.goes_on else []
        lines += [_asked(each.needs)] if each.runs and each.needs else []
        lines += [_cost(each)] if each.state != "code changed" and each.cost != Cost() else []
        yield f"{each.state:12}  {each.name:{width}}  {lines[0] if lines else ''}".rstrip()
        yield from (f"{'':12}  {'':{width}}  {line}" for line in lines[1:])


def as_json(planned: list[StepPlan], **more: Any) -> str:
    """The plan as one JSON document."""
    steps = [
        {
            "name": each.name,
            "id": each.id,
            "state": each.state,
            "runs": each.runs,
            "reads": each.reads,
            "reasons": [vars(reason) for reason in each.reasons],
            "nearest": each.nearest,
            "seconds": each.cost.seconds,
            "num_bytes": each.cost.num_bytes,
            "needs": each.needs,
        }
        for each in planned
    ]
    return json.dumps({"steps": steps, **more}, indent=1)


def as_dot(planned: list[StepPlan]) -> Iterator[str]:
    """The graph for Graphviz; a box is coloured by its state."""
    yield "digraph plan {"
    yield '  rankdir=LR; node [shape=box, style=filled, fontname="sans-serif"];'
    for each in planned:
        label = f"{each.name}\\n{each.state}".replace('"', '\\"')
        yield f'  {_quoted(each.name)} [label="{label}", fillcolor="{COLOURS[each.state]}"];'
    for each in planned:
        for name in each.reads:
            yield f"  {_quoted(name)} -> {_quoted(each.name)};"
    yield "}"


def as_mermaid(planned: list[StepPlan]) -> Iterator[str]:
    """The graph for Mermaid, which GitHub draws in Markdown; a box is coloured by its state."""
    places = {each.name: f"s{number}" for number, each in enumerate(planned)}
    yield "graph LR"
    for each in planned:
        label = each.name.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
        yield f'  {places[each.name]}["{label}<br/>{each.state}"]'
        yield f"  style {places[each.name]} fill:{COLOURS[each.state]},color:#000"
    for each in planned:
        yield from (f"  {places[n]} --> {places[each.name]}" for n in each.reads if n in places)


def _quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _reasons(reasons: list[Reason]) -> list[str]:
    """What the reasons say, those of one kind in one line where it is only names."""
    lines = [str(each) for each in reasons if each.kind not in ("input", "code")]
    inputs = [each for each in reasons if each.kind == "input"]
    again = list(dict.fromkeys(each.new for each in inputs if each.old is None))
    other = list(dict.fromkeys(each.new for each in inputs if each.old is not None))
    if again:
        lines.append(f"reads {_listed(again)}, made again")
    if other:
        lines.append(f"reads {_listed(other)}, not the same as before")
    code = [each.path for each in reasons if each.kind == "code"]
    if code:
        lines.append(f"code of {_listed(code)} is not the same as before")
    left = len(lines) - MAX_REASONS
    return lines if left < 2 else [*lines[:MAX_REASONS], f"and {left} more"]


def _listed(names: list[Any]) -> str:
    left = len(names) - MAX_REASONS
    return ", ".join(names[:MAX_REASONS]) + (f" and {left} more" if left > 0 else "")


def _cost(plan: StepPlan) -> str:
    took = [] if plan.cost.seconds is None else [duration(plan.cost.seconds)]
    took += [] if plan.cost.num_bytes is None else [size(plan.cost.num_bytes)]
    return ", ".join(took) if plan.state == "cached" else f"took {', '.join(took)} before"


def _asked(needs: dict[str, Any]) -> str:
    words = {"gpus": "GPU", "cpus": "CPU"}
    told = []
    for name, each in needs.items():
        if name == "credentials":
            told += each
        elif name == "srun":
            told.append(f"{each:,} tasks of srun")
        elif name in words:
            told.append(f"{each:g} {words[name]}" + "s" * (each != 1))
        else:
            told.append(f"{each} of {name}")
    return f"needs {', '.join(told)}" if told else ""
