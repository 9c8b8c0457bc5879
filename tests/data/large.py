"""One stage of curation over documents, in a process of its own that tells how much memory it took.

    python -m tests.data.large <stage> <folder> <folder for the result>

The folder has documents, or for `ingest` a file of each format. A stage that reads another's result
has it made in the same process, and is counted with it.
"""

import sys
from pathlib import Path

from pipeline.core.artifacts import Documents, Tokenizer
from pipeline.data.decontamination.decontaminate import find_overlaps
from pipeline.data.duplicates.dedup import deduplicate
from pipeline.data.duplicates.minhash import find_near_duplicates
from pipeline.data.filtering import filter_documents
from pipeline.data.ingest import ingest_documents
from pipeline.data.rules import Keep, Replace
from pipeline.data.sources.pages import TextFiles
from pipeline.data.sources.rows import Jsonl, ParquetFiles
from pipeline.data.taggers.c4 import C4
from pipeline.data.taggers.code import Code
from pipeline.data.taggers.gopher import Gopher
from pipeline.data.taggers.language import Language
from pipeline.data.taggers.lengths import Lengths
from pipeline.data.taggers.pii import Pii
from pipeline.data.taggers.unicode_words import UnicodeWords
from pipeline.data.tagging import tag_documents
from pipeline.tokens.tokenizing import tokenize_documents

TAGGERS = [Gopher(), C4(), Pii(), Lengths(), UnicodeWords(), Language(), Code()]
KINDS = ("email_address", "phone_number", "ip_address")


def ingest(file, out):
    kinds = {".gz": Jsonl, ".jsonl": Jsonl, ".parquet": ParquetFiles, ".txt": TextFiles}
    ingest_documents(kinds[file.suffix](str(file), "large"), out=out)


def curated(documents, out):
    """Contacts are measured and replaced, and what is left becomes tokens."""
    measured = tag_documents(documents, [Pii()], out=out / "pii")
    rules = [Keep("pii.doc_count", at_least=0)]
    rules += [Replace(f"pii.{each}", f"|||{each.upper()}|||") for each in KINDS]
    kept = filter_documents(documents, [measured], rules, out=out / "kept")
    tokenize_documents(kept, tokenizer_beside(documents), out=out / "tokens")


def tokenizer_beside(documents):
    return Tokenizer.load(documents.root.parent / "tokenizer")


def without_repeats(documents, out):
    marked = deduplicate(documents, by=["document", "paragraph"], out=out / "marks")
    rules = [Replace("dedup.duplicate_paragraphs")]
    filter_documents(documents, [marked], rules, out=out / "kept")


STAGES = {
    "tag": lambda documents, out: tag_documents(documents, TAGGERS, out=out),
    "curate": curated,
    "repeats": without_repeats,
    "near": lambda documents, out: find_near_duplicates(documents, out=out),
    "decontaminate": lambda documents, out: find_overlaps(
        documents, Documents.load(documents.root.parent / "evaluation"), out=out
    ),
}


def peak_bytes():
    """The most memory that this process had; `getrusage` has that of its parent too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


if __name__ == "__main__":
    stage, documents, out = sys.argv[1:]
    if stage == "ingest":
        ingest(Path(documents), Path(out))
    else:
        STAGES[stage](Documents.load(Path(documents)), Path(out))
    print(peak_bytes())
