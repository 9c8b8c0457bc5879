"""Steps from a source to the documents that are kept."""

from __future__ import annotations

from typing import Literal

from pipeline.data.decontaminate import find_overlaps
from pipeline.data.dedup import deduplicate
from pipeline.data.filtering import Rule, filter_documents
from pipeline.data.ingest import concat_documents, ingest_documents
from pipeline.data.sources import Source
from pipeline.data.taggers import Tagger
from pipeline.data.tagging import tag_documents
from tango.step import Step

from pipeline.core.artifacts import Attributes, Documents
from pipeline.core.engine import LOCAL, Engine
from steps.base import PipelineStep


@Step.register("ingest")
class Ingest(PipelineStep):
    """A source becomes Documents."""

    VERSION = "001"

    def run(
        self,
        source: Source,
        shard_bytes: int = 8 << 20,
        max_malformed: int = 0,
        engine: Engine = LOCAL,
    ) -> Documents:
        return ingest_documents(
            source,
            out=self.out,
            shard_bytes=shard_bytes,
            max_malformed=max_malformed,
            engine=engine,
        )


@Step.register("concat")
class Concat(PipelineStep):
    """Several Documents as one; copies nothing."""

    VERSION = "001"

    def run(self, documents: list[Documents]) -> Documents:
        return concat_documents(documents, out=self.out)


@Step.register("tag")
class Tag(PipelineStep):
    """Measure documents; delete nothing."""

    VERSION = "001"

    def run(
        self, documents: Documents, taggers: list[Tagger], engine: Engine = LOCAL
    ) -> Attributes:
        return tag_documents(documents, taggers, out=self.out, engine=engine, memo=self.memo)


@Step.register("dedup")
class Dedup(PipelineStep):
    """Mark what stands earlier in the corpus, exactly."""

    VERSION = "001"

    def run(
        self,
        documents: Documents,
        by: list[Literal["document", "paragraph", "url"]],
        engine: Engine = LOCAL,
    ) -> Attributes:
        return deduplicate(documents, by=by, out=self.out, engine=engine)


@Step.register("decontaminate")
class Decontaminate(PipelineStep):
    """Mark what stands in evaluation text."""

    VERSION = "001"

    def run(
        self,
        documents: Documents,
        evaluation: Documents,
        min_words: int = 13,
        engine: Engine = LOCAL,
    ) -> Attributes:
        return find_overlaps(
            documents, evaluation, min_words=min_words, out=self.out, engine=engine
        )


@Step.register("filter")
class Filter(PipelineStep):
    """Keep the documents that pass every rule."""

    VERSION = "001"

    def run(
        self,
        documents: Documents,
        rules: list[Rule],
        attributes: list[Attributes] = [],  # noqa: B006  Tango reads defaults; nothing writes it
        engine: Engine = LOCAL,
    ) -> Documents:
        return filter_documents(documents, attributes, rules, out=self.out, engine=engine)
