import os
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import CorruptShard
from pipeline.core.files import write_json
from pipeline.store import series as series_module
from pipeline.store.cleaning import (
    InUse,
    Removal,
    came_free,
    clear_after_kills,
    plan_cleaning,
    plan_removal,
    remove,
    remove_run,
)
from pipeline.store.discarding import discard
from pipeline.store.leases import run_lease
from pipeline.store.results import Results
from pipeline.store.series import read_users
from pipeline.store.survey import Survey, read_runs
from pipeline.store.verifying import find_all_damage
from tests.store.conftest import Maker


def clean(results):
    removal = plan_cleaning(Survey(results))
    assert remove(results, removal) == []
    return removal


def kinds(removal):
    return {kind: sorted(p.name for p in places) for kind, places in removal.by_kind().items()}


def used(root):
    """Bytes of disk, each file counted once."""
    found = {}
    for place, folders, names in os.walk(root):
        for name in (*folders, *names):
            stat = os.lstat(os.path.join(place, name))
            found[stat.st_ino] = stat.st_blocks * 512
    return sum(found.values())


def test_a_cleaning_removes_what_no_run_names_and_keeps_the_rest(maker):
    results = maker.results
    kept, gone = maker.documents(1), maker.documents(2, ["x" * 5000])
    maker.run("one", docs=kept)
    removal = clean(results)
    assert kinds(removal) == {"result": [gone]}
    assert list(results) == [kept] and not (results.root / "trash").exists()
    assert clean(results).places == []


def test_the_bytes_told_are_the_bytes_that_come_free(maker):
    results = maker.results
    kept = maker.documents(1, ["k" * 5000])
    shared = maker.documents(2, ["s" * 9000], content_key="c" * 64)
    other = maker.id("Make", 3)
    results.link(shared, other, maker.key("Make", 3), "c" * 64)
    for number, id in enumerate((kept, shared)):
        results.files.keep_files({"work": number}, results.folder(id), ["00000.parquet"], None)
    maker.run("one", a=kept, b=other)
    removal = plan_cleaning(Survey(results))
    assert kinds(removal) == {"result": [shared]}  # its data stands under `other` as well
    maker.run("one", a=kept)
    before = used(results.root)
    removal = clean(results)
    assert set(kinds(removal)["result"]) == {shared, other} and len(kinds(removal)["memory"]) == 1
    freed = before - used(results.root)  # and a few notes of the memo, which were not counted
    assert 4096 < removal.num_bytes <= freed <= removal.num_bytes + 4 * 4096


def test_a_removed_run_lets_go_what_it_alone_needed(maker):
    results = maker.results
    both, first = maker.documents(1), maker.documents(2)
    maker.run("one", a=both, b=first)
    maker.run("two", a=both)
    os.symlink("runs/one", results.root / "latest")
    assert clean(results).places == []
    remove_run(results, "one")
    assert os.readlink(results.root / "latest") == "runs/two"
    assert kinds(clean(results)) == {"result": [first]}
    assert list(results) == [both]
    for name in ("one", "../one", "", "."):
        with pytest.raises(KeyError):
            remove_run(results, name)


def test_parts_of_a_kept_mix_are_kept_and_so_is_the_series_of_kept_checkpoints(maker):
    results = maker.results
    tokens = maker.tokens()
    mix = maker.mix(tokens)
    base = maker.checkpoints(1, [mix], "a" * 64)
    other = maker.checkpoints(2, [mix], "b" * 64)
    maker.run("one", mix=mix, base=base)
    removal = clean(results)
    assert kinds(removal) == {"result": [other], "series": ["b" * 64]}
    assert set(results) == {tokens, mix, base}


def test_the_series_of_a_step_that_was_killed_is_kept_while_its_run_is(maker):
    results = maker.results
    id = maker.id("Train", 5)
    results.series("c" * 64, user=id)
    results.work(id)
    maker.run("one", base=id)
    assert clean(results).places == []
    remove_run(results, "one")
    assert kinds(clean(results)) == {"series": ["c" * 64], "work": [id]}


@pytest.mark.parametrize("text", ["[", '{"a": 1}', "[1]"])
def test_a_series_whose_users_cannot_be_read_is_kept_and_the_next_one_is_named(maker, caplog, text):
    results = maker.results
    series = results.series("c" * 64, user=maker.id("Train", 5))
    (series / "users.json").write_text(text)
    assert clean(results).places == []
    results.series("c" * 64, user=maker.id("Train", 6))
    assert "users.json is damaged" in caplog.text
    assert read_users(series) == [maker.id("Train", 6)]


def test_the_series_of_damaged_checkpoints_is_kept_as_they_are_mended_from_it(maker):
    results = maker.results
    id = maker.checkpoints()
    maker.run("one", base=id)
    series = results.series("a" * 64)
    (series / "users.json").unlink()
    (series / "step000004" / "state.json").unlink()
    (results.folder(id) / "files.json").unlink()
    assert id not in results
    assert clean(results).places == [] and (series / "step000002").exists()


def test_old_work_and_what_was_set_aside_goes(maker):
    results = maker.results
    id = maker.documents(1)
    maker.run("one", a=id)
    results.work(id)
    results.set_aside(id, "broken")
    maker.documents(1)
    (results.root / "replaced" / "x").mkdir(parents=True)
    series = results.series("a" * 64, user=id)
    (series / ".damaged-step000002").mkdir(parents=True)
    (series / ".stopped").mkdir()  # which a run that was asked to stop goes on with
    removal = clean(results)
    assert kinds(removal) == {
        "damaged": [f"{id}-1", "a" * 64 + "/.damaged-step000002"],
        "replaced": ["x"],
    }
    assert id in results and (series / ".stopped").exists()


def test_what_somebody_works_on_and_what_that_work_reads_is_never_removed(maker):
    results = maker.results
    tokens = maker.tokens()
    mix = maker.mix(tokens)
    working = maker.id("Train", 1, [mix])
    write_json(results.work(working) / "key.json", maker.key("Train", 1, [mix]))
    with results.lease(working):
        removal = clean(results)
        assert removal.places == [] and set(removal.in_use) == {tokens, mix, working}
        plan = plan_removal(Survey(results), [mix])
        with results.lease(mix):
            (refused,) = remove(results, plan)
        assert isinstance(refused, InUse) and mix in results
        maker.run("one", base=working)
        with pytest.raises(InUse):
            remove_run(results, "one")
    assert kinds(clean(results)) == {"result": sorted([mix, tokens])}  # the run names neither


def test_a_run_that_lives_and_what_its_steps_read_is_never_removed_between_two_steps(maker):
    results = maker.results
    tokens = maker.tokens()
    mix = maker.mix(tokens)
    maker.run("one", tokens=tokens, mix=mix)
    with results.lease(run_lease("one")):
        assert Survey(results).in_use() == {tokens, mix}
        with pytest.raises(InUse, match="run-one is in use"):
            remove_run(results, "one")
        assert clean(results).places == []
    remove_run(results, "one")
    assert kinds(clean(results))["result"] == sorted([mix, tokens])


def test_what_stands_behind_a_link_is_neither_used_nor_removed(maker, tmp_path):
    results = maker.results
    kept = maker.documents(1)
    maker.run("one", docs=kept)
    outside = tmp_path / "outside"
    results.folder(kept).rename(outside)
    results.folder(kept).symlink_to(outside)
    before = sorted(outside.iterdir())
    assert "is a link" in str(results.fault(kept)) and kept not in results
    with pytest.raises(CorruptShard, match="is a link"):
        discard(results, kept)
    memory = results.root / "memo" / "files" / "zz" / ("b" * 64)
    memory.parent.mkdir(parents=True)
    memory.symlink_to(outside)
    (outside / "note.json").write_text("{}")
    find_all_damage(results)
    clean(results)
    assert sorted(outside.iterdir()) == sorted([*before, outside / "note.json"])


def test_removing_a_result_removes_its_series_and_its_memories_unless_others_have_them(maker):
    results = maker.results
    one, two = maker.checkpoints(1), maker.id("Train", 2)
    results.link(one, two, maker.key("Train", 2), "d" * 64)
    assert kinds(plan_removal(Survey(results), [one])) == {"result": [one]}
    assert kinds(plan_removal(Survey(results), [one, two])) == {
        "result": sorted([one, two]),
        "series": ["a" * 64],
    }


def test_a_series_goes_with_the_last_step_that_trains_it_finished_or_not(maker):
    results, name = maker.results, "a" * 64
    view, longer = maker.checkpoints(1), maker.id("Train", 2)
    series = results.series(name, user=longer)
    results.work(longer)  # it was killed
    maker.run("one", early=view, base=longer)
    (series / ".damaged-step000002").mkdir()
    plan = plan_removal(Survey(results), [view])
    assert kinds(plan) == {"result": [view]}
    why = f"not finished and trained there: {longer} (one:base); `olmo rm {longer}` removes it too"
    assert plan.staying == {name: why}
    assert kinds(plan_removal(Survey(results), [longer])) == {"work": [longer]}
    assert remove(results, plan) == [] and read_users(series) == [longer]
    last = plan_removal(Survey(results), [longer])
    left = {"damaged": [f"{name}/.damaged-step000002"], "series": [name], "work": [longer]}
    assert kinds(last) == left and remove(results, last) == []
    assert not series.exists() and not results.folder(view).exists()


def test_a_step_that_begins_while_others_are_forgotten_keeps_its_series(maker, monkeypatch):
    results, write = maker.results, series_module.write_json
    gone, new = maker.id("Train", 1), maker.id("Train", 2)
    series = results.series("a" * 64, user=gone)
    begun = threading.Thread(target=lambda: results.series("a" * 64, user=new))

    def late(path, users):
        if threading.current_thread() is threading.main_thread():
            begun.start()
            begun.join(timeout=0.3)
        write(path, users)

    monkeypatch.setattr(series_module, "write_json", late)
    remove(results, Removal([], 0, {gone}))
    begun.join()
    assert read_users(series) == [new]


def test_a_step_that_is_worked_on_again_is_not_forgotten(maker):
    results, id = maker.results, maker.id("Train", 1)
    series = results.series("a" * 64, user=id)
    with results.lease(id):  # it has no folder yet
        remove(results, Removal([], 0, {id}))
        assert read_users(series) == [id]
    remove(results, Removal([], 0, {id}))
    assert read_users(series) == []


def test_a_series_whose_users_cannot_be_read_stays_when_a_view_of_it_is_removed(maker):
    results, name = maker.results, "a" * 64
    view = maker.checkpoints(1)
    (results.series(name) / "users.json").write_text("[")
    plan = plan_removal(Survey(results), [view])
    assert kinds(plan) == {"result": [view]} and "users.json is damaged" in plan.staying[name]


def test_the_bytes_that_came_free_leave_out_what_came_into_use(maker):
    results, name = maker.results, "a" * 64
    view = maker.checkpoints(1, weights=b"x" * 40_000)
    survey = Survey(results)
    with results.lease(f"series-{name}"):
        stays = plan_removal(Survey(results), [view])
        assert stays.staying == {name: "a run trains it now"}
        plan = plan_removal(survey, [view])  # the run began after that look
        (refused,) = remove(results, plan)
    assert name in str(refused) and results.series(name).exists()
    assert came_free(survey, plan) == stays.num_bytes < plan.num_bytes - 80_000


def test_on_a_file_system_without_links_the_memo_of_kept_results_is_kept(maker, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    results = maker.results
    kept, gone = maker.documents(1, ["a"]), maker.documents(2, ["b"])
    for number, id in enumerate((kept, gone)):
        results.files.keep_files({"work": number}, results.folder(id), ["00000.parquet"], None)
    maker.run("one", a=kept)
    removal = clean(results)
    assert kinds(removal)["result"] == [gone] and len(kinds(removal)["memory"]) == 1
    assert results.files.note({"work": 1}) is None
    assert results.files.place({"work": 0}, results.root / "again", ["x"])


def test_the_memo_forgets_the_ids_of_removed_results(maker):
    results = maker.results
    id = maker.documents(1, content_key="c" * 64)
    assert results.memo.find("c" * 64) == id
    clean(results)
    assert results.memo.find("c" * 64) is None


def test_runs_are_read_newest_first_and_broken_ones_left_out(maker):
    results = maker.results
    for name in ("one", "two", "three"):
        maker.run(name, a=maker.id("Make"), b="../../etc")
    (results.root / "runs" / "three" / "steps.json").write_text("{")
    os.utime(results.root / "runs" / "one" / "steps.json", (2e9, 2e9))
    assert list(read_runs(results)) == ["one", "two"]
    os.symlink("runs/two", results.root / "latest")
    assert list(read_runs(results)) == ["two", "one"]
    assert read_runs(results)["two"].steps == {"a": maker.id("Make")}


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abc"), st.sets(st.integers(0, 5)), max_size=3),
    st.sets(st.integers(0, 5)),
)
def test_a_cleaning_keeps_exactly_what_the_runs_name(tmp_path_factory, runs, made):
    maker = Maker(tmp_path_factory.mktemp("w"))
    ids = {number: maker.documents(number) for number in made}
    for name, numbers in runs.items():
        maker.run(name, **{f"s{n}": maker.id("Make", n) for n in numbers})
    clean(maker.results)
    named = set().union(*runs.values()) if runs else set()
    assert set(Results(maker.results.root)) == {ids[n] for n in made & named}


def test_what_a_kill_left_in_the_memo_goes_when_nobody_works_here(tmp_path):
    results = Results(tmp_path)
    left, young = (tmp_path / "memo" / "files" / "ab" / f".{n}.tmp" for n in ("left", "young"))
    left.parent.mkdir(parents=True)
    left.touch()
    os.utime(left, (1, 1))
    clear_after_kills(results)
    assert left.exists()  # nobody was killed
    code = (
        "import os, sys; from pathlib import Path\n"
        "from pipeline.store.leases import Lease\n"
        f"Lease(Path({str(tmp_path / 'leases')!r}), sys.argv[1]).__enter__(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, "killed"])
    with results.lease("run-other"):
        clear_after_kills(results)
        assert left.exists()
    subprocess.run([sys.executable, "-c", code, "killed"])
    young.touch()
    clear_after_kills(results)
    assert young.exists() and not left.exists()
