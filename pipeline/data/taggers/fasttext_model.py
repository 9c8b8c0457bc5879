"""Any fastText classifier as a tagger: toxicity, NSFW, quality; its model by path or URL."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

from pipeline.core.errors import CorruptShard, MissingDependency
from pipeline.core.fingerprints import OutsideFile
from pipeline.data.taggers import DECIMALS, SpanList, State, Value, state_of
from pipeline.data.text import paragraphs, sentences

UNITS = {"paragraph": paragraphs, "sentence": sentences}


@dataclass(frozen=True)
class FastText:
    """The probability of each label, of a document, or of each of its paragraphs or sentences.

    Text is read as one line: newlines become spaces, and what stands around it is cut off. A
    paragraph is a line that is not blank; a sentence is one of BlingFire's, which may go on over a
    newline, and white space between two belongs to neither. The score of either is a span, and the
    number of the document is the mean over characters.

    Args:
        name: of the table, as `toxicity`.
        model: a `.bin` or `.ftz` file; at a URL with its revision, and its digest in the lock.
        labels: those that are asked for, without `__label__`; a column each, in lower case.
        by: `document` gives numbers; `paragraph` or `sentence` spans `<label>_paragraphs` or
            `<label>_sentences` beside them. Sentences need the package `blingfire`.
        lower: whether text is lower-cased first.

    Source: Joulin et al. 2016, "Bag of Tricks"; allenai/dolma 1.2.1, `core/ft_tagger.py`, and
        `taggers/jigsaw.py` (`jigsaw_hatespeech_sentence_v2`, `jigsaw_nsfw_sencence_v2`).
    Differs: a probability that float32 sums bring above 1 is 1; Dolma's two sentence taggers have
        no number of the document.
    """

    name: str
    model: OutsideFile
    labels: tuple[str, ...]
    by: Literal["document", "paragraph", "sentence"] = "document"
    lower: bool = False

    VERSION: ClassVar[str] = "001"

    def __post_init__(self) -> None:
        if not self.labels:
            raise ValueError("labels is empty; it must name what the model tells apart")
        if self.by not in ("document", *UNITS):
            raise ValueError(f"by is {self.by!r}; it must be 'document', 'paragraph' or 'sentence'")
        if not self.name.isidentifier():
            raise ValueError(f"name is {self.name!r}; it must be letters, digits and underscores")

    @property
    def COLUMNS(self) -> dict[str, str]:
        """Column -> kind."""
        columns = {column_of(each): "number" for each in self.labels}
        if self.by != "document":
            columns |= {f"{column_of(each)}_{self.by}s": "spans" for each in self.labels}
        return columns

    def measure(self, text: str) -> dict[str, Value]:
        if self.by == "document":
            scores = self._scores(text)
            return {column_of(each): scores[each] for each in self.labels}
        spans = {each: SpanList() for each in self.labels}
        for start, end in UNITS[self.by](text):
            if text[start:end].strip():
                for label, score in self._scores(text[start:end]).items():
                    spans[label].add(start, end, score)
        made: dict[str, Value] = {}
        for label, found in spans.items():
            size = sum(end - start for start, end, _ in found)
            total = sum((end - start) * score for start, end, score in found)
            made[column_of(label)] = round(total / size, DECIMALS) if size else 0.0
            made[f"{column_of(label)}_{self.by}s"] = found
        return made

    def _scores(self, text: str) -> dict[str, float]:
        line = (text.lower() if self.lower else text).replace("\n", " ").strip()
        path = _local(self.model)
        state = state_of(path)
        known = _labels(path, state)
        for label in self.labels:
            if label not in known:
                raise ValueError(f"labels has {label!r}; the model has {', '.join(sorted(known))}")
        if not line:
            return dict.fromkeys(self.labels, 0.0)
        labels, scores = _model(path, state).predict(line, k=-1)
        found = dict(zip(labels, scores, strict=True))
        return {
            each: round(min(1.0, float(found.get(PREFIX + each, 0.0))), DECIMALS)
            for each in self.labels
        }


PREFIX = "__label__"


def column_of(label: str) -> str:
    """The column of a label: lower case, with an underscore for what a name cannot hold."""
    return "".join(each if each.isalnum() else "_" for each in label.lower())


@cache
def _local(model: OutsideFile) -> str:
    return str(model.local())


@cache
def _model(path: str, state: State) -> Any:
    try:
        import fasttext
    except ImportError as error:
        raise MissingDependency("fasttext-predict", "the tagger 'fasttext'") from error
    try:
        return fasttext.load_model(path)
    except (ValueError, RuntimeError) as error:
        raise CorruptShard(path, None, f"is no model of fastText ({error})") from error


@cache
def _labels(path: str, state: State) -> frozenset[str]:
    labels, _ = _model(path, state).predict("a", k=-1, threshold=-1.0)
    return frozenset(each.removeprefix(PREFIX) for each in labels)
