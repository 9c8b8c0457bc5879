"""Shapes and recipes in which our training is held against that of ai2-olmo."""

from dataclasses import dataclass, replace

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

from pipeline.model.config import OlmoConfig
from pipeline.model.olmo import Olmo
from pipeline.train.config import AdamW, Cosine, Launch, Linear, TrainConfig
from pipeline.train.loop import Training, train
from pipeline.train.stages.objectives import NextToken

SHAPE = OlmoConfig(
    d_model=64, n_layers=3, n_heads=4, mlp_hidden_size=192, vocab_size=320, max_sequence_length=32
)
SHAPES = {
    "untied": SHAPE,
    "tied": replace(SHAPE, tie_embeddings=True),
    "clipped": replace(SHAPE, clip_qkv=0.5, n_layers=2, rope_theta=5000.0),
}
STEPS, ROWS, LENGTH = 6, 4, 32
GOLDEN = "ai2_olmo.json"


def their_name(name):
    """OLMo's name of one of our tensors."""
    ends = {"embed.weight": "wte.weight", "head.weight": "ff_out.weight"}
    return "transformer." + ends.get(name, name)


def ids_of(*shape):
    return torch.randint(0, SHAPE.vocab_size, shape, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Fixed:
    """The same batches for both."""

    ids: torch.Tensor

    def __call__(self):
        return self

    def at(self, step, rank=0, world_size=1):
        return {"input_ids": self.ids[step]}


class AllPositions(NextToken):
    """The loss over the reference's denominator: the first token counts, though it has no label."""

    def weight(self, batch):
        return batch["input_ids"].numel()


class Lagging(TrainConfig):
    """With the limits of the reference: those of the update before, and the plain one at first."""

    def norm_limit(self, update):
        return self.max_grad_norm if update == 1 else super().norm_limit(update - 1)


def trained(shape, config, objective, ids, root):
    """Rows of the history, and the weights after each update, under OLMo's names."""
    start = root / "start"
    start.mkdir()
    save_file(Olmo(shape, seed=1).state_dict(), start / "model.safetensors")
    made = train(
        Training(
            model=shape,
            objective=objective,
            batches=Fixed(ids),
            config=config,
            launch=Launch(threads=1, microbatch=2),
            series=root / "series" / ("ab" * 32),
            start=start,
        ),
        tokenizer="",
        out=root / "cache" / "view",
    )
    rows = pq.read_table(made.root / "history.parquet").to_pylist()
    weights = [load_file(made.folder(each) / "model.safetensors") for each in made.steps[1:]]
    named = [{their_name(k): v for k, v in each.items()} for each in weights]
    return rows, named


def recipe(schedule, **changes):
    return Lagging(
        batch_size=ROWS,
        schedule=schedule(peak_lr=3e-3, warmup_steps=2, total_steps=STEPS),
        optimizer=AdamW(),
        save_steps=1,
        max_grad_norm=0.5,
        **changes,
    )


RECIPES = {
    "untied": recipe(Linear, clip_warmup_steps=2, clip_warmup_factor=10.0),
    "tied": recipe(Cosine, z_loss=1e-4),
    "clipped": recipe(Linear, z_loss=1e-4),
}
