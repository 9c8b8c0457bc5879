"""Training steps of others, one at a time, for `bench_pretraining_cpu.py`; imports nothing of ours.

    python benchmarks/pretraining_peers.py transformers|olmo[-compiled|-tuned] '{"width": 256, …}'

Each line read is a step to make; each line written says the seconds that it took and its loss.
Batches are random ids, another for each step, and the same for everybody.
"""

import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path

import torch


def batch(shape, step):
    generator = torch.Generator().manual_seed(step)
    return torch.randint(shape["vocabulary"], (shape["rows"], shape["length"]), generator=generator)


def say(**row):
    print(json.dumps(row), flush=True)


def peak_mb():
    """The process at its highest, resident."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def serve(step):
    """Make a step for each line read."""
    for number, _ in enumerate(sys.stdin):
        started = time.perf_counter()
        loss = step(number)
        say(seconds=time.perf_counter() - started, loss=float(loss), peak_mb=peak_mb())


class _Rows(torch.utils.data.Dataset):
    def __init__(self, shape):
        self.shape = shape

    def __len__(self):
        return 1_000_000

    def __getitem__(self, place):
        step, row = divmod(place, self.shape["rows"])
        ids = batch(self.shape, step)[row]
        return {"input_ids": ids, "labels": ids}


def transformers(shape, compiled):
    """`Trainer.train` with OlmoForCausalLM, `sdpa`, fused AdamW."""
    from torch.utils.data import SequentialSampler
    from transformers import (
        OlmoConfig,
        OlmoForCausalLM,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    class InOrder(Trainer):
        def _get_train_sampler(self, *_):
            return SequentialSampler(self.train_dataset)

        def training_step(self, *given):
            found = super().training_step(*given)
            self.last_loss = found.detach()
            return found

    class Waiting(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if not sys.stdin.readline():
                control.should_training_stop = True
            self.started = time.perf_counter()

        def on_step_end(self, args, state, control, **_):
            seconds = time.perf_counter() - self.started
            say(seconds=seconds, loss=float(trainer.last_loss), peak_mb=peak_mb())

    config = OlmoConfig(
        hidden_size=shape["width"],
        intermediate_size=shape["inner"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        vocab_size=shape["vocabulary"],
        max_position_embeddings=shape["length"],
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation="sdpa",
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = InOrder(
            OlmoForCausalLM(config),
            TrainingArguments(
                folder,
                per_device_train_batch_size=shape["rows"],
                max_steps=100_000,
                learning_rate=1e-3,
                adam_beta2=0.95,
                adam_epsilon=1e-5,
                weight_decay=0.1,
                optim="adamw_torch_fused",
                bf16=shape["precision"] == "bf16",
                use_cpu=True,
                torch_compile=compiled,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=_Rows(shape),
            callbacks=[Waiting()],
        )
        trainer.train()


def olmo(shape, compiled):
    """`Trainer.train_step` of ai2-olmo; its autocast is for cards, so bf16 is put around it."""
    from olmo.config import (
        ActivationType,
        LayerNormType,
        ModelConfig,
        OptimizerConfig,
        SchedulerConfig,
        TrainConfig,
    )
    from olmo.model import OLMo
    from olmo.optim import build_optimizer, build_scheduler
    from olmo.train import Trainer, cross_entropy_loss

    config = TrainConfig(
        model=ModelConfig(
            d_model=shape["width"],
            n_layers=shape["layers"],
            n_heads=shape["heads"],
            mlp_hidden_size=2 * shape["inner"],
            vocab_size=shape["vocabulary"],
            embedding_size=shape["vocabulary"],
            max_sequence_length=shape["length"],
            layer_norm_type=LayerNormType.default,
            layer_norm_with_affine=False,
            bias_for_layer_norm=False,
            attention_layer_norm_with_affine=False,
            include_bias=False,
            activation_type=ActivationType.swiglu,
            rope=True,
            weight_tying=False,
            attention_dropout=0.0,
            residual_dropout=0.0,
            embedding_dropout=0.0,
            init_device="cpu",
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.1, betas=(0.9, 0.95)),
        scheduler=SchedulerConfig(t_warmup=10, t_max=100_000),
        max_grad_norm=1.0,
        max_duration=100_000,
        global_train_batch_size=shape["rows"],
        device_train_microbatch_size=shape["rows"],
        device_train_batch_size=shape["rows"],
        precision="amp_bf16",
    )
    model = OLMo(config.model)
    if compiled:  # as `compile` of its 7B recipe has it
        for block in model.transformer.blocks:
            block.compile()
    trainer = object.__new__(Trainer)  # whose `fit` wants a process group, a loader and evaluators
    trainer.cfg, trainer.model, trainer.dist_model = config, model, model
    model.process_group = None
    trainer.optim = build_optimizer(config, model)
    trainer.scheduler = build_scheduler(config)
    trainer.device, trainer.indices_file, trainer.loss_fn = "cpu", None, cross_entropy_loss
    trainer._device = torch.device("cpu")
    trainer.min_train_loss, trainer.global_step = float("inf"), 0
    trainer.should_log_optim_metrics_this_step = lambda: False

    def step(number):
        trainer.global_step += 1
        half = shape["precision"] == "bf16"
        with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
            found = trainer.train_step({"input_ids": batch(shape, number)}, False)
        return found["train/CrossEntropyLoss"]

    serve(step)


if __name__ == "__main__":
    torch.set_num_threads(2)
    peer, _, how = sys.argv[1].partition("-")
    {"transformers": transformers, "olmo": olmo}[peer](json.loads(sys.argv[2]), bool(how))
