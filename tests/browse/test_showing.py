import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import open_workspace
from pipeline.browse.differences import _columns, diff
from pipeline.browse.showing import _any, show
from pipeline.browse.terminal import print_view
from pipeline.browse.views import View
from pipeline.core.artifacts import (
    Examples,
    Generations,
    HfModel,
    Pairs,
    Questions,
    Report,
    Scores,
    Tokenizer,
)
from pipeline.core.errors import CorruptShard
from pipeline.core.files import NamedFile, StoredFile
from pipeline.core.shards import write_shard
from pipeline.store.checkpoints import drop_state
from pipeline.store.discarding import discard
from pipeline.store.history import sealed_line
from tests.browse.conftest import weights
from tests.steps.conftest import Bench


def text_of(view, capsys):
    json.dumps(view.to_json(), allow_nan=False)
    print_view(view)
    return capsys.readouterr().out


def shown(made, name, capsys, limit=3):
    return text_of(show(open_workspace(made.results.root)[name], limit), capsys)


def test_a_filter_shows_documents_rules_and_what_was_removed(made, capsys):
    out = shown(made, "kept", capsys)
    assert "Document 1 tells of the hill" in out
    assert "lengths.num_words at least 20" in out and "removed documents" in out
    assert "12 of 18 documents were kept" in out
    assert "more of them" in out


def test_measures_have_their_quantiles_and_a_histogram(made, capsys):
    view = show(open_workspace(made.results.root)["quality"])
    (rows,) = [v for n, v in view.to_json().items() if n.startswith("lengths")]
    words = next(row for row in rows if row["column"] == "num_words")
    assert words["least"] <= words["median"] <= words["most"]
    assert sum(words["histogram"]) == 18 and words["missing"] == 0
    assert "histogram" in text_of(view, capsys)


def test_tokens_are_decoded_by_the_tokenizer_of_their_content(made, capsys):
    out = shown(made, "tokens", capsys)
    assert "tells of the hill" in out and "<|endoftext|>" in out
    assert "<|endoftext|>" in shown(made, "tokenizer", capsys)


def test_a_mix_and_the_order_of_training_are_tables(made, capsys):
    assert "Tokenize-001-" in shown(made, "mix", capsys)
    out = shown(made, "order", capsys)
    assert "optimizer steps" in out and "step  rank  row" in out.replace("   ", "  ")


def test_checkpoints_have_tensors_with_norms_and_a_plot_of_the_loss(maker, capsys):
    id = maker.checkpoints(weights=weights())
    out = text_of(show(open_workspace(maker.results.root)[id]), capsys)
    assert "step000004" in out and "2 × 3" in out
    assert "2.449" in out  # the norm of six ones
    assert "⢣" in out or "⡇" in out or "⠑" in out


def commit(maker, kind, write):
    return maker.commit(kind, write)


IDS, MASK = pa.list_(pa.int32()), pa.list_(pa.int8())


def test_examples_and_pairs_mark_what_is_learned(maker, capsys):
    tokens = {"ids": [5, 6, 7, 8], "mask": [0, 0, 1, 1]}
    schema = pa.schema([("id", pa.string()), ("input_ids", IDS), ("mask", MASK)])

    def examples(work):
        rows = {"id": ["e"], "input_ids": [tokens["ids"]], "mask": [tokens["mask"]]}
        shard = write_shard(work, "0.parquet", rows, schema)
        Examples.of(work, tokenizer="t", num_examples=1, num_skipped=0, shards=[shard])

    def pairs(work):
        rows = {"id": ["p"]}
        for name in ("chosen", "rejected"):
            rows |= {f"{name}_ids": [tokens["ids"]], f"{name}_mask": [tokens["mask"]]}
            rows |= {f"{name}_bytes": [3], f"{name}_logprob": [-1.25]}
        shard = write_shard(
            work, "0.parquet", rows, pa.schema([(n, pa.array(v).type) for n, v in rows.items()])
        )
        Pairs.of(work, tokenizer="t", num_pairs=1, num_skipped=0, reference="", shards=[shard])

    ids = [commit(maker, "Examples", examples), commit(maker, "Pairs", pairs)]
    workspace = open_workspace(maker.results.root)
    out = text_of(show(workspace[ids[0]]), capsys)
    assert "5 6⟦7 8⟧" in out and "4 tokens, 2 learned" in out
    out = text_of(show(workspace[ids[1]]), capsys)
    assert out.count("⟦7 8⟧") == 2 and "-1.2 nats under the reference" in out


def small_table(work, name, **columns):
    schema = pa.schema([(n, pa.array(v).type) for n, v in columns.items()])
    return write_shard(work, name, columns, schema)


def scores(values):
    def write(work):
        rows = small_table(
            work,
            "scores.parquet",
            model=["base"] * len(values),
            step=[4] * len(values),
            task=list(values),
            metric=["accuracy"] * len(values),
            value=list(values.values()),
            standard_error=[0.03] * len(values),
        )
        answers = small_table(work, "answers.parquet", item=["a"], value=[1.0])
        Scores.of(work, kind="rank", answers=answers, scores=rows)

    return write


def test_a_series_shows_how_its_segments_ended_and_what_it_can_go_on_from(maker, capsys):
    id = maker.checkpoints(weights=weights())
    series = maker.results.series("a" * 64)
    drop_state(series / "step000002")
    lines = [
        {"segment": 1, "first_step": 0, "ranks": 2},
        {"segment": 1, "cause": "diverged", "reason": "the loss is nan", "last_step": 3},
        {"segment": 2, "first_step": 2, "rolled_back_from": 3},
    ]
    (series / "segments.jsonl").write_text("".join(map(sealed_line, lines)))
    view = show(open_workspace(maker.results.root)[id])
    (grid,) = [each for each in view.blocks if getattr(each, "title", "") == "segments"]
    rows = [dict(zip(grid.heads, row, strict=True)) for row in grid.rows]
    assert [row["cause"] for row in rows] == ["diverged", "under way"]
    assert (rows[0]["reason"], rows[1]["rolled back from"]) == ("the loss is nan", 3)
    (steps,) = [each for each in view.blocks if getattr(each, "title", "") == "checkpoints"]
    assert [row[steps.heads.index("optimizer")] for row in steps.rows] == [False, True]
    none = show(open_workspace(maker.results.root)[id], 0).blocks
    assert all(not each.rows for each in none if getattr(each, "title", "") == "checkpoints")
    assert "diverged" in text_of(view, capsys)


def test_the_other_kinds_are_shown_too(maker, capsys):
    def questions(work):
        shard = small_table(
            work,
            "q.parquet",
            task=["t"],
            id=["q1"],
            contexts=[["what?"]],
            continuations=[["wrong", "right"]],
            gold=[1],
        )
        Questions.of(work, num_questions=1, tasks={"t": 1}, licences={"t": "MIT"}, shards=[shard])

    def generations(work):
        shard = small_table(work, "g.parquet", checkpoint=["c"], prompt=["say"], text=["said \x1b"])
        Generations.of(work, settings={"temperature": 0.0}, shards=[shard])

    def report(work):
        (work / "page.html").write_text("<html>")
        Report.of(work, page=NamedFile.of(work, "page.html"))

    def model(work):
        (work / "model.safetensors").write_bytes(weights())
        HfModel.of(
            work,
            weights="w",
            model={"d_model": 3},
            tokenizer="t",
            model_files=[NamedFile.of(work, "model.safetensors")],
        )

    for kind, write, says in (
        ("Questions", questions, "right"),
        ("Generations", generations, r"said \x1b"),
        ("Report", report, "page.html"),
        ("Model", model, "transformers"),
        ("Scores", scores({"t": 0.5}), "accuracy"),
    ):
        id = maker.commit(kind, write)
        workspace = open_workspace(maker.results.root)
        assert says in text_of(show(workspace[id]), capsys)


def test_a_kind_without_a_view_of_its_own_shows_its_fields(maker, capsys):
    def write(work):
        (work / "tokenizer.json").write_text("{}")
        file = StoredFile.of(work, "tokenizer.json")
        Tokenizer.of(work, file=file, vocab_size=2, end_id=0, pad_id=1)

    id = maker.commit("Make", write)
    result = open_workspace(maker.results.root)[id]
    view = View("x", list(_any(result.manifest, 3)))
    assert "vocab_size" in text_of(view, capsys)


def test_discarded_data_is_said_to_be(maker, capsys):
    id = maker.documents()
    discard(maker.results, id)
    assert "made again" in text_of(show(open_workspace(maker.results.root)[id]), capsys)


def test_documents_that_were_added_removed_and_changed_are_told_apart(maker, capsys):
    one = maker.documents(1, ["same", "changed", "gone"])
    other = maker.documents(2, ["same", "CHANGED", "gone", "new"])
    workspace = open_workspace(maker.results.root)
    form = diff(workspace[one], workspace[other]).to_json()
    assert (form["rows that are the same"], form["added"][0]["text"]) == (2, "new")
    assert [row["text"] for row in form["changed, as they are now"]] == ["CHANGED"]
    assert {"key": "args.number", "old": 1, "new": 2} in form["keys"]
    fields = {row["field"]: row["change"] for row in form["fields"]}
    assert fields["num_documents"] == 1
    back = diff(workspace[other], workspace[one]).to_json()
    assert [row["text"] for row in back["removed"]] == ["new"] and back["added"] == []
    assert "CHANGED" in text_of(diff(workspace[one], workspace[other]), capsys)


def test_equal_content_is_said_to_be_the_same(maker):
    one, other = maker.documents(1), maker.documents(2)
    workspace = open_workspace(maker.results.root)
    form = diff(workspace[one], workspace[other]).to_json()
    assert form["content"] == "the same" and "fields" not in form


def test_scores_stand_side_by_side_with_their_change(maker):
    one = maker.commit("Rank", scores({"a": 0.5, "b": 0.25}), 1)
    other = maker.commit("Rank", scores({"a": 0.75, "c": 1.0}), 2)
    workspace = open_workspace(maker.results.root)
    rows = {row["task"]: row for row in diff(workspace[one], workspace[other]).to_json()["scores"]}
    assert (rows["a"]["old"], rows["a"]["new"], rows["a"]["change"]) == (0.5, 0.75, 0.25)
    assert rows["b"]["new"] is None and rows["c"]["old"] is None


def test_checkpoints_differ_by_step_and_by_tensor(maker):
    one = maker.checkpoints(1, series="a" * 64, weights=weights(1.0))
    other = maker.checkpoints(2, series="b" * 64, steps=(4, 6), weights=weights(2.0))
    workspace = open_workspace(maker.results.root)
    form = diff(workspace[one], workspace[other]).to_json()
    assert [row["step"] for row in form["checkpoints"]] == [2, 4, 6]
    head = next(row for row in form["tensors of the latest"] if row["tensor"] == "head")
    assert head["of the old norm"] == pytest.approx(1.0)


def test_two_kinds_have_only_their_keys_compared(maker):
    documents, tokens = maker.documents(), maker.tokens()
    workspace = open_workspace(maker.results.root)
    form = diff(workspace[documents], workspace[tokens]).to_json()
    assert form["kind"] == "Documents and Tokens" and "fields" not in form


def test_a_difference_of_measures_counts_rows_by_column(tmp_path):
    bench = Bench(tmp_path)
    bench.run(["quality"])
    built = bench.steps()
    workspace = open_workspace(bench.results.root)
    result = workspace[built["quality"].unique_id]
    rows = list(_columns(result.manifest, result.manifest))
    assert {row["rows that differ"] for row in rows} == {0}


def test_looking_imports_no_torch(made):
    code = (
        "import sys; from steps.cli.__main__ import main\n"
        f"assert main(['show', 'kept', '-w', {str(made.results.root)!r}]) == 0\n"
        f"assert main(['ls', '-w', {str(made.results.root)!r}]) == 0\n"
        "sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parent.parent.parent
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True).returncode == 0
    )


def test_files_that_are_not_what_the_manifest_says_are_told_as_that(maker):
    def write(work):
        shard = small_table(work, "q.parquet", task=["t"], gold=["not a number"])
        Questions.of(work, num_questions=1, tasks={"t": 1}, licences={}, shards=[shard])

    id = maker.commit("Questions", write)
    with pytest.raises(CorruptShard, match="not what its manifest says"):
        show(open_workspace(maker.results.root)[id])
