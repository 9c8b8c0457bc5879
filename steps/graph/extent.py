"""What of a training step's content key names its series, and which other that one begins as."""

from __future__ import annotations

from pipeline.core.keys import Json

EXTENT = ("stop_at", "save_steps")  # how far training goes, and what it saves


def without_extent(form: dict[str, Json]) -> dict[str, Json]:
    """The content key of a training step without how far it goes and what it saves."""
    args = {name: dict(v) if isinstance(v, dict) else v for name, v in form["args"].items()}
    for name in EXTENT:
        args.get("train", {}).pop(name, None)
    return {**form, "args": args}


def first_step_of_rule(form: dict[str, Json]) -> int:
    """The update after which the rule that leaves updates out begins; 0 where it holds for all."""
    rule = form["args"].get("train", {}).get("skip")
    return int(rule["from_step"]) if rule else 0


def without_rule(form: dict[str, Json]) -> dict[str, Json]:
    """The content key of the same training without a rule that leaves updates out."""
    args = form["args"]
    return {**form, "args": {**args, "train": {**args["train"], "skip": None}}}
