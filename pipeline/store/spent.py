"""The energy that a series took, by its segments: each is counted in the record of one result.

A segment notes what all its machines took at each checkpoint and at its end. So of one that was
killed only the updates since its last checkpoint are not measured, and a record says how many.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.core.energy import Spent, energy_record
from pipeline.store.history import add_segment, read_segments


def claim_energy(series: Path, id: str) -> dict[str, Any]:
    """What the record of a training result says of energy: the sum of its segments.

    A view that trained nothing took nothing. Its segments are all that have ended and that no
    other result has counted: its own, those of attempts that failed or were killed, and those of
    views that were never finished.
    """
    mine = [
        each
        for each in read_segments(series)
        if "cause" in each and each.get("num_updates") and each.get("counted_in", id) == id
    ]
    for each in mine:
        if "counted_in" not in each:
            add_segment(series, {"segment": each["segment"], "counted_in": id})
    return _summed(mine)


def _summed(segments: Iterable[dict[str, Any]]) -> dict[str, Any]:
    joules, missing, by, num_unknown = 0.0, 0, dict[str, None](), 0
    for each in segments:
        joules += each.get("energy_joules", 0.0)
        missing = max(missing, each.get("devices_not_measured", 0))
        if said := each.get("energy_by"):
            by[said] = None
        reached = each.get("energy_to_step", each["first_step"])
        num_unknown += max(0, each.get("last_step", reached) - reached)
    return energy_record(Spent(joules, "; ".join(by), missing)) | {
        "updates_not_measured": num_unknown
    }
