"""Near duplicates are those of datatrove itself: the same clusters where words are the same."""

import gzip
import itertools
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.duplicates.minhash import find_near_duplicates
from tests.data.conftest import column, make_documents
from tests.data.test_minhash import many_texts, words

SCRIPT = Path(__file__).with_name("datatrove_clusters.py")
pytestmark = pytest.mark.parity


def theirs(python, texts, folder, tokenizer):
    """The first document of each one's cluster, by datatrove."""
    source, target = folder / "texts.jsonl", folder / "clusters.json"
    source.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
    command = [python, SCRIPT, source, target, tokenizer]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    first, found = {}, []
    for place, cluster in enumerate(json.loads(target.read_text(encoding="utf-8"))):
        found.append(place if cluster < 0 else first.setdefault(cluster, place))
    return found


def ours(texts, folder):
    documents = make_documents(folder / "documents", [texts])
    return column(find_near_duplicates(documents, out=folder / "out"), "kept_place")


def read(paths, num, length):
    texts = []
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            texts += [json.loads(line)["text"][:length] for line in itertools.islice(lines, num)]
    return texts


def changed(words):
    """Every 60th word is another one."""
    return [word if n % 60 != 30 else f"{word}other" for n, word in enumerate(words)]


def test_clusters_of_made_up_families_are_equal(datatrove, tmp_path):
    texts = many_texts(400, np.random.default_rng(5))
    texts += [f"{text.upper()}, 12.5!" for text in texts[::7]]
    found = ours(texts, tmp_path)
    assert found == theirs(datatrove, texts, tmp_path, "split")
    assert 100 < sum(first != place for place, first in enumerate(found)) < len(texts) - 100


def test_clusters_of_real_documents_are_equal_where_words_are(datatrove, real_texts, tmp_path):
    texts = [" ".join(words(text)) for text in read(real_texts, 500, 4000)]
    assert len(texts) >= 2000
    assert ours(texts, tmp_path) == theirs(datatrove, texts, tmp_path, "split")


def test_what_is_removed_of_real_documents_is_nearly_what_datatrove_removes(
    datatrove, real_texts, tmp_path
):
    texts = read(real_texts, 100, 2000)
    texts += [" ".join(changed(text.split())) for text in texts]
    found, other = ours(texts, tmp_path), theirs(datatrove, texts, tmp_path, "spacy")
    removed = [{n for n, first in enumerate(each) if first != n} for each in (found, other)]
    print(len(texts), "documents;", *map(len, removed), "removed;", len(removed[0] & removed[1]))
    assert len(removed[0] & removed[1]) >= 0.95 * len(removed[0] | removed[1])
