"""Paragraphs of evaluation text are found where Dolma's own commands find them, as for Paloma.

Its runbook (allenai/dolma, configs/dolma-v1_5/decontamination): tag the evaluation text, cut out of
it what is short or all punctuation, fill a filter with the paragraphs that are left, and look for
each paragraph of the corpus in it.
"""

import gzip
import itertools
import json
import random

import pytest

from pipeline.data.decontamination.decontaminate import find_overlaps
from tests.data.conftest import column, make_documents
from tests.parity.test_dolma_tool import Tool, as_ours

pytestmark = pytest.mark.parity
WORDS, SIGNS = "uniseg_length_paragraphs_with_empty_v1", "not_alphanum_paragraph_v1"
PIECES = [
    *"ab1é中,.!?-_'\"€☀🙂🥰\u200d\u0301\u00a0\u3000\t\r\x85",
    " ",
    " ",
    "the ",
    "can't ",
    "3.14 ",
]


class Runbook(Tool):
    """The commands over evaluation text, and then over a corpus."""

    def fill(self):
        """The filter, of what the evaluation text has that counts."""
        for name in (WORDS, SIGNS):
            self.run("tag", experiment=name, taggers=[name])
        kept = self.root / "kept" / "documents"
        spans = [(WORDS, "negative_paragraph", -12), (SIGNS, "all_punct", 0.5)]
        stream = {
            "name": "kept",
            "documents": [f"{self.documents}/*.gz"],
            "attributes": [WORDS, SIGNS],
            "output": {"path": str(kept), "max_size_in_bytes": 1 << 30},
            "span_replacement": [
                {"span": f"$.attributes.{name}__{name}__{kind}", "min_score": s, "replacement": ""}
                for name, kind, s in spans
            ],
        }
        self.run("mix", streams=[stream])
        self.documents = kept
        return self._look(self.root / "filter", read_only=False)

    def marked(self, path):
        """The spans of each document that are in the filter, by its id."""
        self._look(path, read_only=True)
        rows = self.rows("attributes/decontamination")
        return {row["id"]: row["attributes"].get("found", []) for row in rows}

    def _look(self, path, read_only):
        bloom = {"file": str(path), "read_only": read_only}
        bloom |= {"estimated_doc_count": 1_000_000, "desired_false_positive_rate": 1e-9}
        what = {"name": "decontamination", "skip_empty": True}
        paragraphs = {"paragraphs": {"attribute_name": "found"}}
        self.run("dedupe", dedupe=what | paragraphs, bloom_filter=bloom)
        return path


def line(rng):
    return "".join(rng.choices(PIECES, k=rng.randint(0, 40)))


def changed(rng, text):
    """A paragraph as it is, or nearly."""
    return rng.choice([text, text, text.upper(), f"{text} ", f" {text}", text.replace(",", "")])


@pytest.mark.parametrize("kind", ["made up", "real"])
def test_the_same_paragraphs_are_contaminated(kind, dolma, request, tmp_path):
    rng = random.Random(8)
    if kind == "real":
        texts = []
        for path in request.getfixturevalue("real_texts"):
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                texts += [json.loads(each)["text"] for each in itertools.islice(lines, 150)]
    else:
        texts = ["\n".join(line(rng) for _ in range(rng.randint(0, 6))) for _ in range(2500)]
    evaluation, corpus = texts[::5], [text for n, text in enumerate(texts) if n % 5]
    planted = [each for text in evaluation for each in text.split("\n")]
    for place in range(0, len(corpus), 3):
        lines = [*corpus[place].split("\n"), changed(rng, rng.choice(planted))]
        rng.shuffle(lines)
        corpus[place] = "\n".join(lines)
    path = Runbook(dolma, tmp_path / "evaluation", evaluation).fill()
    theirs = Runbook(dolma, tmp_path / "corpus", corpus).marked(path)
    ours = find_overlaps(
        make_documents(tmp_path / "d", [corpus]),
        make_documents(tmp_path / "e", [evaluation]),
        out=tmp_path / "o",
    )
    found = 0
    for place, (text, spans) in enumerate(zip(corpus, column(ours, "paragraphs"), strict=True)):
        marked = theirs[f"{place // 500}-{place % 500}"]
        assert [(each["start"], each["end"]) for each in spans] == [
            as_ours(text, *each[:2]) for each in marked
        ], text
        found += len(spans)
    assert found > 100
