"""Who is told of every update of a training run: TensorBoard, Weights & Biases.

The first rank tells them what it adds to the history, and what evaluations find; nothing that they
do is in a key or a result.
A monitor that fails is dropped with a warning, and the training goes on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from pipeline.core.errors import MissingDependency

logger = logging.getLogger(__name__)
Row = dict[str, Any]  # of the history
LARGEST = 700.0  # nats whose exponential is a float


class Listener(Protocol):
    """A monitor at work."""

    def update(self, row: Row) -> None:
        """An update or an evaluation was made; one made again after a resume is told again."""
        ...

    def end(self) -> None:
        """No update follows."""
        ...


@dataclass(frozen=True)
class Monitor:
    """What may be told of a run; ranks get it as a value, and the first begins it.

    Class attributes:
        TYPE: its name in experiments.
        PACKAGES: what it needs, each the name of the extra that installs it too.
    """

    TYPE: ClassVar[str]
    PACKAGES: ClassVar[tuple[str, ...]] = ()

    def require(self) -> None:
        """Raises MissingDependency where a package is not installed."""
        for each in self.PACKAGES:
            if find_spec(each) is None:
                needed_by = f"the monitor {self.TYPE!r} (extra {each!r} of olmo-tango)"
                raise MissingDependency(each, needed_by)

    def begin(self, series: Path, first_step: int, facts: dict[str, Any]) -> Listener:
        """Listen to the updates after `first_step`.

        Args:
            series: folder of the series, beside whose checkpoints its files go.
            facts: the model, the training configuration and the objective, as JSON values.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class TensorBoard(Monitor):
    """Event files of TensorBoard.

    Args:
        folder: where they go; by default `tensorboard` in the folder of the series.
    """

    folder: str | None = None

    TYPE: ClassVar[str] = "tensorboard"
    PACKAGES: ClassVar[tuple[str, ...]] = ("tensorboard",)

    def begin(self, series: Path, first_step: int, facts: dict[str, Any]) -> Listener:
        from torch.utils.tensorboard import SummaryWriter

        folder = Path(self.folder) / series.name if self.folder else series / "tensorboard"
        # what an earlier run said of steps that are made again is not shown
        writer = SummaryWriter(str(folder), purge_step=first_step + 1)
        for name, value in facts.items():
            writer.add_text(name, str(value), first_step)
        return _EventFiles(writer)


@dataclass(frozen=True)
class _EventFiles:
    writer: Any

    def update(self, row: Row) -> None:
        for name, value in scalars(row).items():
            self.writer.add_scalar(name, value, row["step"])

    def end(self) -> None:
        self.writer.close()


@dataclass(frozen=True)
class WeightsAndBiases(Monitor):
    """A run of Weights & Biases, which a resumed training goes on with.

    Its files go to `wandb` in the folder of the series. Offline runs are sent by `wandb sync`.

    Args:
        name: of the run; by default the first digits of the series.
    """

    project: str = field(kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    mode: Literal["offline", "online", "disabled"] = field(default="offline", kw_only=True)

    TYPE: ClassVar[str] = "wandb"
    PACKAGES: ClassVar[tuple[str, ...]] = ("wandb",)

    def begin(self, series: Path, first_step: int, facts: dict[str, Any]) -> Listener:
        import wandb

        run = wandb.init(
            project=self.project,
            name=self.name or series.name[:12],
            id=series.name[:32],
            resume="allow",
            mode=self.mode,
            dir=str(series),
            config=facts,
        )
        run.define_metric("*", step_metric="step")  # its own count cannot go back
        return _WandbRun(run)


@dataclass(frozen=True)
class _WandbRun:
    run: Any

    def update(self, row: Row) -> None:
        self.run.log({"step": row["step"], **scalars(row)})

    def end(self) -> None:
        self.run.finish()


def scalars(row: Row) -> dict[str, float]:
    """The numbers of a row of the history by name; what is not known is left out.

    Tokens by source are `tokens_by_source/<source>`.
    """
    found: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            found |= {f"{name}/{each}": float(number) for each, number in value.items()}
        elif isinstance(value, (int, float)) and name != "step":
            found[name] = float(value)
    return found


def perplexity(row: Row) -> dict[str, float]:
    """Of a mean over tokens: the exponential of its cross-entropy; nothing where it is unknown."""
    loss, z_loss = row.get("loss"), row.get("z_loss", 0.0)
    if loss is None or z_loss is None or loss - z_loss > LARGEST:
        return {}
    return {"perplexity": math.exp(loss - z_loss)}


@contextmanager
def listening(
    monitors: Sequence[Monitor], series: Path, first_step: int, facts: dict[str, Any]
) -> Iterator[Callable[[Row], None]]:
    """Begin monitors, and end them; gives what tells each a row, and the perplexity with it."""
    of_tokens = facts["objective"] != "dpo"
    listeners: dict[int, Listener] = {}

    def guarded(number: int, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except Exception as error:
            listeners.pop(number, None)
            logger.warning(
                "the monitor %r failed and is told no more: %s: %s",
                monitors[number].TYPE,
                type(error).__name__,
                error,
            )
            return None

    for number, monitor in enumerate(monitors):
        begun = guarded(number, partial(monitor.begin, series, first_step, facts))
        if begun is not None:
            listeners[number] = begun

    def update(listener: Listener, row: Row) -> None:
        listener.update(row | perplexity(row) if of_tokens else row)

    def tell(row: Row) -> None:
        for number, listener in list(listeners.items()):
            guarded(number, partial(update, listener, row))

    try:
        yield tell
    finally:
        for number, listener in list(listeners.items()):
            guarded(number, listener.end)
