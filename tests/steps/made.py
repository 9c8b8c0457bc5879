"""A small workspace: two sources, one linked result, a question set that is gone."""

from pathlib import Path

from steps.graph.wiring import build_steps
from steps.workspace import ResultWorkspace


def ref(name):
    return {"type": "ref", "ref": name}


def graph(folder):
    """An experiment over files that are written into `folder`."""
    sources = {}
    for name, licence in (("web", "ODC-BY"), ("books", "all rights\x1b[31m reserved")):
        path = Path(folder) / f"{name}.jsonl"
        rows = [f'{{"id": "{name}-{n}", "text": "{name} text {n}"}}\n' for n in range(4)]
        path.write_text("".join(rows))
        source = {"type": "jsonl", "path": str(path), "source": name, "licence": licence}
        sources[name] = {"type": "ingest", "source": {**source, "provenance": "made here"}}
    return {
        **sources,
        "both": {"type": "concat", "documents": [ref("web"), ref("books")]},
        "lengths": {"type": "tag", "documents": ref("both"), "taggers": ["lengths"]},
        "kept": {
            "type": "filter",
            "documents": ref("both"),
            "attributes": [ref("lengths")],
            "rules": [{"sample_by": "id", "from_fraction": 0, "to_fraction": 1, "seed": "x"}],
        },
        "tokenizer": {"type": "train_tokenizer", "documents": ref("kept"), "vocab_size": 300},
        "tokens": {"type": "tokenize", "documents": ref("kept"), "tokenizer": ref("tokenizer")},
    }


def run(experiment, folder, name="first"):
    """Make every result of an experiment in the workspace `folder`; gives the workspace."""
    workspace = ResultWorkspace(str(folder))
    steps = build_steps(experiment)
    workspace.register_run(steps.values(), name)
    for step in steps.values():
        step.result(workspace)
    return workspace
