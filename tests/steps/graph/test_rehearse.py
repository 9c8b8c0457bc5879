"""The command, from an experiment file to its table."""

import gc
import json
from pathlib import Path

import pytest

from pipeline.core.errors import Unavailable
from steps.cli.__main__ import main
from tests.steps.fakes import EXPERIMENTS, Nothing

SMALL = {
    "text": {
        "type": "ingest",
        "source": {
            "type": "jsonl",
            "path": "https://x.org/a.jsonl",
            "source": "x",
            "revision": "1",
        },
    },
    "lengths": {"type": "tag", "documents": {"type": "ref", "ref": "text"}, "taggers": ["lengths"]},
}


@pytest.fixture
def rehearse(tmp_path, monkeypatch):
    monkeypatch.setattr("steps.graph.stand_in.Reach", Nothing)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(config, *options):
        Path("x.json").write_text(json.dumps({"steps": config}))
        return main(["rehearse", "x.json", *options])

    yield run
    gc.collect()  # Tango leaves its log's file and socket to the collector, which warns


LEAKS = pytest.mark.filterwarnings("ignore:Exception ignored in")


@LEAKS
def test_a_graph_is_run_and_told_step_by_step(rehearse, capsys):
    assert rehearse(SMALL, "--stand-in", "-w", "scratch") == 0
    said = capsys.readouterr().out
    assert "2 steps" in said and "2 ok" in said and "Made up: text." in said
    assert (Path("scratch") / "rehearsal.json").is_file()
    assert rehearse(SMALL, "--stand-in", "-w", "scratch") == 0
    assert "2 cached" in capsys.readouterr().out


@LEAKS
def test_a_failed_step_is_told_and_its_workspace_is_kept(rehearse, capsys):
    Path("bad.jsonl").write_text("{\n")
    assert rehearse(SMALL, "--source", "text=bad.jsonl") == 1
    said = capsys.readouterr().out
    assert "1 failed, 1 not run" in said
    scratch = Path(said.rsplit("with -w: ", 1)[1].strip())
    assert (scratch / "rehearsal.json").is_file()


def test_what_is_out_of_reach_stops_a_rehearsal_before_it_begins(rehearse, capsys, tmp_path):
    assert rehearse(SMALL) == 2
    said = capsys.readouterr()
    assert "--source text=FILE.jsonl" in said.err and said.out == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--source", "text"], "must be NAME=PATH"),
        (["--documents", "0"], "--documents is 0"),
        (["-w", "full"], "holds something else"),
    ],
)
def test_a_wrong_option_is_told_in_a_line(rehearse, capsys, options, message):
    Path("full").mkdir()
    (Path("full") / "cache").mkdir()
    assert rehearse(SMALL, *options) == 1
    assert message in capsys.readouterr().err
    assert [each.name for each in Path("full").iterdir()] == ["cache"]


@pytest.mark.slow
@LEAKS
def test_the_published_7b_is_rehearsed_to_its_report_without_a_network(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("steps.graph.stand_in.Reach", Nothing)
    monkeypatch.setattr("pipeline.eval.benchmarks._download", _refuse)
    experiment = str(EXPERIMENTS / "olmo7b.jsonnet")
    assert main(["rehearse", experiment, "--stand-in", "-w", str(tmp_path / "scratch")]) == 0
    assert "104 ok" in capsys.readouterr().out
    (page,) = (tmp_path / "scratch" / "cache").glob("WriteReport-*/index.html")
    assert "OLMo 7B" in page.read_text(encoding="utf-8")


def _refuse(requirement, folder):
    raise Unavailable(f"{requirement} cannot be downloaded")


@LEAKS
def test_folders_of_dolma_and_token_files_are_rehearsed(rehearse, capsys):
    Path("d/documents").mkdir(parents=True)
    Path("d/attributes/exp").mkdir(parents=True)
    rows = [{"id": str(n), "text": f"text number {n}"} for n in range(400)]
    Path("d/documents/a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    said = [
        {"id": each["id"], "attributes": {"exp__t__n": [[0, len(each["text"]), 2.0]]}}
        for each in rows
    ]
    Path("d/attributes/exp/a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in said))
    source = {"type": "jsonl", "path": "d/documents/*.jsonl", "source": "x"}
    tokens = {"path": "https://x.org/a.npy", "revision": "1", "source": "olmo"}
    corpus, imported = {"type": "ref", "ref": "corpus"}, {"type": "ref", "ref": "imported"}
    config = {
        "corpus": {"type": "ingest", "source": source},
        "imported": {
            "type": "import_attributes",
            "documents": corpus,
            "folders": {"exp": "d/attributes/exp"},
        },
        "kept": {
            "type": "filter",
            "documents": corpus,
            "attributes": [imported],
            "rules": [{"attribute": "t.n", "at_least": 1}],
        },
        "dolma": {"type": "export_dolma", "documents": corpus, "attributes": {"exp": imported}},
        "tokenizer": {"type": "train_tokenizer", "documents": corpus, "vocab_size": 300},
        "tokens": {
            "type": "import_tokens",
            "files": tokens,
            "tokenizer": {"type": "ref", "ref": "tokenizer"},
        },
    }
    assert rehearse(config) == 0
    told = capsys.readouterr().out
    assert "6 steps" in told and "6 ok" in told and "Made up: tokens." in told
    assert "part false -> true" in " ".join(told.split())
