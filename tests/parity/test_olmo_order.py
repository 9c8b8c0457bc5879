"""What ai2-olmo's own data set and iterator read, of the same files, is what our orders read: the
one made of its seed, and the one in the index file that it writes.

Shards are files of raw ids, as `import_tokens` copies them.
"""

import json
import subprocess

import numpy as np
import pytest

from pipeline.tokens.mixing import mix_tokens
from pipeline.tokens.olmo_indices import OlmoReplay, import_order
from pipeline.tokens.olmo_order import OlmoShuffle
from pipeline.tokens.order import TokenBatches
from tests.tokens.test_mixing import write_tokens

pytestmark = pytest.mark.parity

LENGTH, BATCH, SEED = 8, 8, 6198
SCRIPT = """
import json, sys
from olmo.data.iterable_dataset import IterableDataset
from olmo.data.memmap_dataset import MemMapDataset
job = json.loads(sys.argv[1])
data = MemMapDataset(*job["paths"], chunk_size=job["length"], include_instance_metadata=False)
rows = IterableDataset(
    data, job["batch"], seed=job["seed"], epoch=job["epoch"], drop_last=True,
    world_size=job["world"], rank=job["rank"], fs_local_rank=job["rank"], work_dir=job["work"],
)
print(json.dumps([row["input_ids"].tolist() for row in rows]))
"""


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("epoch", [0, 1])
def test_each_rank_reads_the_rows_of_the_reference(olmo, tmp_path, world, epoch):
    rng = np.random.default_rng(3)
    shards = [[rng.integers(1, 99, size).tolist()] for size in (203, 5, 310, 96, 77)]
    tokens = write_tokens(tmp_path / "tokens", shards)
    mix = mix_tokens({"all": tokens}, sequence_length=LENGTH, out=tmp_path / "mix")
    batches = TokenBatches(mix, BATCH, 1, OlmoShuffle(SEED))
    assert batches.reader.num_instances == 25 + 0 + 38 + 12 + 9
    num_steps = batches.order.num_instances // BATCH
    job = {"length": LENGTH, "batch": BATCH, "seed": SEED, "epoch": epoch, "world": world}
    job["paths"] = [str(tokens.root / shard.path) for shard in tokens.shards]
    for rank in range(world):
        job |= {"rank": rank, "work": str(tmp_path / "work")}
        if rank:  # the first rank writes the index file, which the others read
            assert (tmp_path / "work" / "global_indices.npy").exists()
        done = subprocess.run([olmo, "-c", SCRIPT, json.dumps(job)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        theirs = json.loads(done.stdout.splitlines()[-1])
        steps = range(epoch * num_steps, (epoch + 1) * num_steps)
        ours = [batches.at(step, rank, world)["input_ids"] for step in steps]
        assert np.concatenate(ours).tolist() == theirs[: num_steps * BATCH // world]
        written = import_order(tmp_path / "work" / "global_indices.npy", out=tmp_path / "order")
        assert written.num_instances == 84 // world * world
        replay = TokenBatches(mix, BATCH, 1, OlmoReplay(written))
        replayed = [replay.at(step, rank, world)["input_ids"] for step in range(num_steps)]
        assert np.array_equal(replayed, ours)
