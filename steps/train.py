"""Steps that train; torch is imported where they run, so that a plan needs none."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, NamedTuple

from tango.step import Step

from pipeline.core.artifacts import Checkpoints, Examples, Pairs, ReadingOrder, TokenMix
from pipeline.core.keys import Json
from pipeline.model.config import OlmoConfig
from pipeline.store.reached import passed, updates_left
from pipeline.store.results import Results
from pipeline.tokens.olmo_indices import order_of
from pipeline.tokens.order import FEISTEL, OrderRule
from pipeline.train.config import (
    UPKEEP,
    Conduct,
    TrainConfig,
    Upkeep,
    check_launch,
    require_no_z_loss,
)
from pipeline.train.evaluations import Evaluation, check_evaluations
from pipeline.train.monitors import Monitor
from pipeline.train.plan.foretelling import Job
from pipeline.train.ranks.launches import Launch
from pipeline.train.spikes import SpikeRule
from steps.base import PipelineStep
from steps.graph.ranges import Positive, Range
from steps.tokens import require_long_enough, require_read_once

ONE_PROCESS = Launch()
NO_MONITORS: list[Monitor] = []
NO_EVALUATIONS: list[Evaluation] = []
Retention = Positive | None  # checkpoints that keep an optimizer's state


class Updates(NamedTuple):
    """Those that are to be made, of all that a training has.

    Args:
        passed: the step that the series has gone on to, past `of`, which it did not save.
    """

    left: int
    of: int
    passed: int | None = None

    def __str__(self) -> str:
        if self.passed is not None:
            return (
                f"it will be refused: stop_at is {self.of:,}; the series has gone on to "
                f"step {self.passed:,} and did not save that one"
            )
        return f"{self.left:,} of {self.of:,} updates are left"


class TrainingStep(PipelineStep):
    """What training steps share: an argument `train`, and a model whose shape is known.

    Of their arguments, these change no result: `launch`; `retention`, how many of the last
    checkpoints keep their optimizer's state (null: all); `stop_on`, a spike that stops the run;
    `monitors`, which are told of every update; `evaluations`, made every so many updates.
    """

    SERIES = True
    READS: ClassVar[str]  # the argument that holds the rows
    ROWS_PER_ITEM: ClassVar[int] = 1  # of what a batch counts
    FULL_ROWS: ClassVar[bool] = False  # whether every row is as long as the longest

    def shape(self) -> OlmoConfig | None:
        """The shape of the model; null where it was trained elsewhere."""
        return shape_of(self.kwargs["checkpoints"])

    def job(self) -> Job | None:
        """The training as a plan reckons with it; null where the model's shape is not known."""
        shape, rows = self.shape(), self.kwargs[self.READS]
        if shape is None:
            return None
        longest = rows.longest_row()[1] if hasattr(rows, "longest_row") else None
        return Job(
            shape,
            self.kwargs["train"],
            self.kwargs["launch"],
            longest or shape.max_sequence_length,
            self.ROWS_PER_ITEM,
            self.kwargs.get("retention"),
        )

    def updates(self, results: Results, form: dict[str, Json]) -> Updates:
        """How many updates are to be made, and how many the whole training has.

        Args:
            form: the content key.
        """
        config: TrainConfig = self.kwargs["train"]
        series = results.series(self._name_of_series(results, form))
        origin = self._origin(results, series, form) or (series, None)
        left = updates_left(origin[0], config.kept_steps, origin[1])
        gone_past = passed(series, config.stop_at, config.save_steps)
        return Updates(left, config.last_step, gone_past)

    def conduct(
        self,
        launch: Launch,
        retention: int | None,
        stop_on: SpikeRule | None,
        monitors: list[Monitor],
        evaluations: list[Evaluation],
    ) -> Conduct:
        """Where and how it is made, of the arguments that change no result."""
        upkeep = Upkeep(retention, stop_on, tuple(monitors), tuple(evaluations))
        return Conduct(self.series, self.out, launch, upkeep, self.series_lease)

    def check(self, path: str) -> None:
        """Raises ValueError for a batch that ranks cannot share, and for rows that do not fit.

        And for two evaluations of one name.
        """
        evaluations = self.kwargs.get("evaluations", NO_EVALUATIONS)
        check_evaluations([getattr(each, "made", each) for each in evaluations], f"{path}.")
        check_launch(self.kwargs["train"], self.kwargs["launch"], f"{path}.train.")
        require_room(self.shape(), self.kwargs[self.READS])


def shape_of(model: Step[Any]) -> OlmoConfig | None:
    """The shape of the model that a step makes, where the graph tells it."""
    return model.shape() if isinstance(model, TrainingStep) else None


def require_vocabulary(shape: OlmoConfig, mix: Step[Any], path: str) -> None:
    """Raises ValueError where a tokenizer of the mix is asked for more ids than a model has."""
    for tokens in mix.kwargs.get("tokens", {}).values():
        tokenizer = tokens.kwargs.get("tokenizer") if isinstance(tokens, Step) else None
        if not isinstance(tokenizer, Step):
            continue
        size = tokenizer.kwargs.get("vocab_size")
        if size is not None and shape.vocab_size < size:
            raise ValueError(
                f"{path}.model.vocab_size is {shape.vocab_size}; it must be at least "
                f"steps.{tokenizer.name}.vocab_size, {size}"
            )


def require_room(shape: OlmoConfig | None, rows: Step[Any]) -> None:
    """Raises ValueError where a step makes rows that are too long for a model."""
    if shape is not None and hasattr(rows, "longest_row"):
        path, num_tokens = rows.longest_row()
        shape.require_room(num_tokens, path)


@Step.register("pretrain")
class Pretrain(TrainingStep):
    """Next-token training from initialization, on a mix of tokens."""

    VERSION = "004"
    READS = "mix"
    FULL_ROWS = True

    def run(
        self,
        mix: TokenMix,
        model: OlmoConfig,
        train: TrainConfig,
        order: OrderRule | ReadingOrder = FEISTEL,
        mask_documents: bool = False,
        launch: Launch = ONE_PROCESS,
        retention: Retention = UPKEEP.retention,
        stop_on: SpikeRule | None = None,
        monitors: list[Monitor] = NO_MONITORS,
        evaluations: list[Evaluation] = NO_EVALUATIONS,
    ) -> Checkpoints:
        from pipeline.train.stages.pretrain import pretrain

        return pretrain(
            mix,
            model,
            train,
            conduct=self.conduct(launch, retention, stop_on, monitors, evaluations),
            order=order_of(order),
            mask_documents=mask_documents,
        )

    def shape(self) -> OlmoConfig:
        model: OlmoConfig = self.kwargs["model"]
        return model

    def check(self, path: str) -> None:
        """Raises ValueError as for all training steps.

        And for a vocabulary that is too small, for a mix that OLMo's order cannot read, and for an
        order that ends before the training.
        """
        super().check(path)
        require_vocabulary(self.shape(), self.kwargs["mix"], path)
        require_read_once(self.kwargs["order"], self.kwargs["mix"], path)
        train: TrainConfig = self.kwargs["train"]
        told = f"{path}.train.{train.told_last_step}"
        require_long_enough(self.kwargs["order"], train.last_step, train.batch_size, told)


@Step.register("sft")
class Sft(TrainingStep):
    """Supervised fine-tuning of the latest checkpoint."""

    VERSION = "004"
    READS = "examples"

    def run(
        self,
        checkpoints: Checkpoints,
        examples: Examples,
        train: TrainConfig,
        launch: Launch = ONE_PROCESS,
        retention: Retention = UPKEEP.retention,
        stop_on: SpikeRule | None = None,
        monitors: list[Monitor] = NO_MONITORS,
        evaluations: list[Evaluation] = NO_EVALUATIONS,
    ) -> Checkpoints:
        from pipeline.train.stages.sft import sft

        return sft(
            checkpoints,
            examples,
            train,
            conduct=self.conduct(launch, retention, stop_on, monitors, evaluations),
        )


@Step.register("reference_logprobs")
class ReferenceLogprobs(PipelineStep):
    """What the reference gives each answer, computed once for every DPO run on it."""

    VERSION = "002"

    def run(self, checkpoints: Checkpoints, pairs: Pairs) -> Pairs:
        from pipeline.train.stages.dpo import reference_logprobs

        return reference_logprobs(checkpoints, pairs, out=self.out)

    def check(self, path: str) -> None:
        """Raises ValueError for pairs that do not fit the model."""
        require_room(shape_of(self.kwargs["checkpoints"]), self.kwargs["pairs"])

    def longest_row(self) -> tuple[str, int]:
        """The parameter that bounds the tokens of a row, and what it is."""
        found: tuple[str, int] = self.kwargs["pairs"].longest_row()
        return found


@Step.register("dpo")
class Dpo(TrainingStep):
    """Direct preference optimization of the latest checkpoint."""

    VERSION = "004"
    READS = "pairs"
    ROWS_PER_ITEM = 2

    def run(
        self,
        checkpoints: Checkpoints,
        pairs: Pairs,
        train: TrainConfig,
        beta: Annotated[float, Range(above=0)] = 0.1,
        launch: Launch = ONE_PROCESS,
        retention: Retention = UPKEEP.retention,
        stop_on: SpikeRule | None = None,
        monitors: list[Monitor] = NO_MONITORS,
        evaluations: list[Evaluation] = NO_EVALUATIONS,
    ) -> Checkpoints:
        from pipeline.train.stages.dpo import dpo

        return dpo(
            checkpoints,
            pairs,
            train,
            beta=beta,
            conduct=self.conduct(launch, retention, stop_on, monitors, evaluations),
        )

    def check(self, path: str) -> None:
        """Raises ValueError as for all training steps, and for a z-loss."""
        super().check(path)
        require_no_z_loss(self.kwargs["train"], f"{path}.train.")
