"""What dolma's taggers say of texts: run by the Python of an environment that has dolma 1.2.1.

    python dolma_tags.py texts.jsonl tags.jsonl

A line of the first file is the JSON text of a document; the line of the second is an object from
tagger to an object from name to spans, or `null` for a tagger that failed.
"""

import json
import sys

from dolma.core.data_types import Document
from dolma.core.registry import TaggerRegistry

TAGGERS = ("gopher_v1", "gopher_v2", "c4_v1", "c4_v2", "pii_regex_with_counts_fast_v2")
TAGGERS += ("code_redpajama_taggers_v1", "code_copyright_comments_v1")


def main(source, target):
    taggers = {name: TaggerRegistry.get(name)() for name in TAGGERS}
    with open(source, encoding="utf-8") as texts, open(target, "w", encoding="utf-8") as out:
        for line in texts:
            document = Document(id="1", text=json.loads(line), source="s")
            out.write(json.dumps({n: tagged(each, document) for n, each in taggers.items()}) + "\n")


def tagged(tagger, document):
    spans = {}
    try:
        for span in tagger.predict(document).spans:
            spans.setdefault(span.type, []).append([span.start, span.end, round(span.score, 5)])
    except Exception:
        return None
    return spans


if __name__ == "__main__":
    main(*sys.argv[1:])
