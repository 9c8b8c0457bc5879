"""What torchrun's agents tell each other when they meet, as JSON.

torch has them exchange pickles through a port that is open to whoever reaches the machine, and a
pickle runs what its writer wants. Of its `dynamic_rendezvous.py` this takes the place of `pickle`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from torch.distributed.elastic.rendezvous import dynamic_rendezvous as torchs

from pipeline.core.untrusted import built, parsed


@dataclass(frozen=True)
class _Node:
    addr: str
    pid: int
    local_id: int


@dataclass(frozen=True)
class _State:
    """Fields of torch's `_RendezvousState`; what it keys by a node is a list of pairs here."""

    round: int
    complete: bool
    closed: bool
    deadline: str | None
    participants: list[_Node]
    ranks: list[int]
    wait_list: list[_Node]
    redundancy_list: list[_Node]
    heard_of: list[_Node]
    last_heartbeats: list[str]


class StateAsJson:
    """Has the functions of `pickle` that torch calls, for a state of its rendezvous alone."""

    PickleError = ValueError  # torch tells of it as of a corrupt state

    @staticmethod
    def dumps(state: Any) -> bytes:
        def nodes(them: Any) -> list[_Node]:
            return [_Node(each.addr, each.pid, each.local_id) for each in them]

        form = _State(
            state.round,
            state.complete,
            state.closed,
            state.deadline.isoformat() if state.deadline else None,
            nodes(state.participants),
            list(state.participants.values()),
            nodes(state.wait_list),
            nodes(state.redundancy_list),
            nodes(state.last_heartbeats),
            [each.isoformat() for each in state.last_heartbeats.values()],
        )
        return json.dumps(dataclasses.asdict(form)).encode()

    @staticmethod
    def loads(text: bytes) -> Any:
        """The state; raises ValueError where the text gives none."""
        form: _State = built(_State, parsed(text), "state")

        def nodes(them: list[_Node]) -> list[Any]:
            return [torchs._NodeDesc(each.addr, each.pid, each.local_id) for each in them]

        state = torchs._RendezvousState()
        state.round, state.complete, state.closed = form.round, form.complete, form.closed
        state.deadline = datetime.fromisoformat(form.deadline) if form.deadline else None
        state.participants = dict(zip(nodes(form.participants), form.ranks, strict=True))
        state.wait_list = set(nodes(form.wait_list))
        state.redundancy_list = set(nodes(form.redundancy_list))
        heard = [datetime.fromisoformat(each) for each in form.last_heartbeats]
        if any(each.tzinfo is None for each in (*heard, state.deadline) if each is not None):
            raise ValueError("a time says nothing of its zone")
        state.last_heartbeats = dict(zip(nodes(form.heard_of), heard, strict=True))
        return state


def state_as_json() -> None:
    """Have the agents that this process starts read and write JSON."""
    torchs.pickle = StateAsJson  # type: ignore[assignment, attr-defined]
