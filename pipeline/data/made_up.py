"""Made-up text and records, the same on every machine: they stand in for data out of reach.

The text is English enough to pass quality rules, and differs enough that no two documents share 13
words by chance. Some records are what real data has and code breaks on: empty, very long, repeated,
in other scripts, with addresses of persons, or spelling a special token.
"""

from __future__ import annotations

import gzip
import random
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.data.document import json_text
from pipeline.data.sources.records import Conversations

SHARED = 6  # paragraphs that documents of every name may hold, so that overlaps are found
PERIOD = 32  # records until the kinds come again
_NOUNS = """archive baker bridge captain carpenter castle cellar child clerk cloud coast compass
council country crowd doctor engine evening farmer field fire forest friend garden gate glacier
hammer harbour harvest hill horse hospital island judge kitchen lamp lawyer letter library machine
map market meadow merchant messenger mill mirror mountain museum music neighbour novel number
orchard painter palace paper pilot planet poet problem queen question railway recipe river road
sailor school science season shadow shop signal singer soldier station storm story street student
summer surgeon teacher telescope theatre theory tower town traveller tree valley village voice
wagon wall watchmaker weather window winter witness writer""".split()
_VERBS = """accepted admired answered avoided borrowed built carried changed chose collected
compared copied counted crossed described discovered drew explained feared followed forgot found
guarded heard hid imagined improved kept learned left lost measured mended missed noticed opened
painted praised preferred promised questioned reached remembered repaired returned sold studied
taught understood visited watched wanted wrote""".split()
_ADJECTIVES = """ancient bitter brave bright broken busy calm careful clever cold common curious
deep distant early empty familiar famous foreign gentle golden green heavy honest hungry large late
lonely loud modest narrow new old ordinary patient plain polite quiet rare red remote rich rough
serious sharp short silent simple slow small soft solid strange strong sudden tall tired uncertain
useful warm wide wild wooden young""".split()
_ADVERBS = """again almost always carefully early easily finally gladly hardly later never often
once openly perhaps politely quickly rarely secretly seldom slowly soon sometimes still together
twice usually""".split()
_PLACES = """above the {n} across the {a} {n}|behind a {n}|beside the {n} of the {n}|below the {a}
{n}|between the {n} and the {n}|from the {n}|in the {a} {n}|near the {n}|on the way to the {n}|under
the {n}|with the {n} of a {n}|without a {n}""".replace("\n", " ").split("|")
_SENTENCES = """The {a} {n} {v} the {n} {p}.|In the {n}, a {n} {d} {v} the {a} {n}.|{d}, the {n} and
the {n} {v} a {n} {p}.|It was the {n} that {v} the {a} {n}, and the {n} {v} it {d}.|When the {n} {v}
the {n}, nobody {p} {v} the {a} {n}.|A {n} {p} {v} more than {k} of the {n}s that have been {a}.|Why
the {a} {n} {v} the {n} is not known to the {n} {p}.|There were {k} {a} {n}s, and with each of them
the {n} {d} {v} a {n}.|Although the {n} {v} the {a} {n}, the {n} {p} {d} {v} it.|"That {n} is {a},"
the {n} said to the {n}, "and the {n} {v} it {d}."|To be {a} is what the {n} {d} {v} {p}, but the
{n} {v} the {n}.|The {n}s of the {n} have {d} {v} the {a} {n}, which {v} a {n} {p}.""".replace(
    "\n", " "
).split("|")
_QUESTIONS = """What did the {a} {n} say of the {n} {p}?|Why is the {n} {a} when the {n} is not?|How
does a {n} learn from the {a} {n}?|Tell me in a few words about the {n} {p}.|Which of the {n} and
the {a} {n} is older?""".replace("\n", " ").split("|")
_PERSONAL = [
    "Write to {n}.{n}@example.org about the {n}.",
    "The number of the {n} is (555) 0{k}-0199 in the evening.",
    "The {n} answers at 192.0.2.{k} only.",
]
_SCRIPTS = (
    "Le garçon naïf préfère le café; der Müller hört Glück. Ελληνικά και δεν φτάνει. "
    "Это обычная строка. 漢字とかな。 नमस्ते दुनिया। שלום עולם. 👩\u200d🔬🏽 e\u0301 \u00a0 ﬁ."
)


class Writer:
    """Writes sentences and longer text; what it writes next follows from its name alone."""

    def __init__(self, *name: object) -> None:
        self.random = random.Random("\0".join(map(str, name)))

    def sentence(self, templates: Sequence[str] = _SENTENCES) -> str:
        """One sentence."""
        words = {
            "{n}": _NOUNS,
            "{v}": _VERBS,
            "{a}": _ADJECTIVES,
            "{d}": _ADVERBS,
            "{p}": _PLACES,
        }
        text = self.random.choice(templates)
        while "{" in text:
            place = text.index("{")
            slot = text[place : place + 3]
            word = (
                str(self.random.randrange(10, 99))
                if slot == "{k}"
                else self.random.choice(words[slot])
            )
            text = text[:place] + word + text[place + 3 :]
        return text[0].upper() + text[1:]

    def paragraph(self, num_sentences: int | None = None) -> str:
        """Some sentences."""
        count = num_sentences or self.random.randrange(2, 7)
        return " ".join(self.sentence() for _ in range(count))

    def text(self, num_paragraphs: int | None = None) -> str:
        """Some paragraphs."""
        count = num_paragraphs or self.random.randrange(2, 6)
        return "\n".join(self.paragraph() for _ in range(count)) + "\n"

    def question(self) -> str:
        """One question or request."""
        return self.sentence(_QUESTIONS)


def made_up_text(name: str, number: int) -> str:
    """The text of a record; every `PERIOD` records each of its kinds has come."""
    writer, kind = Writer(name, number), number % PERIOD
    shared = Writer("shared", writer.random.randrange(SHARED)).paragraph(6)
    special: dict[int, str] = {
        3: writer.text() + shared + "\n",
        7: writer.text() + " ".join(writer.sentence([each]) for each in _PERSONAL) + "\n",
        11: writer.sentence(),
        14: "".join(f"- {writer.sentence()}\n" for _ in range(8)),
        17: writer.text(20),
        20: writer.text(3) + _SCRIPTS + "\n",
        23: writer.text(2)
        + "It said <|endoftext|> and <|user|> in plain words.\n"
        + writer.text(2),
        26: "",
        29: writer.text(2) + "def twice(x):\n    return 2 * x  # {\r\n" + writer.text(2),
    }
    if kind == 5:
        return made_up_text(name, number - 1)  # an exact duplicate
    return special.get(kind) or ("" if kind in special else writer.text())


def made_up_records(
    name: str,
    numbers: Sequence[int],
    *,
    conversations: Conversations | None = None,
    fields: Mapping[str, str] | None = None,
    with_ids: bool = True,
    metadata: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """Records as a source of that format has them.

    Args:
        name: that of the source; other names give other text.
        fields: our field -> theirs, where the names differ.
        metadata: names of values that each record has, of about ten kinds each.
    """
    theirs = {each: each for each in ("id", "text", "metadata")} | dict(fields or {})
    for number in numbers:
        writer = Writer(name, number, "record")
        record: dict[str, Any] = {theirs["id"]: f"{name}-{number:06d}"} if with_ids else {}
        if conversations is None:
            record[theirs["text"]] = made_up_text(name, number)
        elif conversations == "messages":
            record["messages"] = _messages(writer, number % PERIOD)
        else:
            record |= _preference(writer, number % PERIOD)
        about = {each: f"{each}-{writer.random.randrange(10)}" for each in metadata}
        seen = number - 1 if number % PERIOD == 9 else number  # one page in 32 comes twice
        about["url"] = f"https://example.org/{name}/{seen}"
        record[theirs["metadata"]] = about
        yield record


def write_made_up(path: Path, records: Iterator[dict[str, Any]]) -> None:
    """Write records as `.jsonl.gz` or, by the name, as `.parquet`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(records)), path)
        return
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as file:
        for record in records:
            file.write((json_text(record) + "\n").encode())


def write_made_up_classifier(path: Path, labels: Sequence[str]) -> None:
    """A model of fastText that takes one adverb in eight for a sign of a label, or of `other`."""
    every = [*labels, "other"]
    size = len(every)
    words = {"</s>": [0.0] * (size - 1) + [4.0]}  # of text without such a word
    for number, word in enumerate(_ADVERBS[: 8 * size : 8]):
        words[word] = [20.0 * (number == place) for place in range(size)]
    outputs = [[float(row == column) for column in range(size)] for row in range(size)]
    write_fasttext(path, words, dict(zip(every, outputs, strict=True)))


def write_fasttext(
    path: Path, words: Mapping[str, Sequence[float]], labels: Mapping[str, Sequence[float]]
) -> None:
    """A classifier in fastText's own format, version 12: a softmax over labels, no word pairs.

    Args:
        words: the vector of each; `</s>` first, which stands in every text.
        labels: the vector of each, with or without `__label__`.
    """
    dim = len(next(iter(words.values())))
    entries = [(word, 0) for word in words]
    entries += [(f"__label__{each.removeprefix('__label__')}", 1) for each in labels]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(struct.pack("<ii", 793712314, 12))
        # dim, window, epochs, min count, negatives, n-grams, softmax, supervised, no buckets
        file.write(struct.pack("<12id", dim, 5, 5, 1, 5, 1, 3, 3, 0, 0, 0, 100, 1e-4))
        file.write(struct.pack("<iiiqq", len(entries), len(words), len(labels), 100, -1))
        for name, kind in entries:
            file.write(name.encode() + b"\0" + struct.pack("<qb", 10, kind))
        for rows in (words.values(), labels.values()):
            file.write(struct.pack("<?qq", False, len(rows), dim))
            for row in rows:
                file.write(struct.pack(f"<{dim}f", *row))


def _messages(writer: Writer, kind: int) -> list[dict[str, str]]:
    """A conversation: some with a system's message, some of several turns, one without answer."""
    said = [("system", writer.sentence())] if kind % 8 == 2 else []
    for _ in range(3 if kind % 8 == 4 else 1):
        answer = writer.paragraph(60 if kind == 17 else None)
        if kind == 20:
            answer = _SCRIPTS
        said += [("user", writer.question()), ("assistant", "" if kind == 26 else answer)]
    return [{"role": role, "content": content} for role, content in said]


def _preference(writer: Writer, kind: int) -> dict[str, Any]:
    """A prompt with a better and a worse answer, each as a conversation."""
    prompt = writer.question()
    chosen = writer.paragraph(60 if kind == 17 else None)
    words = chosen.split(" ")
    answers = {"chosen": chosen, "rejected": " ".join(words[: len(words) // 2])}
    if kind == 11:
        answers["rejected"] = answers["chosen"]
    sides = {
        side: [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
        for side, text in answers.items()
    }
    return {"prompt": prompt, **sides}
