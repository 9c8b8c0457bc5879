"""The wiring to Tango: importing this registers every step, our workspace and our executor."""

from __future__ import annotations

import sys
from typing import Any

# Tango imports torch for its hash module, which ours replaces: without it a plan starts in a
# seventh of the time. An absent module is spelled None.
_torch_is_not_needed = "torch" not in sys.modules and "tango" not in sys.modules
if _torch_is_not_needed:
    sys.modules["torch"] = None  # type: ignore[assignment]
try:
    from rich.markup import escape
    from tango.step_graph import StepGraph

    from steps import data, evaluate, names, publish, tokens, train, workspace
    from steps.execution import executor, ray_executor
    from steps.graph.commands import check_asked, check_command
    from steps.graph.locking import pins_of_command
    from steps.graph.wiring import WiringError, build_steps, require_ids
finally:
    if _torch_is_not_needed:
        del sys.modules["torch"]

__all__ = [
    "data",
    "evaluate",
    "executor",
    "names",
    "publish",
    "ray_executor",
    "tokens",
    "train",
    "workspace",
]


def _from_params(cls: type[StepGraph], params: Any) -> StepGraph:
    try:
        built = build_steps(params, pins_of_command())
        require_ids(built)
        check_asked(built)
        return cls(built)
    except WiringError as fault:
        raise WiringError(escape(str(fault))) from fault  # Tango reads the message as markup


check_command()

# `tango run` builds its graph through this one method; ours checks every value against its type and
# says where in the experiment a fault is. Nothing else of Tango is replaced.
StepGraph.from_params = classmethod(_from_params)  # type: ignore[assignment,method-assign]
