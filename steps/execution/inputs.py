"""Before a step runs, the files of what it reads are there and whole: else they are made again."""

from __future__ import annotations

import logging
from typing import Any

from tango.step import Step

from pipeline.core.artifacts import Artifact
from pipeline.core.errors import CorruptShard
from pipeline.store.discarding import refill
from pipeline.store.results import Results, Unreadable
from pipeline.store.verifying import find_damage

logger = logging.getLogger(__name__)


def make_inputs_readable(step: Step[Any], workspace: Any) -> bool:
    """Make again what a step reads and cannot: discarded data, and what is found damaged.

    Returns:
        Whether anything was; then the results must be read anew.

    Raises:
        CorruptShard: something that it reads is gone, and no step of this graph makes it.
    """
    results: Results = workspace.results
    makers = {
        each.unique_id: each
        for each in (*step.recursive_dependencies,)
        if hasattr(each, "make_again")
    }
    changed = False
    for each in sorted(step.dependencies, key=lambda each: each.name):
        if each.unique_id not in makers:
            continue  # somebody else's step: its result is not a file of ours
        for fault in results.unreadable(each.unique_id):
            changed = True
            if fault.discarded:
                _refill(fault, makers, workspace)
            else:
                _replace(fault, results)
                if fault.id in makers:
                    makers[fault.id].result(workspace)
        each.result(workspace, needed_by=step)
    return changed


def mark_damaged_inputs(step: Step[Any], error: BaseException, results: Results) -> None:
    """After a step found a damaged file, digest all that it reads: the next run makes it again."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, CorruptShard):
        cause = cause.__cause__
    if cause is None:
        return
    for each in step.dependencies:
        if hasattr(each, "make_again"):
            for damage in find_damage(results, each.unique_id):
                if isinstance(damage.fault, CorruptShard):
                    logger.warning("%s; it will be made again by the next run", damage)


def _replace(fault: Unreadable, results: Results) -> None:
    with results.lease(fault.id):
        if any(each.id == fault.id for each in results.unreadable(fault.id)):
            if results.folder(fault.id).exists():
                results.set_aside(fault.id, fault.reason)


def _refill(fault: Unreadable, makers: dict[str, Any], workspace: Any) -> None:
    results: Results = workspace.results
    if fault.id in makers:
        makers[fault.id].make_again(workspace)
        return
    wanted = Artifact.load(results.folder(fault.id)).content
    for id, maker in makers.items():  # this graph makes the same under another id
        if id in results and results.load(id).content == wanted:
            maker.make_again(workspace)
            with results.lease(fault.id):
                if refill(results, fault.id):
                    return
    raise CorruptShard(
        results.folder(fault.id), None, "its data was discarded, and no step of this graph makes it"
    )
