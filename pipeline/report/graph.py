"""The graph of a run as a picture: steps of one role are one box, and arrows say what waits.

An arrow that follows from longer ones is left out, but for those out of a source.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.artifacts import MANIFEST
from pipeline.core.errors import CorruptShard
from pipeline.store.results import KEY

STEPS = "steps.json"  # of a run: the id of each step's result
MEASURES = ("Attributes", "Scores")  # steps that make one of these have one role
CARRIERS = ("Concat",)  # steps that copy nothing: what they read is read through them
TYPES = {"WriteReport": "report"}  # where a step's type is not its class in lower case

MAX_NAMES = 3  # in the label of a box

Edges = set[tuple[int, int]]


class Node(NamedTuple):
    """A step: its class, the kind of its artifact, and the names of the steps it reads."""

    kind: str
    makes: str
    reads: frozenset[str]


def run_ids(run: Path) -> dict[str, str]:
    """The id of each step's result in a run folder.

    Raises:
        ValueError: the folder is of no run, or a step has no result.
    """
    path = Path(run) / STEPS
    if not path.is_file():
        raise ValueError(f"{run} is no run: it holds no {STEPS}; name one, as workspace/runs/tiny")
    ids: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    lacking = [name for name in ids if not (Path(run) / name / MANIFEST).is_file()]
    if lacking:
        raise ValueError(
            f"{run}: {len(lacking)} of {len(ids)} steps have no result, the first is "
            f"{lacking[0]!r}; the run must be finished"
        )
    return ids


def read_key(folder: Path) -> dict[str, Any]:
    """The key that a result was made by."""
    path = Path(folder) / KEY
    try:
        key = json.loads(path.read_text(encoding="utf-8"))
        return {"step": str(key["step"]), "args": dict(key["args"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptShard(path, None, f"is no key ({error!r})") from error


def run_graph(run: Path) -> dict[str, Node]:
    """The steps of a finished run, as their keys and manifests tell."""
    ids = run_ids(run)
    names: dict[str, str] = {}
    for name, id in ids.items():
        names.setdefault(id, name)
    graph = {}
    for name in names.values():
        key = read_key(Path(run) / name)
        manifest = json.loads((Path(run) / name / MANIFEST).read_text(encoding="utf-8"))
        reads = frozenset(names[id] for id in _ids(key["args"]) if id in names)
        graph[name] = Node(key["step"], str(manifest["artifact"]), reads)
    return graph


def _ids(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("step"), str):
            yield value["step"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _ids(each)


def without_carriers(graph: Mapping[str, Node]) -> dict[str, Node]:
    """The graph in which what a carrier reads is read by those that read the carrier."""

    def through(name: str) -> frozenset[str]:
        if name not in graph or graph[name].kind not in CARRIERS:
            return frozenset({name})
        return frozenset().union(*(through(each) for each in graph[name].reads))

    return {
        name: node._replace(reads=frozenset().union(*(through(each) for each in node.reads)))
        for name, node in graph.items()
        if node.kind not in CARRIERS
    }


def folded(graph: Mapping[str, Node]) -> list[list[str]]:
    """Boxes of steps: those of one role share one, where none of its steps waits for another.

    Steps have one role if they are of one class, or both measure, and rest on sources of the same
    classes: text that is only measured does not share a box with text that is trained on.
    """
    boxes: list[list[str]] = []
    roles: dict[str, tuple[str, frozenset[str]]] = {}

    def sources(name: str) -> frozenset[str]:
        node = graph[name]
        below = frozenset().union(*(role(each)[1] for each in node.reads))
        return below or frozenset({node.kind})

    def role(name: str) -> tuple[str, frozenset[str]]:
        if name not in roles:
            node = graph[name]
            roles[name] = (node.makes if node.makes in MEASURES else node.kind, sources(name))
        return roles[name]

    for name in graph:
        for box in boxes:
            if role(box[0]) != role(name):
                continue
            box.append(name)
            placed = {each for some in boxes for each in some}
            if is_acyclic(edges_between(graph, [*boxes, *([n] for n in graph if n not in placed)])):
                break
            box.pop()
        else:
            boxes.append([name])
    return boxes


def edges_between(graph: Mapping[str, Node], boxes: list[list[str]]) -> Edges:
    """Which box reads which; a box that reads itself has an edge to itself."""
    place = {name: number for number, box in enumerate(boxes) for name in box}
    return {(place[read], place[name]) for name in place for read in graph[name].reads}


def is_acyclic(edges: Edges) -> bool:
    """Whether no box waits for itself."""
    left = set(edges)
    while left:
        waiting = {b for _, b in left}
        free = {edge for edge in left if edge[0] not in waiting}
        if not free:
            return False
        left -= free
    return True


def reduced(edges: Edges) -> Edges:
    """The fewest edges of an acyclic graph from which the others follow."""
    after: dict[int, set[int]] = {}
    for a, b in edges:
        after.setdefault(a, set()).add(b)
    reached: dict[int, set[int]] = {}

    def reach(a: int) -> set[int]:
        if a not in reached:
            reached[a] = {c for b in after.get(a, ()) for c in {b} | reach(b)}
        return reached[a]

    return {(a, b) for a, b in edges if not any(b in reach(c) for c in after[a] if c != b)}


def chains(number: int, edges: Edges) -> list[list[int]]:
    """Boxes in runs: one follows another at once where neither has another way on or in."""
    onward = {a: [b for x, b in edges if x == a] for a in range(number)}
    inward = {b: [a for a, x in edges if x == b] for b in range(number)}
    joins = {a: on[0] for a, on in onward.items() if len(on) == 1 and len(inward[on[0]]) == 1}
    firsts = [n for n in range(number) if n not in joins.values()]
    made = []
    for first in firsts:
        chain = [first]
        while chain[-1] in joins:
            chain.append(joins[chain[-1]])
        made.append(chain)
    return made


def mermaid(graph: Mapping[str, Node]) -> str:
    """The picture as Mermaid, which GitHub draws."""
    graph = without_carriers(graph)
    boxes = folded(graph)
    every = edges_between(graph, boxes)
    sources = {n for n, box in enumerate(boxes) if not graph[box[0]].reads}
    shown = reduced(every) | {
        (a, b) for a, b in every if a in sources and _is_data(graph, boxes[b])
    }
    runs = chains(len(boxes), shown)
    place = {box: number for number, run in enumerate(runs) for box in run}
    several = Counter(kind for box in boxes for kind in {graph[name].kind for name in box})
    lines = ['%%{init: {"flowchart": {"rankSpacing": 28, "nodeSpacing": 36}}}%%', "flowchart TB"]
    for number, run in enumerate(runs):
        label = "<br>↓ ".join(_label(graph, boxes[box], several) for box in run)
        form = '(["{}"])' if sources & set(run) else '["{}"]'
        lines.append(f"  s{number}{form.format(label)}")
    for a, b in sorted({(place[a], place[b]) for a, b in shown if place[a] != place[b]}):
        lines.append(f"  s{a} --> s{b}")
    return "\n".join(lines)


def _is_data(graph: Mapping[str, Node], box: list[str]) -> bool:
    """Whether this is still on the way: the report reads everything."""
    return graph[box[0]].makes != "Report"


def _label(graph: Mapping[str, Node], box: list[str], several: Mapping[str, int]) -> str:
    counts = Counter(graph[name].kind for name in box)
    shown = " · ".join(
        step_type(kind) + (f" ×{count}" if count > 1 else "") for kind, count in counts.items()
    )
    if (
        len(counts) == 1 and several[next(iter(counts))] > 1
    ):  # which of them, by the ends of their names
        shown += f" ({', '.join(_endings(box))})"
    return shown


def _endings(names: list[str]) -> list[str]:
    if len(names) == 1:
        return [_plain(names[0])]
    ends = ("…_" + name.rpartition("_")[2] if "_" in name else name for name in names)
    found = list(dict.fromkeys(_plain(end) for end in ends))
    return found if len(found) <= MAX_NAMES else [*found[:MAX_NAMES], "…"]


def _plain(text: str) -> str:
    """What cannot break out of a label."""
    return re.sub(r"[^\w .:…-]", "·", text)


def step_type(kind: str) -> str:
    """The name by which an experiment asks for a step of this class."""
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", _plain(kind)).lower()
    return TYPES.get(kind, plain)
