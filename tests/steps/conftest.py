import json

import pytest

import steps  # noqa: F401  registers every step
from steps.graph.wiring import build_steps
from steps.workspace import ResultWorkspace
from tests.steps.lab import Lab, ref

TEXTS = [
    f"Document {n} tells of the {word} and of what came after it, {n} times over.\n" * (1 + n % 3)
    for n, word in enumerate(["sea", "hill", "road", "tower", "harbour", "orchard"] * 3)
]


class Bench:
    """A small graph from text to the order of training, and a workspace to run it in."""

    def __init__(self, root):
        self.root = root
        self.source = root / "source.jsonl"
        self.source.write_text(
            "".join(json.dumps({"id": f"d{n}", "text": t}) + "\n" for n, t in enumerate(TEXTS))
        )
        self.workspace = ResultWorkspace(str(root / "workspace"))
        self.results = self.workspace.results

    def config(self, at_least=20, shard_bytes=400):
        return {
            "corpus": {
                "type": "ingest",
                "source": {"type": "jsonl", "path": str(self.source), "source": "s"},
                "shard_bytes": shard_bytes,
            },
            "quality": {
                "type": "tag",
                "documents": ref("corpus"),
                "taggers": [{"type": "lengths"}],
            },
            "kept": {
                "type": "filter",
                "documents": ref("corpus"),
                "attributes": [ref("quality")],
                "rules": [{"attribute": "lengths.num_words", "at_least": at_least}],
            },
            "tokenizer": {"type": "train_tokenizer", "documents": ref("kept"), "vocab_size": 280},
            "tokens": {
                "type": "tokenize",
                "documents": ref("kept"),
                "tokenizer": ref("tokenizer"),
            },
            "mix": {"type": "mix", "tokens": {"a": ref("tokens")}, "sequence_length": 16},
            "order": {
                "type": "inspect_order",
                "mix": ref("mix"),
                "batch_size": 2,
                "seed": 1,
                "num_steps": 2,
            },
        }

    def steps(self, **changes):
        return build_steps(self.config(**changes))

    def run(self, names=None, **changes):
        """Run a graph, and give the content digest of each step's result."""
        built = self.steps(**changes)
        self.workspace.register_run(built.values(), "first")
        for name in names or built:
            built[name].result(self.workspace)
        return {n: self.results.load(s.unique_id).content for n, s in built.items() if not names}

    def folder(self, name, **changes):
        return self.results.folder(self.steps(**changes)[name].unique_id)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)
