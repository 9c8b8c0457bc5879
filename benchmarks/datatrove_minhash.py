"""datatrove's MinHash over a folder of JSONL, for `bench_dedup.py`; run by a Python that has it."""

import sys

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupSignature,
)
from datatrove.pipeline.readers import JsonlReader


def main(source, out, workers):
    config = MinhashConfig()

    def run(step, tasks, *before):
        name = type(step).__name__
        LocalPipelineExecutor(
            [*before, step], tasks=tasks, workers=workers, logging_dir=f"{out}/logs/{name}"
        ).run()

    reader = JsonlReader(source)
    run(MinhashDedupSignature(f"{out}/signatures", config), workers, reader)
    bands = MinhashDedupBuckets(f"{out}/signatures", f"{out}/pairs", config=config)
    run(bands, config.num_buckets)
    run(MinhashDedupCluster(f"{out}/pairs", f"{out}/clusters", config), 1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
