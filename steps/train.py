"""Steps that train; torch is imported where they run, so that a plan needs none."""

from __future__ import annotations

from tango.step import Step

from pipeline.core.artifacts import Checkpoints, Examples, Pairs, TokenMix
from pipeline.model.config import OlmoConfig
from pipeline.train.config import Launch, TrainConfig
from steps.base import PipelineStep

ONE_PROCESS = Launch()


@Step.register("pretrain")
class Pretrain(PipelineStep):
    """Next-token training from initialization, on a mix of tokens."""

    VERSION = "002"
    SERIES = True

    def run(
        self, mix: TokenMix, model: OlmoConfig, train: TrainConfig, launch: Launch = ONE_PROCESS
    ) -> Checkpoints:
        from pipeline.train.pretrain import pretrain

        return pretrain(mix, model, train, series=self.series, out=self.out, launch=launch)


@Step.register("sft")
class Sft(PipelineStep):
    """Supervised fine-tuning of the latest checkpoint."""

    VERSION = "002"
    SERIES = True

    def run(
        self,
        checkpoints: Checkpoints,
        examples: Examples,
        train: TrainConfig,
        launch: Launch = ONE_PROCESS,
    ) -> Checkpoints:
        from pipeline.train.sft import sft

        return sft(checkpoints, examples, train, series=self.series, out=self.out, launch=launch)


@Step.register("reference_logprobs")
class ReferenceLogprobs(PipelineStep):
    """What the reference gives each answer, computed once for every DPO run on it."""

    VERSION = "002"

    def run(self, checkpoints: Checkpoints, pairs: Pairs) -> Pairs:
        from pipeline.train.dpo import reference_logprobs

        return reference_logprobs(checkpoints, pairs, out=self.out)


@Step.register("dpo")
class Dpo(PipelineStep):
    """Direct preference optimization of the latest checkpoint."""

    VERSION = "002"
    SERIES = True

    def run(
        self,
        checkpoints: Checkpoints,
        pairs: Pairs,
        train: TrainConfig,
        beta: float = 0.1,
        launch: Launch = ONE_PROCESS,
    ) -> Checkpoints:
        from pipeline.train.dpo import dpo

        return dpo(
            checkpoints, pairs, train, beta=beta, series=self.series, out=self.out, launch=launch
        )
