"""Faults between runs: what a step reads is whole, or it is made again before it is read."""

import os
import shutil
import time
from dataclasses import replace

import pytest
from tango.executor import Executor
from tango.step_graph import StepGraph

from pipeline.core.errors import ChangedData, CorruptShard
from pipeline.data.document import Document
from pipeline.data.sources.rows import Jsonl
from pipeline.store import inventory
from pipeline.store.discarding import ChangedContent, discard
from pipeline.store.results import Results
from steps.workspace import ResultWorkspace
from tests.store.conftest import flip

FILES = {
    "corpus": "00000-00000.parquet",
    "quality": "lengths/00000.parquet",
    "kept": "00000.parquet",
    "tokenizer": "tokenizer.json",
    "tokens": "00000.npy",
    "mix": "manifest.json",
}


def remove(bench, *names, **changes):
    for name in names:
        shutil.rmtree(bench.folder(name, **changes))


def forget(bench):
    shutil.rmtree(bench.results.root / "memo")


@pytest.mark.parametrize(
    ("name", "fault"),
    [(name, "flip") for name in FILES]
    + [("kept", fault) for fault in ("truncate", "remove", "flip a copy")]
    + [("mix", "truncate"), ("tokens", "remove")],
)
def test_a_damaged_input_is_set_aside_and_made_again_before_it_is_read(bench, name, fault):
    before = bench.run()
    path = bench.folder(name) / FILES[name]
    assert path.is_file()
    if fault == "flip":
        flip(path)
    elif fault == "truncate":
        path.write_bytes(path.read_bytes()[:-1])
    elif fault == "remove":
        path.unlink()
    else:  # another name of the same bytes is not touched
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
        flip(path)
    readers = {"corpus": "quality", "quality": "kept", "kept": "tokenizer", "tokenizer": "tokens"}
    reader = readers.get(name, "order")
    remove(bench, reader)
    shutil.rmtree(bench.results.root / "memo" / "results")
    assert bench.run() == before
    aside = list((bench.results.root / "damaged").iterdir())
    assert [each.name.rsplit("-", 1)[0] for each in aside] == [bench.folder(name).name]
    for id in bench.results:
        assert bench.results.unreadable(id) == []


def test_a_damaged_input_is_mended_by_an_executor_that_says_so_once(bench, capfd):
    before = bench.run()
    flip(bench.folder("kept") / FILES["kept"])
    remove(bench, "tokenizer")
    forget(bench)
    executor = Executor.by_name("olmo")(bench.workspace)
    output = executor.execute_step_graph(StepGraph(bench.steps()), "first")
    assert not output.failed and bench.run() == before
    assert capfd.readouterr().out.count("is not used, stands in damaged/") == 1


@pytest.mark.parametrize("name", ["corpus", "kept", "tokens"])
def test_discarded_data_is_made_again_only_when_it_is_read(bench, name):
    before = bench.run()
    id = bench.folder(name).name
    discard(bench.results, id)
    assert bench.run() == before
    assert bench.results.inventory(id).discarded  # nothing asked for it
    readers = {"corpus": "quality", "quality": "kept", "kept": "tokens", "tokenizer": "tokens"}
    remove(bench, readers.get(name, "order"))
    forget(bench)
    assert bench.run() == before
    assert bench.results.unreadable(id) == []
    assert not (bench.results.root / "damaged").exists()


def test_all_that_was_discarded_is_made_again_from_the_source(bench):
    before = bench.run()
    for name in ("corpus", "quality", "kept", "tokenizer", "tokens"):
        discard(bench.results, bench.folder(name).name)
    remove(bench, "order")
    forget(bench)
    assert bench.run(["order"]) == {}
    inventories = {n: bench.results.inventory(bench.folder(n).name) for n in before}
    assert not inventories["tokens"].discarded and not inventories["kept"].discarded
    assert bench.run() == before


def test_discarded_data_that_comes_out_otherwise_is_an_error(bench, monkeypatch):
    bench.run()
    discard(bench.results, bench.folder("corpus").name)
    remove(bench, "quality")
    forget(bench)
    other = [Document("other", "as another reader reads it", "s")]
    monkeypatch.setattr(Jsonl, "read", lambda self, piece: iter(other))
    with pytest.raises(ChangedContent, match="olmo rm Ingest-001-"):
        bench.steps()["quality"].result(bench.workspace)


def test_a_discarded_part_of_a_linked_mix_is_made_by_the_step_of_this_graph(bench):
    """The mix stands for another graph's tokens, whose step is not in this one."""
    before = bench.run()
    changed = bench.run(shard_bytes=401)
    assert changed["tokens"] == before["tokens"]
    for changes in ({}, {"shard_bytes": 401}):
        discard(bench.results, bench.folder("tokens", **changes).name)
    remove(bench, "order", shard_bytes=401)
    forget(bench)
    assert bench.run(shard_bytes=401) == changed


@pytest.mark.parametrize("large", [False, True])
def test_a_flip_that_kept_its_time_is_found_before_or_while_it_is_read(bench, large, monkeypatch):
    if large:  # too large to be digested each time: its pages have checksums
        monkeypatch.setattr(inventory, "SMALL_BYTES", 0)
    before = bench.run()
    path = bench.folder("corpus") / FILES["corpus"]
    os.utime(path, ns=(10**18, 10**18))
    bench.results.mark(path.parent.name, "")
    listed = bench.results.inventory(path.parent.name)
    state = replace(listed.files[path.name], mtime_ns=10**18)
    replace(listed, files={**listed.files, path.name: state}).write(path.parent)
    flip(path, 40)
    os.utime(path, ns=(10**18, 10**18))
    remove(bench, "quality")
    forget(bench)
    if large:
        with pytest.raises(CorruptShard, match=path.name):
            bench.run()
        assert path.parent.name not in bench.results
    assert bench.run() == before


@pytest.mark.parametrize("how", ["move", "copy", "copy without times", "link"])
def test_a_workspace_elsewhere_is_all_cache_and_can_be_gone_on_with(bench, how):
    before = bench.run()
    here, there = bench.results.root, bench.root / "there"
    if how == "move":
        here.rename(there)
    elif how == "copy":
        shutil.copytree(here, there, symlinks=True)
    elif how == "copy without times":
        shutil.copytree(here, there, symlinks=True, copy_function=shutil.copyfile)
    else:
        here.rename(bench.root / "real")
        there.symlink_to("real")
    moved = ResultWorkspace(str(there))
    built = bench.steps()
    assert all(step.unique_id in moved.results for step in built.values())
    assert (there / "latest" / "kept" / "manifest.json").is_file()
    shutil.rmtree(moved.results.folder(built["order"].unique_id))
    assert built["order"].result(moved).content == before["order"]
    assert not (there / "damaged").exists()


def test_without_hard_links_the_same_comes_out(bench, monkeypatch):
    before = bench.run()
    shutil.rmtree(bench.results.root)

    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert bench.run() == before
    assert all(p.stat().st_nlink == 1 for p in bench.results.root.rglob("*") if p.is_file())
    changed = bench.run(shard_bytes=401)
    assert changed["tokens"] == before["tokens"]


def test_a_clock_that_jumps_back_changes_nothing(bench, monkeypatch):
    bench.run(["corpus", "quality"])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3e8)
    monkeypatch.setattr(time, "time_ns", lambda: int((real() - 3e8) * 1e9))
    whole = bench.run()
    record = bench.results.record(bench.folder("mix").name)
    assert record["seconds"] >= 0
    flip(bench.folder("kept") / FILES["kept"])
    remove(bench, "tokenizer")
    shutil.rmtree(bench.results.root / "memo" / "results")
    assert bench.run() == whole
    assert bench.folder("kept").name in Results(bench.results.root)


@pytest.mark.parametrize("told", [True, False])
def test_outside_data_that_changed_after_the_graph_was_built_never_gets_the_old_id(bench, told):
    steps = bench.steps()
    corpus, id = steps["corpus"], steps["corpus"].unique_id
    if not told:  # as in the process of an executor
        corpus = bench.steps()["corpus"]
        corpus.unique_id_cache = id
    bench.source.write_text(bench.source.read_text().replace("sea", "see"))
    with pytest.raises(ChangedData, match=r"step corpus reads changed while .* run it again") as it:
        corpus.result(bench.workspace)
    assert ("source.fingerprint" in str(it.value)) == told
    assert id not in bench.results
    bench.run(["corpus"])
    assert bench.steps()["corpus"].unique_id in bench.results


def test_outside_data_that_changes_while_a_step_works_never_gets_the_old_id(bench, monkeypatch):
    corpus, real = bench.steps()["corpus"], type(bench.steps()["corpus"]).run

    def run(self, **args):
        made = real(self, **args)
        bench.source.write_text(bench.source.read_text().replace("sea", "see"))
        return made

    id = corpus.unique_id
    monkeypatch.setattr(type(corpus), "run", run)
    with pytest.raises(ChangedData, match="step corpus"):
        corpus.result(bench.workspace)
    assert id not in bench.results
