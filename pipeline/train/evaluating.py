"""Evaluations in a run: of which updates, by all ranks together, written down by the first."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from pipeline.core.stopping import stop_requested
from pipeline.model.olmo import Olmo
from pipeline.model.scoring import Scorer
from pipeline.store.history import EVALUATIONS, add_lines, evaluation_rows, sealed_line
from pipeline.train.evaluations import Evaluation, evaluation_digest
from pipeline.train.monitors import Row
from pipeline.train.progress import Progress
from pipeline.train.ranks.distributed import Ranks
from pipeline.train.ranks.sharding import float32_copy
from pipeline.train.series.history import finite

logger = logging.getLogger(__name__)


class Evaluating:
    """The evaluations of a run in one rank.

    They measure a copy of the parameters in float32, sharded as the model is, so that figures are
    those of the evaluating steps, and that the model in training and its gradients are left alone.

    Args:
        last_step: after which all of them are made.
    """

    def __init__(
        self, evaluations: Sequence[Evaluation], series: Path, last_step: int, ranks: Ranks
    ) -> None:
        self.evaluations, self.series = evaluations, series
        self.last_step, self.ranks = last_step, ranks
        self._measures: dict[str, Callable[[Scorer], list[Row]]] = {}
        self._digests = {each.name: evaluation_digest(each) for each in evaluations}
        self._told_as: dict[str, str] = {}  # name -> the one that monitors hear
        self._done: set[tuple[int, str, str]] = set()
        self._replays = False

    def go_to(self, step: int, replay: bool = False) -> None:
        """What follows this step is made again, and what was measured up to it is not.

        Args:
            replay: the series does not go on from the updates to come: none of them is measured.
        """
        self._replays = replay
        if not self.evaluations:
            return
        last, before = self.ranks.agreed(lambda: [self._measured(False), self._measured(True)])
        self._done = {(number, *of) for number, *of in last + before if number <= step}
        for name, own in self._digests.items():
            others = {of for _, called, of in last + before if called == name} - {own}
            self._told_as[name] = f"{name}-{own}" if others else name
            up_to = [number for number, called, of in last if called == name and of != own]
            if up_to and not replay and self.ranks.rank == 0:
                logger.warning(
                    "the evaluation %r is not known to be the one of before, up to step %d: other "
                    "data, say; its figures are a curve of their own, %s",
                    name,
                    max(up_to),
                    self._told_as[name],
                )

    def _measured(self, earlier: bool) -> list[tuple[int, str, str]]:
        """Step, name and digest of what was measured of the series."""
        rows = evaluation_rows(self.series, earlier=earlier)
        return [(each["step"], each["name"], each["evaluation"]) for each in rows]

    def due(self, step: int) -> list[Evaluation]:
        """Those that are to be made after an update, or before the first one (0)."""
        return [
            each
            for each in self.evaluations
            if not self._replays
            and (step % each.every == 0 or step == self.last_step)
            and (step, each.name, self._digests[each.name]) not in self._done
        ]

    @torch.no_grad()
    def measure(
        self, model: Olmo, step: int, segment: int, progress: Progress, tell: Callable[[Row], None]
    ) -> bool:
        """Make those that are due; all ranks make the same calls.

        Returns:
            Whether a rank was asked to stop before all were made, and updates are left to make:
            then who goes on from this step makes the others.
        """
        due = self.due(step)
        if not due:
            return False
        with progress.pausing(f"evaluating {', '.join(each.name for each in due)}"):
            scorer = Scorer(float32_copy(model, self.ranks).eval(), ranks=self.ranks)
            for each in due:
                if step != self.last_step and self._is_asked_to_stop():
                    return True
                self._measure(each, scorer, step, segment, tell)
                self._done.add((step, each.name, self._digests[each.name]))
            del scorer
            if self.ranks.size > 1:
                gc.collect()  # what FSDP holds of the copy stands in circles
        return False

    def _is_asked_to_stop(self) -> bool:
        return self.ranks.summed(float(stop_requested() is not None))[0] > 0

    def _measure(
        self,
        evaluation: Evaluation,
        scorer: Scorer,
        step: int,
        segment: int,
        tell: Callable[[Row], None],
    ) -> None:
        started, name = time.perf_counter(), evaluation.name
        if name not in self._measures:
            self._measures[name] = evaluation.begin()
        scores = [
            {n: finite(value) if isinstance(value, float) else value for n, value in each.items()}
            for each in self._measures[name](scorer)
        ]
        seconds = round(time.perf_counter() - started, 3)
        if self.ranks.rank:
            return
        row = {"step": step, "name": name, "segment": segment, "seconds": seconds, "scores": scores}
        row["evaluation"] = self._digests[name]
        add_lines(self.series / EVALUATIONS, [sealed_line(row)])
        logger.info("evaluated %s after step %d in %.1f s", name, step, seconds)
        name = self._told_as[name]
        told: Row = {"step": step, name: {"seconds": seconds}}
        for each in scores:
            if each["value"] is not None:
                told.setdefault(f"{name}/{each['task']}", {})[each["metric"]] = each["value"]
        tell(told)
