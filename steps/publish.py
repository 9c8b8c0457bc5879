"""Steps at the end: the page, and models others can open."""

from __future__ import annotations

from typing import Any

from tango.step import Step

from pipeline.core.artifacts import (
    Attributes,
    Checkpoints,
    Documents,
    Generations,
    HfModel,
    Report,
    Scores,
    Tokenizer,
    Tokens,
)
from pipeline.core.fingerprints import OutsideFile
from pipeline.core.keys import Json
from pipeline.report.html import write_report
from pipeline.report.tables import why_removed
from steps.base import PipelineStep


@Step.register("report")
class WriteReport(PipelineStep):
    """One page of everything that was made, which needs no network; a corpus alone will do."""

    VERSION = "004"

    def run(
        self,
        title: str,
        corpus: dict[str, Documents],
        tokens: dict[str, Tokens],
        # Tango reads defaults; nothing writes them
        training: dict[str, Checkpoints] = {},  # noqa: B006
        scores: dict[str, Scores] = {},  # noqa: B006
        overlaps: dict[str, Attributes] = {},  # noqa: B006
        generations: Generations | None = None,
        seeds: dict[str, dict[str, Scores]] = {},  # noqa: B006
    ) -> Report:
        return write_report(
            title=title,
            corpus=corpus,
            tokens=tokens,
            training=training,
            scores=scores,
            overlaps=overlaps,
            generations=generations,
            seeds=seeds,
            out=self.out,
        )

    def content_key(self, loaded: dict[str, Any]) -> dict[str, Json]:
        """With what filters wrote beside the documents, as the page shows it too."""
        return {**super().content_key(loaded), "why_removed": why_removed(loaded["corpus"])}


@Step.register("export_hf")
class ExportHf(PipelineStep):
    """The latest checkpoint as a folder that `transformers` opens."""

    VERSION = "001"

    def run(self, checkpoints: Checkpoints, tokenizer: Tokenizer) -> HfModel:
        from pipeline.model.hf import export_hf

        return export_hf(checkpoints, tokenizer, out=self.out)


@Step.register("import_hf")
class ImportHf(PipelineStep):
    """A released OLMo folder (config.json, safetensors) as a model that can be scored."""

    VERSION = "001"

    def run(self, path: OutsideFile) -> HfModel:
        from pipeline.model.hf import import_hf

        return import_hf(path.local(), out=self.out)
