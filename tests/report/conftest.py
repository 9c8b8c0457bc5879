"""Made-up results of a small run, written as the stages write them."""

import math
import random

import pyarrow as pa
import pytest

from pipeline.core.artifacts import (
    Attributes,
    AttributeTable,
    Checkpoint,
    Checkpoints,
    Documents,
    Generations,
    Scores,
    SourceCount,
    Tokens,
    checkpoint_name,
)
from pipeline.core.files import StoredFile, write_json
from pipeline.core.shards import write_shard
from pipeline.data.filtering import REMOVED_SCHEMA

EVIL = "<script>alert('x')</script> & \"quoted\""
MODEL = {
    "d_model": 128,
    "n_layers": 4,
    "n_heads": 4,
    "mlp_hidden_size": 1024,
    "vocab_size": 2048,
    "max_sequence_length": 256,
    "rope_theta": 10000.0,
    "tie_embeddings": False,
    "clip_qkv": None,
}
SCORE_ROWS = pa.schema(
    [
        ("model", pa.string()),
        ("step", pa.int64()),
        ("task", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("unit", pa.string()),
        ("num_items", pa.int64()),
        ("standard_error", pa.float64()),
    ]
)
ANSWER_ROWS = pa.schema(
    [
        ("model", pa.string()),
        ("step", pa.int64()),
        ("task", pa.string()),
        ("id", pa.string()),
        ("value", pa.float64()),
    ]
)
TEXT_ROWS = ANSWER_ROWS.append(pa.field("num_bytes", pa.int64()))
PAIR_ROWS = ANSWER_ROWS.append(pa.field("margin", pa.float64()))
CHOICE_ROWS = ANSWER_ROWS.append(pa.field("logprobs", pa.list_(pa.float64())))


def as_table(rows, schema):
    return pa.Table.from_pylist(rows, schema=schema)


def make_documents(root, sources, removed=()):
    counts = [SourceCount(n, lic, prov, d, b) for n, lic, prov, d, b in sources]
    documents = Documents.of(
        root,
        num_documents=sum(c.num_documents for c in counts),
        num_text_bytes=sum(c.num_text_bytes for c in counts),
        sources=counts,
        shards=[],
    )
    return documents


def make_training(root, objective, num_steps, start, end, seed=0):
    rng = random.Random(seed)
    root.mkdir(parents=True)
    rows = []
    for step in range(1, num_steps + 1):
        loss = end + (start - end) * math.exp(-5 * step / num_steps) + rng.gauss(0, 0.04)
        rows.append(
            {
                "step": step,
                "loss": loss,
                "lr": 4e-3 * step / num_steps,
                "grad_norm": 1.0,
                "num_tokens_read": step * 4096,
                "num_tokens_learned": step * 4080,
            }
        )
    shard = write_shard(root, "history.parquet", pa.Table.from_pylist(rows), _schema(rows))
    return Checkpoints.of(
        root,
        series="0" * 64,
        model=MODEL,
        tokenizer="t" * 64,
        objective=objective,
        steps=[
            Checkpoint(
                checkpoint_name(num_steps), num_steps, num_steps * 4096, num_steps * 4080, "w" * 64
            )
        ],
        history=StoredFile(shard.path, shard.num_bytes, shard.content, shard.sha256),
    )


def _schema(rows):
    return pa.Table.from_pylist(rows).schema


def make_scores(root, kind, score_rows, answer_rows, schema=ANSWER_ROWS):
    answers = write_shard(root, "answers.parquet", as_table(answer_rows, schema), schema)
    scores = write_shard(root, "scores.parquet", as_table(score_rows, SCORE_ROWS), SCORE_ROWS)
    return Scores.of(root, kind=kind, answers=answers, scores=scores)


def score(model, step, task, metric, value, unit="", num_items=400, standard_error=0.01):
    return {
        "model": model,
        "step": step,
        "task": task,
        "metric": metric,
        "value": value,
        "unit": unit,
        "num_items": num_items,
        "standard_error": standard_error,
    }


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """Arguments of `write_report`, but for `out`."""
    return make_inputs(tmp_path_factory.mktemp("workspace"))


def make_inputs(root):
    cache = root / "cache"
    rng = random.Random(0)
    licence, provenance = "PSF-2.0", "/usr/lib/python3.11, the standard library's own documentation"
    raw = make_documents(
        cache / "Ingest-001-aa",
        [
            ("python-code", "PSF-2.0 and the licences of its parts", provenance, 1810, 31_418_000),
            (EVIL, licence, "https://example.org/" + "long" * 60, 12, 90_100),
        ],
    )
    kept = make_documents(
        cache / "Filter-002-bb", [("python-code", licence, provenance, 1402, 22_514_000)]
    )
    make_funnel(cache / "Filter-002-bb")
    tokens = Tokens.of(
        cache / "Tokenize-001-cc",
        tokenizer="t" * 64,
        dtype="uint16",
        vocab_size=2048,
        end_id=0,
        num_tokens=8_123_456,
        num_documents=1402,
        sources={"python-code": 8_000_000, EVIL: 123_456},
        shards=[],
    )
    training = {
        "base": make_training(cache / "Pretrain-001-d1", "next_token", 400, 7.6, 2.6),
        "dpo": make_training(cache / "Dpo-001-d3", "dpo", 100, 0.693, 0.55),
        "sft": make_training(cache / "Sft-001-d2", "masked", 200, 2.9, 1.4),
    }
    domains = [
        score("base", step, task, metric, value, "bits", 60, 0.02)
        for task, end in (("code", 1.1), ("documentation", 1.6), (EVIL, 1.9))
        for step in (100, 200, 300, 400)
        for metric, value in (
            ("bits_per_byte", end + 100 / step),
            ("perplexity", 2 ** (end + 100 / step)),
        )
    ]
    ids = [str(i) for i in range(200)]
    hard = {id: rng.gauss(1.5, 0.5) for id in ids}
    sizes = {id: rng.randint(20, 200) for id in ids}
    answer_rows, answer_scores, pair_rows, pair_scores = [], [], [], []
    for model, step, gain, preferred in (
        ("base", 400, 0.0, 0.5),
        ("sft", 200, 0.4, 0.55),
        ("dpo", 100, 0.401, 0.8),
    ):
        values = [hard[id] - gain + rng.gauss(0, 0.1) for id in ids]
        nats = sum(v * sizes[id] for id, v in zip(ids, values, strict=True))
        mean = nats / sum(sizes.values())
        answer_scores += [
            score(model, step, "functions", "bits_per_byte", mean, "bits per byte", 200),
            score(model, step, "functions", "num_bytes", 12345.0, "bytes", 200, 0.0),
        ]
        for id, value in zip(ids, values, strict=True):
            row = {"model": model, "step": step, "task": "functions", "id": id, "value": value}
            answer_rows.append({**row, "num_bytes": sizes[id]})
        wins = [float(rng.random() < preferred) for _ in ids]
        share = sum(wins) / len(wins)
        pair_scores += [
            score(model, step, "pairs", "preferred_per_byte", share, "fraction"),
            score(model, step, "pairs", "margin_per_byte", share - 0.5, "nats per byte"),
        ]
        for id, value in zip(ids, wins, strict=True):
            row = {"model": model, "step": step, "task": "pairs", "id": id, "value": value}
            pair_rows.append({**row, "margin": value - 0.5})
    choices, choice_scores = [], []
    for model, step, accuracy in (("base", 400, 0.26), ("sft", 200, 0.41), ("dpo", 100, 0.40)):
        for task in ("functions", EVIL):
            error = math.sqrt(accuracy * (1 - accuracy) / 400)
            choice_scores += [
                score(model, step, task, "accuracy", accuracy, "fraction", 400, error),
                score(model, step, task, "accuracy_raw", accuracy, "fraction", 400, error),
                score(model, step, task, "chance", 0.25, "fraction", 400, 0.0),
            ]
            for id in ids[:4]:
                choices.append(
                    {
                        "model": model,
                        "step": step,
                        "task": task,
                        "id": id,
                        "value": 1.0,
                        "logprobs": [-1.0, -2.0, -3.0, -4.0],
                    }
                )
    schema = pa.schema([("num_overlaps", pa.int64()), ("overlap_fraction", pa.float64())])
    overlap_root = cache / "Decontaminate-001-ff"
    rows = pa.table(
        {"num_overlaps": [0, 2, 0, 0], "overlap_fraction": [0.0, 0.25, 0.0, 0.0]}, schema
    )
    shard = write_shard(overlap_root, "decontamination/00000.parquet", rows, schema)
    columns = {"num_overlaps": "number", "overlap_fraction": "number"}
    attributes = Attributes.of(
        overlap_root,
        describes=kept.content,
        tables=[AttributeTable("decontamination", columns, [shard])],
    )
    return {
        "title": f"The tiny run {EVIL}",
        "corpus": {"code": raw, "code kept": kept},
        "tokens": {"code": tokens},
        "training": training,
        "scores": {
            "held-out text": make_scores(
                cache / "Perplexity-001-e1",
                "perplexity",
                domains,
                [{"model": "base", "step": 400, "task": "code", "id": "0", "value": 1.0}],
            ),
            "held-out answers": make_scores(
                cache / "AnswerScores-001-e2", "perplexity", answer_scores, answer_rows, TEXT_ROWS
            ),
            "held-out pairs": make_scores(
                cache / "PairScores-001-e3", "rank", pair_scores, pair_rows, PAIR_ROWS
            ),
            "held-out functions": make_scores(
                cache / "RankEval-001-e4", "rank", choice_scores, choices, CHOICE_ROWS
            ),
        },
        "overlaps": {
            f"code with {EVIL}": attributes,
            "code kept with held-out functions": attributes,
        },
        "generations": make_generations(cache / "Generate-001-gg"),
    }


def make_funnel(root):
    rules = [
        {
            "rule": "gopher.num_words between 50 and 100000",
            "num_removed_first": 312,
            "num_removed_alone": 250,
        },
        {"rule": "duplicates.document = 0", "num_removed_first": 108, "num_removed_alone": 80},
        {"rule": EVIL, "num_changed": 7},
    ]
    write_json(root / "funnel.json", {"num_documents": 1822, "num_kept": 1402, "rules": rules})
    rows = [
        {"id": f"{i}.py", "source": EVIL, "rule": "gopher.num_words", "value": "1", "text": "x = 1"}
        for i in range(50)
    ]
    rows.append({"id": EVIL, "source": "s", "rule": EVIL, "value": None, "text": EVIL * 200})
    write_shard(root, "removed.parquet", as_table(rows, REMOVED_SCHEMA), REMOVED_SCHEMA)


def make_generations(root):
    schema = pa.schema(
        [
            ("checkpoint", pa.string()),
            ("prompt", pa.string()),
            ("text", pa.string()),
            ("tokens", pa.list_(pa.int32())),
            ("seed", pa.int64()),
        ]
    )
    prompt = "<|user|>\nWhat does this do?\n\ndef add(a, b):\n    return a + b\n<|assistant|>\n"
    rows = {
        "checkpoint": ["step000100"] * 2,
        "prompt": [prompt, prompt.replace("add", "close")],
        "text": ["Return the sum of a and b.", EVIL + "\x00\x1b[31m long" + "word" * 100],
        "tokens": [[1, 2], [3]],
        "seed": [0, 0],
    }
    shard = write_shard(root, "generations.parquet", rows, schema)
    settings = {"temperature": 0.0, "max_new_tokens": 64, "note": EVIL}
    return Generations.of(root, settings=settings, shards=[shard])
