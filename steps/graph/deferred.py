"""Components that read results of steps, as the evaluations of a training do."""

from __future__ import annotations

import dataclasses
from typing import Any

from tango.step import Step, WithUnresolvedSteps


class WithSteps(WithUnresolvedSteps):
    """A component with steps where it takes their results; a step that runs makes it of those.

    Attributes:
        made: it with the steps, to be looked at before anything runs.
    """

    def __init__(self, made: Any) -> None:
        fields = [each.name for each in dataclasses.fields(made) if each.init]
        super().__init__(type(made), **{name: getattr(made, name) for name in fields})
        self.made = made

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={_shown(each)}" for name, each in self.kwargs.items())
        return f"{type(self.made).__name__}({shown})"


def holds_steps(value: Any) -> bool:
    """Whether there is a step in a value, in lists and objects too."""
    if isinstance(value, dict):
        return any(map(holds_steps, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(holds_steps, value))
    return isinstance(value, (Step, WithSteps))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{n!r}: {_shown(each)}" for n, each in value.items()) + "}"
    return f"<{value.name}>" if isinstance(value, Step) else repr(value)
