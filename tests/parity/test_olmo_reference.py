"""Model and recipe are those of ai2-olmo itself: logits, updates, schedules, start values."""

import json
import statistics
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.model.olmo import Olmo
from pipeline.train.config import Cosine, Linear
from pipeline.train.optimizer import make_optimizer
from pipeline.train.stages.objectives import NextToken
from tests.train.olmo_recipes import (
    GOLDEN,
    LENGTH,
    RECIPES,
    ROWS,
    SHAPE,
    SHAPES,
    STEPS,
    AllPositions,
    ids_of,
    their_name,
    trained,
)

SCRIPT = Path(__file__).with_name("olmo_reference.py")
pytestmark = pytest.mark.parity


def their_shape(config):
    """`ModelConfig` of configs/official/OLMo-7B.yaml, in this shape."""
    return {
        "d_model": config.d_model,
        "n_heads": config.n_heads,
        "n_layers": config.n_layers,
        "mlp_hidden_size": config.mlp_hidden_size,
        "vocab_size": config.vocab_size - 24,
        "embedding_size": config.vocab_size,
        "max_sequence_length": config.max_sequence_length,
        "weight_tying": config.tie_embeddings,
        "clip_qkv": config.clip_qkv,
        "rope": True,
        "rope_theta": int(config.rope_theta),
        "layer_norm_type": "default",
        "layer_norm_with_affine": False,
        "attention_layer_norm_with_affine": False,
        "bias_for_layer_norm": False,
        "include_bias": False,
        "attention_dropout": 0.0,
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
        "pad_token_id": 1,
        "eos_token_id": config.vocab_size - 25,
        "init_fn": "mitchell",
    }


@pytest.fixture(scope="module")
def reference(olmo, tmp_path_factory):
    """Give ai2-olmo a job and tensors; get tensors and what it told."""

    folder = tmp_path_factory.mktemp("reference")

    def do(job, **tensors):
        files = [folder / name for name in ("job.json", "given", "made")]
        files[0].write_text(json.dumps(job), encoding="utf-8")
        save_file(tensors, files[1])
        done = subprocess.run([olmo, SCRIPT, *files], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return load_file(files[2]), json.loads(done.stdout.splitlines()[-1])

    return do


def weights_of(model):
    return {their_name(name): each.clone() for name, each in model.state_dict().items()}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_logits_are_those_of_the_reference_in_fp32_and_near_them_in_bf16(reference, shape):
    model, ids = Olmo(shape, seed=1), ids_of(3, LENGTH)
    job = {"do": "logits", "model": their_shape(shape)}
    theirs, _ = reference(job, ids=ids, **weights_of(model))
    with torch.no_grad():
        plain = model.logits(model(ids))
        with torch.autocast("cpu", torch.bfloat16):
            half = model.logits(model(ids)).float()
    torch.testing.assert_close(plain, theirs["fp32"], rtol=0, atol=1e-5)
    # a logit has a spread of one, and a bfloat16 near it two decimal places
    assert (half - theirs["bf16"]).abs().max() < 0.1
    ours, reference_error = ((each - plain).square().mean() for each in (half, theirs["bf16"]))
    assert ours < 2 * reference_error


def groups_of(shape, config):
    """The decay of each group, and the tensors in it in their order, under OLMo's names."""
    model = Olmo(shape)
    named = {id(each): their_name(key) for key, each in model.named_parameters()}
    groups = make_optimizer(model, config.optimizer).param_groups
    return [[each["weight_decay"], [named[id(p)] for p in each["params"]]] for each in groups]


def their_recipe(config):
    name = type(config.schedule).__name__.lower()
    optimizer = config.optimizer
    return {
        "global_train_batch_size": config.batch_size,
        "device_train_microbatch_size": 2,
        "max_duration": config.schedule.total_steps,
        "max_grad_norm": config.max_grad_norm,
        "softmax_auxiliary_loss": config.z_loss > 0,
        "optimizer": {
            "name": "adamw",
            "learning_rate": config.schedule.peak_lr,
            "betas": list(optimizer.betas),
            "eps": optimizer.eps,
            "weight_decay": optimizer.weight_decay,
        },
        "scheduler": {
            "name": f"{name}_with_warmup",
            "t_warmup": config.schedule.warmup_steps,
            "alpha_f": config.schedule.final_fraction,
            "grad_clip_warmup_steps": config.clip_warmup_steps or None,
            "grad_clip_warmup_factor": config.clip_warmup_factor,
        },
    }


@pytest.fixture(scope="module")
def updates(reference):
    """By recipe: the weights after each update of the reference, and what it told."""
    made = {}
    for name, config in RECIPES.items():
        shape = SHAPES[name]
        job = {"do": "train", "model": their_shape(shape), "train": their_recipe(config)}
        weights = weights_of(Olmo(shape, seed=1))
        made[name] = reference(job, batches=ids_of(STEPS, ROWS, LENGTH), **weights)
    return made


@pytest.mark.parametrize("name", RECIPES)
def test_weights_after_every_update_are_those_of_the_reference(updates, tmp_path, name):
    shape, config = SHAPES[name], RECIPES[name]
    theirs, told = updates[name]
    objective, ids = AllPositions(config.z_loss), ids_of(STEPS, ROWS, LENGTH)
    rows, weights = trained(shape, config, objective, ids, tmp_path)
    assert groups_of(shape, config) == told["groups"]
    for row, other in zip(rows, told["rows"], strict=True):
        assert row["loss"] == pytest.approx(other["loss"] + other["z_loss"], rel=1e-6)
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-5)
        assert row["lr"] == pytest.approx(other["lr"], rel=1e-12)
    assert max(row["grad_norm"] for row in rows) > config.max_grad_norm
    for number, state in enumerate(weights, start=1):
        for key, each in state.items():
            torch.testing.assert_close(each, theirs[f"{number}.{key}"], rtol=0, atol=5e-6)


def test_the_golden_values_are_those_of_the_reference(updates, golden):
    made = {}
    for name, (weights, told) in updates.items():
        last = {
            key.removeprefix(f"{STEPS}."): each.norm().item()
            for key, each in sorted(weights.items())
            if key.startswith(f"{STEPS}.")
        }
        losses = [row["loss"] + row["z_loss"] for row in told["rows"]]
        norms = [row["grad_norm"] for row in told["rows"]]
        made[name] = {"losses": losses, "grad_norms": norms, "weight_norms": last}

    def same(old, new):
        return all(old[each] == pytest.approx(new[each], rel=1e-6) for each in new)

    assert golden.moved(GOLDEN, made, same) == []


def test_the_mean_is_over_labels_where_the_reference_counts_all_positions(reference, tmp_path):
    shape, ids = SHAPES["untied"], ids_of(1, ROWS, LENGTH)
    config = replace(RECIPES["clipped"], stop_at=1)
    job = {"do": "train", "model": their_shape(shape), "train": their_recipe(config)}
    _, told = reference(job, batches=ids, **weights_of(Olmo(shape, seed=1)))
    (row,), _ = trained(shape, config, NextToken(config.z_loss), ids, tmp_path)
    (other,) = told["rows"]
    labels = (LENGTH - 1) / LENGTH
    assert row["loss"] * labels == pytest.approx(other["loss"] + other["z_loss"], rel=1e-6)
    assert row["grad_norm"] * labels == pytest.approx(other["grad_norm"], rel=1e-5)


@pytest.mark.parametrize(("kind", "final"), [(Linear, 0.1), (Cosine, 0.1), (Cosine, 0.0)])
def test_every_rate_is_that_of_the_reference(reference, kind, final):
    cases = [(3e-4, 5000, 20_000), (4e-4, 0, 3000), (1.0, 1, 2)]
    job = {"do": "schedules", "schedules": []}
    for peak, warmup, total in cases:
        scheduler = {
            "name": f"{kind.__name__.lower()}_with_warmup",
            "t_warmup": warmup,
            "alpha_f": final,
        }
        updates = total + 100
        each = {"scheduler": scheduler, "peak": peak, "total": total, "updates": updates}
        job["schedules"].append(each)
    _, told = reference(job, none=torch.zeros(1))
    for (peak, warmup, total), theirs in zip(cases, told["rates"], strict=True):
        schedule = kind(peak, warmup, total, final)
        ours = [schedule(n) for n in range(1, total + 101)]
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-15)


def test_start_values_have_the_spread_of_the_reference(reference):
    shape = replace(SHAPE, d_model=128, mlp_hidden_size=512)
    seeds = 8
    job = {"do": "start", "model": their_shape(shape), "seeds": seeds}
    _, told = reference(job, none=torch.zeros(1))
    ours = {}
    for seed in range(seeds):
        for name, weight in Olmo(shape, seed=seed).named_parameters():
            ours.setdefault(their_name(name), []).append(weight.std().item())
    assert ours.keys() == told["spreads"].keys()
    for name, spreads in told["spreads"].items():
        theirs = statistics.mean(spreads)
        assert statistics.mean(ours[name]) == pytest.approx(theirs, rel=0.02), name
