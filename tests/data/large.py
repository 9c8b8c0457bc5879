"""One stage of curation over documents, in a process of its own that tells how much memory it took.

    python -m tests.data.large <stage> <folder of documents> <folder for the result>

A stage that reads another's result has it made here too, and counts it.
"""

import sys
from pathlib import Path

from pipeline.core.artifacts import Documents, Tokenizer
from pipeline.data.decontaminate import find_overlaps
from pipeline.data.dedup import deduplicate
from pipeline.data.filtering import filter_documents
from pipeline.data.minhash import find_near_duplicates
from pipeline.data.rules import Keep, Replace
from pipeline.data.taggers.c4 import C4
from pipeline.data.taggers.code import Code
from pipeline.data.taggers.comments import Comments
from pipeline.data.taggers.gopher import Gopher
from pipeline.data.taggers.language import Language
from pipeline.data.taggers.lengths import Lengths
from pipeline.data.taggers.pii import Pii
from pipeline.data.taggers.unicode_words import UnicodeWords
from pipeline.data.tagging import tag_documents
from pipeline.tokens.tokenizing import tokenize_documents

TAGGERS = [Gopher(), C4(), Pii(), Lengths(), UnicodeWords(), Language(), Code()]
KINDS = ("email_address", "phone_number", "ip_address")


def without_contacts(documents, out):
    measured = tag_documents(documents, [Pii()], out=out / "pii")
    rules = [Keep("pii.doc_count", at_least=0)]
    rules += [Replace(f"pii.{each}", f"|||{each.upper()}|||") for each in KINDS]
    return filter_documents(documents, [measured], rules, out=out / "kept")


def without_repeats(documents, out):
    marked = deduplicate(documents, by=["document", "paragraph"], out=out / "marks")
    return filter_documents(
        documents, [marked], [Replace("dedup.duplicate_paragraphs")], out=out / "kept"
    )


STAGES = {
    "tag": lambda documents, out: tag_documents(documents, TAGGERS, out=out),
    "comments": lambda documents, out: tag_documents(documents, [Comments("python")], out=out),
    "contacts": without_contacts,
    "dedup": lambda documents, out: deduplicate(documents, by=["document", "paragraph"], out=out),
    "repeats": without_repeats,
    "near": lambda documents, out: find_near_duplicates(documents, out=out),
    "decontaminate": lambda documents, out: find_overlaps(
        documents, Documents.load(documents.root.parent / "evaluation"), out=out
    ),
    "tokenize": lambda documents, out: tokenize_documents(
        documents, Tokenizer.load(documents.root.parent / "tokenizer"), out=out
    ),
}


def peak_bytes():
    """The most memory that this process had; `getrusage` has that of its parent too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


if __name__ == "__main__":
    stage, documents, out = sys.argv[1:]
    STAGES[stage](Documents.load(Path(documents)), Path(out))
    print(peak_bytes())
