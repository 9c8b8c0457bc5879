"""Any fastText classifier as a tagger: toxicity, NSFW, quality; its model by path or URL."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from pipeline.core.errors import CorruptShard, MismatchedInputs, MissingDependency
from pipeline.core.files import file_sha256
from pipeline.core.fingerprints import OutsideFile, is_url
from pipeline.data.taggers import DECIMALS, SpanList, State, Value, package_version, state_of
from pipeline.data.taggers.fasttext_file import PREFIX, labels_of
from pipeline.data.text import one_line, paragraphs, sentences

UNITS = {"paragraph": paragraphs, "sentence": sentences}


@dataclass(frozen=True)
class FastText:
    """The probability of each label, of a document, or of each of its paragraphs or sentences.

    Text is read as one line: newlines become spaces, and what stands around it is cut off. A
    paragraph is a line that is not blank; a sentence is one of BlingFire's, which may go on over a
    newline, and white space between two belongs to neither. The score of either is a span, and the
    number of the document is the mean over characters.

    A model is numbers alone, and nothing of it is unpickled; but the C++ that reads it believes
    what its header says, so trust a model as you trust code. One that is not the file that `sha256`
    or the lock names is not opened.

    Args:
        name: of the table, as `toxicity`.
        model: a `.bin` or `.ftz` file, by path or URL; its `sha256`, where given, is checked before
            it is loaded. At a URL with its revision, and its digest in the lock.
        labels: those that are asked for, without `__label__`; a column each, in lower case, with
            `_` for what is no letter or digit.
        by: `document` gives numbers; `paragraph` or `sentence` spans `<label>_paragraphs` or
            `<label>_sentences` beside them. Sentences need the package `blingfire`.
        lower: whether text is lower-cased first.

    Raises:
        ValueError: the file is no whole model, or has not these labels; of one at a URL, this is
            told when it was fetched, by CorruptShard and MismatchedInputs.

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
        labels: dict[str, str] = {}
        for label in self.labels:
            for column in self._columns(label):
                if column in labels:
                    raise ValueError(
                        f"labels has {labels[column]!r} and {label!r}, which are both {column!r}"
                    )
                labels[column] = label
        if not is_url(self.model.path):  # of a URL nothing is fetched to build a graph
            try:
                known = labels_of(self.model.path, state_of(self.model.path))
            except (OSError, ValueError) as error:
                raise ValueError(f"model is {self.model.path!r}, which {error}") from error
            for label in self.labels:
                if label not in known:
                    raise ValueError(f"labels has {label!r}; {_told(known)}")

    def fingerprint(self) -> str:
        """What cuts the text: BlingFire, or only newlines."""
        return package_version("blingfire") if self.by == "sentence" else ""

    def _columns(self, label: str) -> dict[str, str]:
        columns = {column_of(label): "number"}
        return columns if self.by == "document" else {**columns, self._spans(label): "spans"}

    def _spans(self, label: str) -> str:
        return f"{column_of(label)}_{self.by}s"

    @property
    def COLUMNS(self) -> dict[str, str]:
        """Column -> kind."""
        every = [column for each in self.labels for column in self._columns(each).items()]
        return dict(sorted(every, key=lambda column: column[1]))  # numbers first

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
            made[self._spans(label)] = found
        return made

    def _scores(self, text: str) -> dict[str, float]:
        line = one_line(text, self.lower)
        path, sha256 = _local(self.model), self.model.sha256
        state = state_of(path)
        model = _model(path, state, sha256)
        for label in self.labels:
            if label not in labels_of(path, state):
                reason = _told(labels_of(path, state))
                raise MismatchedInputs(f"the label {label!r}", self.model.path, reason)
        if not line:
            return dict.fromkeys(self.labels, 0.0)
        labels, scores = model.predict(line, k=-1)
        found = dict(zip(labels, scores, strict=True))
        return {
            each: round(min(1.0, float(found.get(PREFIX + each, 0.0))), DECIMALS)
            for each in self.labels
        }


def _told(labels: frozenset[str]) -> str:
    return f"the model has {', '.join(sorted(labels))}"


def column_of(label: str) -> str:
    """The column of a label: lower case, with an underscore for what a name cannot hold."""
    return "".join(each if each.isalnum() else "_" for each in label.lower())


@cache
def _local(model: OutsideFile) -> str:
    return str(model.local())


@cache
def _model(path: str, state: State, sha256: str) -> Any:
    if sha256 and file_sha256(Path(path)) != sha256:
        raise CorruptShard(path, None, f"is not the model of SHA-256 {sha256[:12]}…")
    try:
        labels_of(path, state)
    except ValueError as error:
        raise CorruptShard(path, None, str(error)) from error
    try:
        import fasttext
    except ImportError as error:
        raise MissingDependency("fasttext-predict", "the tagger 'fasttext'") from error
    try:
        return fasttext.load_model(path)
    except (ValueError, RuntimeError) as error:
        raise CorruptShard(path, None, f"is no model of fastText ({error})") from error
