"""Which documents datatrove clusters: run by the Python of an environment that has it (0.10.1).

    python datatrove_clusters.py texts.jsonl clusters.json spacy|split

A line of the first file is the JSON text of a document; the second is a list with the cluster of
each document, or -1 of one that is alone. `split` puts white space in the place of its tokenizer.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupSignature,
)


class Split:
    def word_tokenize(self, text):
        return text.split()


def main(source, target, words):
    with open(source, encoding="utf-8") as lines:
        texts = [json.loads(line) for line in lines]
    documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]
    config = MinhashConfig()
    with tempfile.TemporaryDirectory() as name:
        sign = MinhashDedupSignature(f"{name}/signatures", config)
        if words == "split":
            sign.word_tokenizer = Split()
        sign.run(iter(documents), 0, 1)
        bands = MinhashDedupBuckets(f"{name}/signatures", f"{name}/pairs", config=config)
        for band in range(config.num_buckets):
            bands.run(None, band, config.num_buckets)
        MinhashDedupCluster(f"{name}/pairs", f"{name}/found", config, save_cluster_id=True).run()
        found = np.full(len(texts), -1)
        for path in Path(name, "found").glob("*.clusters"):
            places, clusters = np.fromfile(path, "<u4").reshape(-1, 2).T
            found[places] = clusters
    Path(target).write_text(json.dumps(found.tolist()), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
