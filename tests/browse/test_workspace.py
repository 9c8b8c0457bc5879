import shutil

import pytest

from pipeline import open_workspace
from pipeline.core.artifacts import Documents, Tokens
from pipeline.core.errors import CorruptShard
from pipeline.core.files import StoredFile
from pipeline.data.document import DOCUMENT_SCHEMA
from pipeline.store.checkpoints import CheckpointRecord, write_record
from pipeline.store.discarding import discard
from pipeline.store.finding import NotFound
from tests.browse.conftest import weights
from tests.steps.conftest import Bench
from tests.store.conftest import flip


def test_a_step_of_the_latest_run_is_a_table(made):
    workspace = open_workspace(made.root)  # the folder that has `workspace/`
    assert workspace.path == open_workspace(made.results.root).path
    kept = workspace["kept"]
    assert isinstance(kept.manifest, Documents)
    table = kept.to_arrow()
    assert table.num_rows == kept.manifest.num_documents > 1
    assert kept.to_arrow(["id"]).column_names == ["id"]
    assert "kept" in workspace and "nothing" not in workspace and 5 not in workspace
    assert kept.path.is_dir() and kept.key["step"] == "Filter" and kept.record["seconds"] >= 0
    assert not kept.discarded


def test_every_table_can_be_had(made):
    workspace = open_workspace(made.results.root)
    assert workspace["quality"].to_arrow().column_names == [
        f"lengths.num_{each}" for each in ("characters", "bytes", "words", "lines")
    ]
    some = workspace["quality"].to_arrow(["lengths.num_words"])
    assert some.column_names == ["lengths.num_words"]
    assert workspace["order"].to_arrow().num_rows > 0
    tokens = workspace["tokens"]
    assert isinstance(tokens.manifest, Tokens)
    assert tokens.to_arrow().num_rows == tokens.manifest.num_documents
    with pytest.raises(ValueError, match="nothing measured"):
        workspace["quality"].to_arrow(["lengths.x"])
    with pytest.raises(ValueError, match="is no table"):
        workspace["mix"].to_arrow()
    with pytest.raises(ValueError, match="has no checkpoints"):
        _ = workspace["mix"].latest


def test_an_empty_corpus_is_a_table_without_rows(tmp_path):
    bench = Bench(tmp_path)
    bench.source.write_text("")
    bench.run(["corpus", "quality", "kept"])
    workspace = open_workspace(bench.results.root)
    for name in ("corpus", "kept"):
        assert workspace[name].to_arrow().schema == DOCUMENT_SCHEMA
        assert workspace[name].to_arrow(["id"]).column_names == ["id"]
        assert workspace[name].to_arrow().num_rows == 0


def test_a_result_is_found_by_run_and_by_the_start_of_its_id(made):
    workspace = open_workspace(made.results.root)
    id = workspace["kept"].id
    for name in ("first:kept", "latest:kept", id, id[:18], id.rsplit("-", 1)[1][:8]):
        assert workspace.find(name) == id
    with pytest.raises(NotFound, match=r"did you mean 'kept'\?"):
        workspace["kpet"]
    with pytest.raises(NotFound, match="did you mean 'first'"):
        workspace["fist:kept"]
    with pytest.raises(NotFound, match="no step 'x'"):
        workspace["first:x"]
    with pytest.raises(NotFound, match="is not there"):
        workspace["Ingest-001-" + "0" * 32]


def test_the_start_of_two_ids_is_neither(maker):
    maker.documents(1), maker.documents(2)
    with pytest.raises(NotFound, match="begins 2 ids"):
        open_workspace(maker.results.root).find("Make-001-")


def test_runs_and_steps_are_gone_through_and_say_what_they_are(made):
    workspace = open_workspace(made.results.root)
    (run,) = workspace
    assert list(run) == ["corpus", "quality", "kept", "tokenizer", "tokens", "mix", "order"]
    assert run["mix"].id == workspace["mix"].id
    assert repr(run) == "Run first: 7 of 7 steps"
    assert "1 run" in repr(workspace) and "Run first" in repr(workspace)
    assert repr(workspace["mix"]).startswith("TokenMix Mix-001-")
    for each in (workspace, run, run["mix"]):
        assert each._repr_html_().startswith("<table>")


def test_what_is_shown_in_a_notebook_is_escaped(maker):
    id = maker.documents()
    maker.run("<script>", **{"<img src=x>\x1b": id})
    (run,) = open_workspace(maker.results.root)
    assert "<script>" not in run._repr_html_() and "<img" not in run._repr_html_()
    assert "\x1b" not in repr(run) + run._repr_html_()


def test_no_workspace_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing was run yet"):
        open_workspace(tmp_path)


def test_damaged_and_discarded_data_is_not_handed_out(maker):
    id = maker.documents()
    workspace = open_workspace(maker.results.root)
    flip(maker.results.folder(id) / "00000.parquet")
    with pytest.raises(CorruptShard, match="run again"):
        workspace[id].to_arrow()
    shutil.rmtree(maker.results.folder(id))
    discard(maker.results, maker.documents())
    assert workspace[id].discarded
    with pytest.raises(CorruptShard, match="makes it again"):
        workspace[id].to_arrow()


def test_checkpoints_are_found_and_their_history_is_a_table(maker):
    id = maker.checkpoints(weights=weights())
    base = open_workspace(maker.results.root)[id]
    assert [each.step for each in base.checkpoints] == [2, 4]
    assert base.latest.path.name == "step000004" and "step 4" in repr(base.latest)
    assert base.to_arrow()["loss"].to_pylist() == [4.0, 3.0, 2.0, 1.0]
    flip(base.latest.path / "model.safetensors")
    with pytest.raises(CorruptShard, match="safetensors"):
        base.latest.load()


def test_a_checkpoint_is_loaded_as_a_model(tmp_path):
    models = pytest.importorskip("tests.model.fakes")
    model = models.tiny_model(3)
    id = "Pretrain-001-" + "0" * 32
    made = models.write_checkpoints(tmp_path, [models.tiny_model(1), model], name=id)
    for each in made.steps:
        folder = made.folder(each)
        sha256 = {"model.safetensors": StoredFile.of(folder, "model.safetensors").sha256}
        sha256["optimizer.safetensors"] = "0" * 64  # dropped
        write_record(folder, CheckpointRecord(each.step, 1, 1, each.weights, sha256))
    base = open_workspace(tmp_path)[id]
    for loaded in (base.latest.load(), base.load()):
        assert all(loaded.state_dict()[n].equal(t) for n, t in model.state_dict().items())
