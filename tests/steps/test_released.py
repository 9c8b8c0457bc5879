"""The example of docs/released.md, over a folder that was made up."""

import json
import re
from pathlib import Path

import pytest

from pipeline.model.config import OlmoConfig
from pipeline.model.made_up import write_made_up_model
from pipeline.store.results import Results
from steps.cli.__main__ import main
from steps.cli.experiment import build_experiment
from tests.steps.conftest import Bench

PAGE = Path(__file__).parents[2] / "docs" / "released.md"
EXAMPLE = "released.jsonnet"


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A folder in which a reader has all that the page asks for."""
    bench = Bench(tmp_path)
    bench.run(["corpus", "quality", "kept", "tokenizer"])
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```jsonnet\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / EXAMPLE).write_text(example)
    write_made_up_model(tmp_path / "OLMo-1B-hf", OlmoConfig(32, 2, 2, 64, 280, 64))
    trained = bench.folder("tokenizer") / "tokenizer.json"
    (tmp_path / "OLMo-1B-hf" / "tokenizer.json").write_bytes(trained.read_bytes())
    (tmp_path / "heldout.jsonl").write_text(json.dumps({"id": "1", "text": "A lamp."}) + "\n")
    return tmp_path


def test_a_released_model_is_imported_and_scored_as_the_page_says(reader, capsys):
    assert main(["run", EXAMPLE, "-w", "w", "-s", "bits"]) == 0
    capsys.readouterr()
    assert main(["show", "bits", "-w", "w", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["scores"]
    assert {(row["model"], row["step"], row["task"]) for row in rows} == {("olmo", 0, "heldout")}
    model = Results(reader / "w").load(build_experiment(EXAMPLE)["olmo"].unique_id)
    assert {each.path for each in model.model_files} == {"config.json", "model.safetensors"}


def test_what_takes_checkpoints_refuses_a_released_model(reader, capsys):
    model, tokenizer = ({"type": "ref", "ref": name} for name in ("olmo", "tokenizer"))
    export = {"type": "export_hf", "checkpoints": model, "tokenizer": tokenizer}
    assert main(["plan", EXAMPLE, "-o", json.dumps({"steps.bits": export})]) == 1
    said = capsys.readouterr().err
    assert said.startswith("steps.bits.checkpoints is the step 'olmo', which makes HfModel; it mus")
