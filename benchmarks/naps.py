"""Steps that take a known time, for measuring executors: `include_package` of a benchmark."""

from __future__ import annotations

import time

from tango.step import Step

from pipeline.core.artifacts import Documents
from steps.base import PipelineStep


@Step.register("nap")
class Nap(PipelineStep):
    """Sleep, and make a result of nothing."""

    VERSION = "001"

    def run(self, number: int, seconds: float = 1.0) -> Documents:
        time.sleep(seconds)
        return Documents.of(self.out, num_documents=0, num_text_bytes=0, sources=[], shards=[])
