"""Steps from a source to the documents that are kept."""

from __future__ import annotations

from typing import Annotated

from tango.step import Step

from pipeline.core.artifacts import Attributes, Documents, DolmaFolder
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.fingerprints import OutsideFile
from pipeline.data import filtering, ingest, tagging
from pipeline.data.decontamination import decontaminate
from pipeline.data.decontamination.decontaminate import COLUMNS as OVERLAPS
from pipeline.data.decontamination.decontaminate import find_overlaps
from pipeline.data.dolma import export as dolma
from pipeline.data.dolma.attributes import import_attributes
from pipeline.data.dolma.export import export_dolma
from pipeline.data.duplicates import minhash
from pipeline.data.duplicates.dedup import By, columns_by, deduplicate
from pipeline.data.duplicates.minhash import COLUMNS as NEAR
from pipeline.data.duplicates.minhash import MAX_SEED, find_near_duplicates
from pipeline.data.filtering import filter_documents
from pipeline.data.ingest import concat_documents, ingest_documents
from pipeline.data.rules import Rule, check_rules
from pipeline.data.sources.rows import Source
from pipeline.data.taggers import Tagger
from pipeline.data.tagging import check_taggers, tag_documents
from steps.base import PipelineStep
from steps.graph.ranges import NOT_EMPTY, Count, Positive, Range


@Step.register("ingest")
class Ingest(PipelineStep):
    """A source becomes Documents."""

    VERSION = ingest.VERSION

    def run(
        self,
        source: Source,
        shard_bytes: Positive = 8 << 20,
        max_malformed: Count = 0,
        engine: Engine = LOCAL,
    ) -> Documents:
        return ingest_documents(
            source,
            out=self.out,
            shard_bytes=shard_bytes,
            max_malformed=max_malformed,
            engine=engine,
            memo=self.memo,
        )


@Step.register("concat")
class Concat(PipelineStep):
    """Several Documents as one; copies nothing."""

    VERSION = "001"

    def run(self, documents: Annotated[list[Documents], NOT_EMPTY]) -> Documents:
        return concat_documents(documents, out=self.out)


@Step.register("tag")
class Tag(PipelineStep):
    """Measure documents; delete nothing."""

    VERSION = tagging.VERSION

    def run(
        self,
        documents: Documents,
        taggers: Annotated[list[Tagger], NOT_EMPTY],
        engine: Engine = LOCAL,
    ) -> Attributes:
        return tag_documents(documents, taggers, out=self.out, engine=engine, memo=self.memo)

    def check(self, path: str) -> None:
        """Raises ValueError for a tagger that is there twice."""
        check_taggers(self.kwargs["taggers"], f"{path}.taggers")

    def measures(self) -> dict[str, str]:
        """Column -> kind of everything that it will have measured."""
        taggers: list[Tagger] = self.kwargs["taggers"]
        return {f"{each.name}.{n}": kind for each in taggers for n, kind in each.COLUMNS.items()}


@Step.register("dedup")
class Dedup(PipelineStep):
    """Mark what stands earlier in the corpus, exactly."""

    VERSION = "001"

    def run(
        self,
        documents: Documents,
        by: Annotated[list[By], NOT_EMPTY],
        engine: Engine = LOCAL,
    ) -> Attributes:
        return deduplicate(documents, by=by, out=self.out, engine=engine)

    def measures(self) -> dict[str, str]:
        """Column -> kind of everything that it will have measured."""
        return {f"dedup.{n}": kind for n, kind in columns_by(self.kwargs["by"]).items()}


@Step.register("near_duplicates")
class NearDuplicates(PipelineStep):
    """Mark what is nearly alike to something earlier in the corpus, by MinHash."""

    VERSION = minhash.VERSION

    def run(
        self,
        documents: Documents,
        num_bands: Positive = 14,
        num_rows: Positive = 8,
        ngram_words: Positive = 5,
        seed: Annotated[int, Range(0, MAX_SEED)] = 1,
        engine: Engine = LOCAL,
    ) -> Attributes:
        return find_near_duplicates(
            documents,
            num_bands=num_bands,
            num_rows=num_rows,
            ngram_words=ngram_words,
            seed=seed,
            out=self.out,
            engine=engine,
        )

    def fingerprint(self) -> str:
        """What tells words apart."""
        return minhash.fingerprint()

    def measures(self) -> dict[str, str]:
        """Column -> kind of everything that it will have measured."""
        return {f"{minhash.NAME}.{n}": kind for n, kind in NEAR.items()}


@Step.register("decontaminate")
class Decontaminate(PipelineStep):
    """Mark what stands in evaluation text."""

    VERSION = decontaminate.VERSION

    def run(
        self,
        documents: Documents,
        evaluation: Documents,
        min_words: Positive = 13,
        engine: Engine = LOCAL,
    ) -> Attributes:
        return find_overlaps(
            documents,
            evaluation,
            min_words=min_words,
            out=self.out,
            engine=engine,
            memo=self.memo,
        )

    def fingerprint(self) -> str:
        """What tells words and paragraphs apart."""
        return decontaminate.fingerprint()

    def measures(self) -> dict[str, str]:
        """Column -> kind of everything that it will have measured."""
        return {f"decontamination.{n}": kind for n, kind in OVERLAPS.items()}


@Step.register("filter")
class Filter(PipelineStep):
    """Keep the documents that pass every rule."""

    VERSION = filtering.VERSION

    def run(
        self,
        documents: Documents,
        rules: list[Rule],
        attributes: list[Attributes] = [],  # noqa: B006  Tango reads defaults; nothing writes it
        engine: Engine = LOCAL,
    ) -> Documents:
        return filter_documents(
            documents, attributes, rules, out=self.out, engine=engine, memo=self.memo
        )

    def check(self, path: str) -> None:
        """Raises ValueError for a rule on what nothing measures, or two tables of one name."""
        measured: dict[str, str] = {}
        tables: dict[str, int] = {}
        for place, each in enumerate(self.kwargs.get("attributes", [])):
            if not hasattr(each, "measures"):
                return  # somebody else's step: its tables are known once it ran
            for table in sorted({name.split(".", 1)[0] for name in each.measures()}):
                if tables.setdefault(table, place) < place:
                    raise ValueError(
                        f"{path}.attributes[{place}] has a table {table!r}, as attributes"
                        f"[{tables[table]}] has; a filter reads one of a name"
                    )
            measured |= each.measures()
        check_rules(self.kwargs["rules"], measured, f"{path}.rules")


@Step.register("import_attributes")
class ImportAttributes(PipelineStep):
    """What Dolma's commands measured of the documents, from their folders."""

    VERSION = "001"

    def run(
        self,
        documents: Documents,
        folders: Annotated[dict[str, OutsideFile], NOT_EMPTY],
        columns: dict[str, str] | None = None,
        part: bool = False,
        engine: Engine = LOCAL,
    ) -> Attributes:
        return import_attributes(
            documents,
            {name: each.local() for name, each in folders.items()},
            columns=columns,
            part=part,
            out=self.out,
            engine=engine,
        )


@Step.register("export_dolma")
class ExportDolma(PipelineStep):
    """Documents, and what was measured of them, as the folders that Dolma's commands read."""

    VERSION = dolma.VERSION

    def run(
        self,
        documents: Documents,
        attributes: dict[str, Attributes] = {},  # noqa: B006  Tango reads defaults
        names: dict[str, str] = {},  # noqa: B006
        engine: Engine = LOCAL,
    ) -> DolmaFolder:
        return export_dolma(
            documents, attributes, names=names, out=self.out, engine=engine, memo=self.memo
        )
