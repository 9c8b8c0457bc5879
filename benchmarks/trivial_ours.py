"""The steps of trivial_bare.py as ours."""

import time
from dataclasses import dataclass

from tango import Step

from pipeline.core.artifacts import Artifact
from steps.base import PipelineStep


@dataclass(frozen=True)
class Number(Artifact):
    """A number, which is all of the result."""

    value: int


@Step.register("add")
class Add(PipelineStep):
    """Add up numbers, which takes no time of its own."""

    def run(self, inputs: list[Number], value: int, seconds: float = 0.0) -> Number:
        time.sleep(seconds)
        return Number.of(self.out, value=sum(each.value for each in inputs) + value)
