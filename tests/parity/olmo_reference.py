"""What ai2-olmo's own model and trainer make of given weights: run by a Python that has it (0.6.0).

    python olmo_reference.py job.json given.safetensors made.safetensors

The job names what is done and holds the values of `ModelConfig` and `TrainConfig`; tensors come and
go under OLMo's names. Nothing of ours is imported.

logits     of `ids`, in fp32 and under CPU autocast to bf16
train      as many calls of `Trainer.train_step` as `batches` has rows of instances: the weights
           after each, and for each its loss, z-loss, learning rate and gradient norm
schedules  the rate at each of `updates` of each schedule
start      the standard deviation of each matrix as it is drawn, by seed
"""

import json
import sys
from types import SimpleNamespace

import torch
from olmo.config import ModelConfig, OptimizerConfig, SchedulerConfig, TrainConfig
from olmo.model import OLMo
from olmo.optim import build_optimizer, build_scheduler
from olmo.train import Trainer
from safetensors.torch import load_file, save_file


def model_of(job, given=None):
    model = OLMo(ModelConfig(**job["model"], init_device="cpu"))
    if given is not None:
        model.load_state_dict({k: v for k, v in given.items() if k.startswith("transformer.")})
    return model


def logits(job, given):
    model = model_of(job, given).eval()
    with torch.no_grad():
        plain = model(given["ids"]).logits
        with torch.autocast("cpu", torch.bfloat16):
            half = model(given["ids"]).logits
    return {"fp32": plain, "bf16": half.float()}, {}


def train(job, given):
    values = dict(job["train"])
    config = TrainConfig(
        model=ModelConfig(**job["model"]),
        optimizer=OptimizerConfig(**values.pop("optimizer")),
        scheduler=SchedulerConfig(**values.pop("scheduler")),
        precision="fp32",
        **values,
    )
    model = model_of(job, given)

    def whole(**batch):
        return model(**batch)

    whole.process_group = None  # what else the trainer asks of a model that is spread over ranks
    optimizer = build_optimizer(config, model)
    trainer = Trainer(
        cfg=config,
        model=model,
        dist_model=whole,
        optim=optimizer,
        scheduler=build_scheduler(config),
        train_loader=SimpleNamespace(),
        device=torch.device("cpu"),
        evaluators=[],
    )
    made, rows = {}, []
    for number, ids in enumerate(given["batches"], start=1):
        trainer.global_step += 1  # as `Trainer.fit` does before a step
        metrics = trainer.train_step({"input_ids": ids}, reduce_global_loss=False)
        rows.append(
            {
                "loss": metrics["train/CrossEntropyLoss"],
                "z_loss": metrics.get("train/ZLoss", 0.0),
                "lr": optimizer.param_groups[0]["lr"],
                "grad_norm": metrics["optim/total_grad_norm"],
            }
        )
        made |= {f"{number}.{name}": each.clone() for name, each in model.state_dict().items()}
    groups = [[group["weight_decay"], group["param_names"]] for group in optimizer.param_groups]
    return made, {"rows": rows, "groups": groups}


def schedules(job, given):
    rates = []
    for each in job["schedules"]:
        scheduler = build_scheduler(SimpleNamespace(), SchedulerConfig(**each["scheduler"]))
        updates = range(1, each["updates"] + 1)
        rates.append([scheduler.get_lr(each["peak"], n, each["total"]) for n in updates])
    return {}, {"rates": rates}


def start(job, given):
    spreads = {}
    for seed in range(job["seeds"]):
        torch.manual_seed(seed)
        for name, weight in model_of(job).named_parameters():
            spreads.setdefault(name, []).append(weight.std().item())
    return {}, {"spreads": spreads}


def main(job_file, given_file, made_file):
    with open(job_file, encoding="utf-8") as lines:
        job = json.load(lines)
    does = {"logits": logits, "train": train, "schedules": schedules, "start": start}[job["do"]]
    made, told = does(job, load_file(given_file))
    save_file({name: each.contiguous() for name, each in made.items()}, made_file)
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
