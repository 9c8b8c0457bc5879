"""What Dolma's tool did with its published filter, against what the paper says of it.

    python benchmarks/rule_sets.py                       Python's own documentation and sources
    python benchmarks/rule_sets.py 'folder/*.jsonl.gz'   and documents in Dolma's format

Filters each corpus by `data.common_crawl` of the experiments' library (as olmo7b.jsonnet does), by
`data.dolma_as_run.common_crawl`, and by the first with one difference at a time, and counts the
documents whose fate or text is another. A tenth of the documents, by a hash of the id, stands for
evaluation text; it is left out of the corpus. Prints a table as Markdown: in `+1 -2 ~3`, one
document is kept more, two are kept less, and three are written otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rjsonnet

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.core.artifacts import Attributes, Documents  # noqa: E402
from pipeline.core.engine import Local  # noqa: E402
from pipeline.core.shards import read_shard  # noqa: E402
from pipeline.data.decontamination.decontaminate import find_overlaps  # noqa: E402
from pipeline.data.duplicates.dedup import deduplicate  # noqa: E402
from pipeline.data.filtering import filter_documents  # noqa: E402
from pipeline.data.ingest import ingest_documents  # noqa: E402
from pipeline.data.rules import Keep, Replace, Rule, Sample  # noqa: E402
from pipeline.data.sources.python_install import PythonInstall  # noqa: E402
from pipeline.data.sources.rows import Jsonl, Source  # noqa: E402
from pipeline.data.taggers.gopher import Gopher  # noqa: E402
from pipeline.data.taggers.pii import Pii  # noqa: E402
from pipeline.data.tagging import tag_documents  # noqa: E402

LIBRARY = ROOT / "experiments" / "lib" / "data.libsonnet"
TOP = ("most_common_2grams", "most_common_3grams", "most_common_4grams")
Form = dict[str, Any]


def rule_set(expression: str) -> list[Form]:
    """Rules of the experiments' library, as JSON."""
    text = f"local data = import '{LIBRARY}'; {expression}"
    found: list[Form] = json.loads(rjsonnet.evaluate_snippet("rules", text))
    models = ("toxicity", "nsfw")  # that are not here
    return [each for each in found if each.get("spans", "").split(".")[0] not in models]


def built(forms: list[Form]) -> list[Rule]:
    return [(Keep if "attribute" in form else Replace)(**form) for form in forms]


DIFFERENCES: dict[str, Callable[[list[Form]], list[Form]]] = {
    "the most common n-grams are not asked for (their names are misspelled)": lambda rules: [
        each for each in rules if not each.get("attribute", "").endswith(TOP)
    ],
    "contaminated documents stay (a whole number is compared with 1.0)": lambda rules: [
        each for each in rules if not each.get("attribute", "").startswith("decontamination")
    ],
    "a span that starts inside another is skipped whole": lambda rules: [
        {**each, "merge": False} if "spans" in each else each for each in rules
    ],
    "documents that are left without text stay": lambda rules: [
        {**each, "keep_empty": True} if "spans" in each else each for each in rules
    ],
}


class Corpus:
    """A source, measured once, and filtered by any rules."""

    def __init__(self, name: str, source: Source, root: Path) -> None:
        self.name, self.root = name, root
        engine = Local(2)
        every = ingest_documents(source, out=root / "every", engine=engine)
        self.given, heldout = (
            filter_documents(every, [], [Sample("id", *part, "heldout")], out=root / f"{part[0]}")
            for part in ((0.0, 0.9), (0.9, 1.0))
        )
        self.attributes: list[Attributes] = [
            tag_documents(self.given, [Gopher(), Pii()], out=root / "tags", engine=engine),
            deduplicate(self.given, by=["paragraph"], out=root / "repeats", engine=engine),
            find_overlaps(self.given, heldout, out=root / "overlaps", engine=engine),
        ]
        self._made = 0

    def filtered(self, forms: list[Form]) -> dict[str, str]:
        """The text of each document that some rules keep."""
        self._made += 1
        out = self.root / f"filtered-{self._made}"
        return texts(filter_documents(self.given, self.attributes, built(forms), out=out))

    def newlines_left(self) -> int:
        """Documents of which the tool's deduper leaves the last newline of a repeated last line."""
        given, count = texts(self.given), 0
        [table] = self.attributes[1].tables
        rows = [
            row
            for shard in table.shards
            for row in read_shard(self.attributes[1].root, shard).to_pylist()
        ]
        for text, row in zip(given.values(), rows, strict=True):
            spans = row["duplicate_paragraphs"]
            count += (
                bool(spans)
                and text.isascii()
                and text[-1:] == "\n"
                and spans[-1]["end"] == len(text)
            )
        return count


def texts(documents: Documents) -> dict[str, str]:
    shards = (read_shard(documents.root, shard, ["id", "text"]) for shard in documents.shards)
    return {row["id"]: row["text"] for shard in shards for row in shard.to_pylist()}


def compared(first: dict[str, str], second: dict[str, str]) -> str:
    """How many documents another rule set keeps more, keeps less, and writes otherwise."""
    both = first.keys() & second.keys()
    other = sum(first[id] != second[id] for id in both)
    return f"+{len(second.keys() - both):,} -{len(first.keys() - both):,} ~{other:,}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("documents", nargs="*", help="patterns of files of Dolma's format")
    options = parser.parse_args()
    sources: dict[str, Source] = {
        "documentation of Python": PythonInstall("documentation", "documentation"),
        "sources of Python": PythonInstall("code", "code"),
    }
    if options.documents:
        sources["given documents"] = Jsonl(options.documents, "given")
    paper = rule_set("data.common_crawl + data.uncontaminated + data.cleaned")
    run = rule_set("data.dolma_as_run.common_crawl")
    with tempfile.TemporaryDirectory() as scratch:
        corpora = [
            Corpus(name, source, Path(scratch) / str(number))
            for number, (name, source) in enumerate(sources.items())
        ]
        print(f"| | {' | '.join(each.name for each in corpora)} |")
        print(f"|---|{'---|' * len(corpora)}")
        kept = [each.filtered(paper) for each in corpora]
        rows = {
            "documents": [f"{each.given.num_documents:,}" for each in corpora],
            "kept as the paper says": [f"{len(each):,}" for each in kept],
        }
        for name, change in DIFFERENCES.items():
            rows[name] = [
                compared(before, corpus.filtered(change(paper)))
                for before, corpus in zip(kept, corpora, strict=True)
            ]
        rows["all of these: kept as it was run"] = [
            compared(before, corpus.filtered(run))
            for before, corpus in zip(kept, corpora, strict=True)
        ]
        rows["a last newline stays (not imitated)"] = [
            f"~{each.newlines_left():,}" for each in corpora
        ]
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
