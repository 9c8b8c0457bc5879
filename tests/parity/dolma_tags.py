"""What dolma's taggers say of texts: run by the Python of an environment that has dolma 1.2.1.

    python dolma_tags.py texts.jsonl tags.jsonl TAGGER[=MODEL][@EXTENSION] …

A line of the first file is the JSON text of a document; the line of the second is an object from
tagger to an object from name to spans, or `null` for a tagger that failed. A tagger with a model
reads that file in the place of the one that it would download; one with an extension is told that
each document is a file of that name.
"""

import json
import sys
import warnings

import dolma.core.ft_tagger
from dolma.core.data_types import DocumentWithMetadata
from dolma.core.registry import TaggerRegistry


def main(source, target, *names):
    warnings.simplefilter("ignore")
    taggers = {}
    for each in names:
        rest, _, extension = each.partition("@")
        name, _, model = rest.partition("=")
        if model:
            dolma.core.ft_tagger.cached_path = lambda url, model=model: model
        taggers[name] = TaggerRegistry.get(name)(), {"ext": extension}
    with open(source, encoding="utf-8") as texts, open(target, "w", encoding="utf-8") as out:
        for line in texts:
            made, text = {}, json.loads(line)
            for name, (tagger, metadata) in taggers.items():
                document = DocumentWithMetadata(id="1", text=text, source="s", metadata=metadata)
                made[name] = tagged(tagger, document)
            out.write(json.dumps(made) + "\n")


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
