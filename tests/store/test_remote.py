import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.artifacts import Artifact, Tokenizer
from pipeline.core.errors import CorruptShard, MissingDependency, Unavailable
from pipeline.core.files import StoredFile
from pipeline.store.checkpoints import CheckpointRecord, drop_state, write_record
from pipeline.store.discarding import discard
from pipeline.store.entries import Entry, Stored
from pipeline.store.history import history_rows
from pipeline.store.objects import ObjectStore
from pipeline.store.remote import Remote
from pipeline.store.results import Results, result_id
from pipeline.store.series import read_users
from pipeline.store.verifying import find_all_damage


def make_tokenizer(results, text="{}", number=1):
    key = {"step": "Train", "version": "001", "args": {"number": number}}
    id = result_id(key)
    work = results.work(id)
    (work / "tokenizer.json").write_text(text)
    (work / "notes.txt").write_text("beside the manifest")
    (work / "code.diff").write_text("+ a line")
    file = StoredFile.of(work, "tokenizer.json")
    Tokenizer.of(work, file=file, vocab_size=2, end_id=0, pad_id=1)
    results.commit(id, key, content_key(number), {"name": "tokenizer"})
    return id


def content_key(number=1):
    return f"{number:064x}"


OTHER = "Other-001-" + "0" * 32


def objects(url):
    fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return {each.removeprefix(root).lstrip("/"): each for each in fs.find(root)}, fs


def change(url, ending, data):
    """Replace the one object whose name ends so."""
    found, fs = objects(url)
    [name] = [each for each in found if each.endswith(ending)]
    fs.pipe_file(found[name], data(fs.cat_file(found[name])))


def bytes_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("run.json", "files.json")
    }


# ---------------------------------------------------------------------------- there and back


def test_what_is_pulled_is_what_was_pushed(url, tmp_path):
    here, there = Results(tmp_path / "here"), Results(tmp_path / "there")
    id = make_tokenizer(here)
    [moved] = Remote(url).push(here, [id])
    assert (moved.id, moved.state) == (id, "moved") and moved.num_bytes > 0
    [pulled] = Remote(url).pull(there, [id])
    assert pulled == moved
    assert bytes_of(there.folder(id)) == bytes_of(here.folder(id))
    there.load(id).verify()
    record = json.loads((there.folder(id) / "run.json").read_text())
    assert record["name"] == "tokenizer" and record["pulled_from"] == url
    assert there.memo.find(content_key()) == id
    assert not list((there.root / "work").iterdir()) and not list((there.root / "leases").iterdir())


def test_a_result_is_sent_and_fetched_once(url, tmp_path):
    here, there = Results(tmp_path / "here"), Results(tmp_path / "there")
    id = make_tokenizer(here)
    remote = Remote(url)
    remote.push(here, [id])
    before, _ = objects(url)
    assert [each.state for each in remote.push(here, [id])] == ["there"]
    assert objects(url)[0].keys() == before.keys()
    assert [each.state for each in remote.pull(there, [id, id])] == ["moved", "there"]
    assert remote.having([id, OTHER]) == {id}


def test_equal_files_stand_there_once(url, tmp_path):
    here, there = Results(tmp_path / "here"), Results(tmp_path / "there")
    ids = [make_tokenizer(here, number=number) for number in (1, 2)]
    Remote(url).push(here, ids)
    assert sum(name.startswith("files/") for name in objects(url)[0]) == 3
    Remote(url).pull(there, ids)
    assert [there.load(id).content for id in ids] == [here.load(id).content for id in ids]


def test_a_mix_brings_the_tokens_that_it_names(url, tmp_path, maker):
    here, there = maker.results, Results(tmp_path / "there")
    tokens = maker.tokens()
    mix = maker.mix(tokens)
    assert [each.id for each in Remote(url).push(here, [mix])] == [tokens, mix]
    Remote(url).pull(there, [mix])
    [part] = there.load(mix).load_parts()
    part.verify()
    assert there.inventory(mix).references == [tokens]


def test_a_training_brings_its_checkpoints_and_its_history(url, tmp_path, maker):
    here, there = maker.results, Results(tmp_path / "there")
    short, long = maker.checkpoints(steps=(2,)), maker.checkpoints(1, steps=(4,))
    Remote(url).push(here, [short, long])
    Remote(url).pull(there, [short])
    made = there.load(short)
    assert [each.name for each in made.series_root.glob("step*")] == ["step000002"]
    Remote(url).pull(there, [long])
    held, was = made.series_root, here.load(short).series_root
    for name in ("step000002", "step000004"):
        assert bytes_of(held / name) == bytes_of(was / name)
    assert history_rows(held) == {n + 1: {"step": n + 1, "loss": 4.0 - n} for n in range(4)}
    assert read_users(held) == sorted([short, long])
    assert not [each for each in held.iterdir() if each.name.startswith(".")]


def test_a_training_without_its_earlier_optimizer_states_is_moved_as_it_is(tmp_path, maker):
    url, there = str(tmp_path / "remote"), Results(tmp_path / "there")
    id = maker.checkpoints()
    drop_state(maker.results.series("a" * 64) / "step000002")
    Remote(url).push(maker.results, [id])
    assert [each.state for each in Remote(url).pull(there, [id])] == ["moved"]
    names = {
        path.relative_to(there.series_root).parts[1:] for path in there.series_root.rglob("*.s*")
    }
    assert names == {
        ("step000002", "model.safetensors"),
        ("step000004", "model.safetensors"),
        ("step000004", "optimizer.safetensors"),
    }
    assert find_all_damage(there) == []


def test_a_checkpoint_with_other_weights_is_never_replaced(tmp_path, maker):
    url, there = str(tmp_path / "remote"), Results(tmp_path / "there")
    id = maker.checkpoints()
    Remote(url).push(maker.results, [id])
    folder = there.series("a" * 64) / "step000004"
    files = dict.fromkeys(("model.safetensors", "optimizer.safetensors"), "0" * 64)
    write_record(folder, CheckpointRecord(4, 4, 4, "e" * 64, files))
    [refused] = Remote(url).pull(there, [id])
    assert refused.state == "refused"
    assert re.search("step000004.*weights are eee", refused.reason)
    assert id not in there and json.loads((folder / "state.json").read_text())["weights"][0] == "e"


def test_discarded_data_is_not_pushed_and_comes_back_from_the_remote(url, tmp_path, maker):
    id, other = maker.documents(), maker.documents(1, texts=("three",))
    Remote(url).push(maker.results, [id])
    for each in (id, other):
        discard(maker.results, each)
    assert [each.state for each in Remote(url).push(maker.results, [id, other])] == [
        "discarded",
        "discarded",
    ]
    assert Remote(url).refill(maker.results, id) and not Remote(url).refill(maker.results, other)
    maker.results.load(id).verify()
    assert maker.results.unreadable(id) == []


def test_another_content_under_the_same_id_is_kept(url, tmp_path):
    first, second = Results(tmp_path / "first"), Results(tmp_path / "second")
    id = make_tokenizer(first, "{}")
    assert make_tokenizer(second, "[]") == id
    Remote(url).push(first, [id])
    assert [each.state for each in Remote(url).push(second, [id])] == ["kept"]
    assert Remote(url).entry(id).manifest["content"] == first.load(id).content


def test_machines_that_push_at_once_leave_one_sound_result(url, tmp_path):
    homes = [Results(tmp_path / str(number)) for number in range(4)]
    ids = {make_tokenizer(home, "{" + " " * 1000 + "}") for home in homes}
    [id] = ids
    together, faults = threading.Barrier(len(homes)), []

    def push(home):
        try:
            together.wait()
            Remote(url).push(home, [id])
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=push, args=[home]) for home in homes]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert not faults
    there = Results(tmp_path / "there")
    Remote(url).pull(there, [id])
    there.load(id).verify()
    assert not [name for name in objects(url)[0] if name.endswith(".tmp")]


def test_a_pull_goes_on_with_what_an_earlier_one_left(tmp_path):
    url = str(tmp_path / "remote")
    here, there = Results(tmp_path / "here"), Results(tmp_path / "there")
    id = make_tokenizer(here)
    Remote(url).push(here, [id])
    staged = there.root / "work" / f"pull-{id}"
    staged.mkdir(parents=True)
    (staged / "tokenizer.json").write_text("{}")
    (staged / "of another entry").write_text("x")
    entry = Remote(url).entry(id)
    (
        tmp_path / "remote" / entry.files["tokenizer.json"].place
    ).unlink()  # so that it could not be read again
    Remote(url).pull(there, [id])
    assert bytes_of(there.folder(id)) == bytes_of(here.folder(id))


# ---------------------------------------------------------------------------- what is refused


@pytest.fixture
def pushed(url, tmp_path):
    """A result of another machine, its remote, and a workspace without it."""
    here = Results(tmp_path / "here")
    id = make_tokenizer(here)
    Remote(url).push(here, [id])
    return url, id, Results(tmp_path / "there")


def refuses(url, id, there, match):
    [refused] = Remote(url).pull(there, [id])
    assert (refused.id, refused.state) == (id, "refused") and re.search(match, refused.reason)
    assert id not in there and list(there) == []
    assert there.memo.find(content_key()) is None


def edited(change):
    def edit(data):
        entry = json.loads(data)
        change(entry)
        return json.dumps(entry).encode()

    return edit


def test_a_truncated_object_is_refused(pushed):
    url, id, there = pushed
    file = Remote(url).entry(id).files["tokenizer.json"]
    change(url, file.place, lambda data: data[:-1])
    refuses(url, id, there, "has 1 bytes; its entry says 2 bytes")


def test_a_flipped_byte_is_refused(pushed):
    url, id, there = pushed
    file = Remote(url).entry(id).files["tokenizer.json"]
    change(url, file.place, lambda data: bytes([data[0] ^ 1]) + data[1:])
    refuses(url, id, there, "are not those of SHA-256")


def test_a_missing_object_is_refused(pushed):
    url, id, there = pushed
    file = Remote(url).entry(id).files["tokenizer.json"]
    found, fs = objects(url)
    fs.rm(found[file.place])
    refuses(url, id, there, "is missing; its entry says 2 bytes")


STORED = {"num_bytes": 2, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        *(
            (lambda e, path=path: e["files"].update({path: STORED}), match)
            for path, match in {
                "../../escaped": "must be relative and inside",
                "/escaped": "must be relative and inside",
                "a\\b": "must be relative and inside",
                "a\0b": "must be relative and inside",
                "./notes.txt": "in its plain form",
                ".x.tmp": "in its plain form",
                "notes.txt/a": "what stands above it is a file",
                "manifest.json": "is none of a result's",
                "files.json": "is none of a result's",
            }.items()
        ),
        (lambda e: e["files"]["notes.txt"].update(num_bytes=-1), "must be from 0 to 2"),
        (lambda e: e["files"]["notes.txt"].update(num_bytes=1 << 70), "must be from 0 to 2"),
        (lambda e: e["files"]["notes.txt"].update(num_bytes="2"), "must be of type int"),
        (lambda e: e["files"]["notes.txt"].update(sha256="../../../key"), "64 hexadecimal digits"),
        (lambda e: e["files"]["tokenizer.json"].update(num_bytes=3), "its manifest has tokenizer"),
        (lambda e: e["files"].pop("tokenizer.json"), "its manifest has tokenizer.json"),
        (lambda e: e.update(files=7), "must be an object"),
        (lambda e: e["key"].update(version="002"), "its key is that of Train-002-"),
        (lambda e: e.update(key={}), "not the entry"),
        (lambda e: e["manifest"].update(vocab_size=3), "content digest is not that of its fields"),
        (lambda e: e["manifest"].update(artifact="Sources"), "not a manifest"),
        (lambda e: e["manifest"]["file"].update(path="../x"), "not a manifest"),
        (lambda e: e.update(series={"../x": STORED}), "must be relative and inside"),
        (lambda e: e.update(series={"a/b": STORED}), "which is no file of a checkpoint"),
        (lambda e: e.update(series={"a" * 64 + "/step1/x": STORED}), "its checkpoints are not"),
        (lambda e: e.update(references=["../x"]), "which is no id of a result"),
        (lambda e: e.update(references=[OTHER]), "its references are not those"),
        (lambda e: e.update(more=1), "has the fields"),
        (lambda e: e.pop("record"), "has the fields"),
        (lambda e: e.update(manifest=[]), "must be an object"),
    ],
)
def test_a_hostile_entry_is_refused(tmp_path, edit, match):
    url, here = str(tmp_path / "remote"), Results(tmp_path / "here")
    id = make_tokenizer(here)
    Remote(url).push(here, [id])
    change(url, f"{id}.json", edited(edit))
    refuses(url, id, Results(tmp_path / "there"), match)
    assert not (tmp_path / "escaped").exists() and not (tmp_path / "there" / "escaped").exists()


def test_what_is_larger_than_the_disk_is_refused_before_the_first_byte(pushed):
    url, id, there = pushed
    change(url, f"{id}.json", edited(lambda e: e["files"]["notes.txt"].update(num_bytes=1 << 60)))
    with pytest.raises(OSError, match="are free at"):
        Remote(url).pull(there, [id])
    assert list(there) == [] and not Remote(url).bring(there, id)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"a": NaN}', b"[" * 100000])
def test_an_entry_that_is_not_json_is_refused_and_pushed_anew(tmp_path, data):
    url, here = str(tmp_path / "remote"), Results(tmp_path / "here")
    id = make_tokenizer(here)
    Remote(url).push(here, [id])
    change(url, f"{id}.json", lambda _: data)
    there = Results(tmp_path / "there")
    refuses(url, id, there, "not JSON|not a JSON object|has the fields")
    assert [each.state for each in Remote(url).push(here, [id])] == ["moved"]
    Remote(url).pull(there, [id])


def test_a_mix_that_names_a_place_outside_is_refused(tmp_path, maker):
    url, mix = str(tmp_path / "remote"), maker.mix(maker.tokens())
    Remote(url).push(maker.results, [mix])
    there = Results(tmp_path / "there")
    for place in ("../../../outside", "/outside", "../x", "../../cache/..", "", "../../series/x"):
        change(url, f"{mix}.json", edited(lambda e, p=place: e["manifest"].update(locations=[p])))
        [refused] = Remote(url).pull(there, [mix])
        assert "is not the place of a result" in refused.reason
    assert list(there) == []


def test_checkpoints_that_leave_their_series_are_refused(tmp_path, maker):
    url, id = str(tmp_path / "remote"), maker.checkpoints()
    there = Results(tmp_path / "there")
    last = "a" * 64 + "/step000004/model.safetensors"
    for edit in (
        lambda e: e["manifest"].update(series="../" * 21 + "x"),
        lambda e: [e["series"].pop(each) for each in list(e["series"]) if "step000004" in each],
        lambda e: e["series"].update({"../../x": STORED}),
        lambda e: e["series"].update({"a" * 64 + "/step000009/x": STORED}),
        lambda e: e["series"].update({last: STORED}),
    ):
        Remote(url).push(maker.results, [id], mend=True)
        change(url, f"{id}.json", edited(edit))
        assert [each.state for each in Remote(url).pull(there, [id])] == ["refused"]
        assert list(there) == [] and not (there.series("a" * 64) / "step000004").exists()


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=30), st.just(STORED)))
def test_a_path_of_an_entry_never_leaves_its_folder(files):
    stored = {path: Stored(**each) for path, each in files.items()}
    try:
        entry = Entry({}, {}, {}, stored, {}, [])
    except ValueError:
        return
    folder = Path("/some", "work", "result")
    for path in entry.files:
        assert folder in Path(os.path.normpath(folder / path)).parents


def test_a_damaged_file_is_not_pushed(url, tmp_path):
    here = Results(tmp_path / "here")
    id = make_tokenizer(here)
    (here.folder(id) / "tokenizer.json").write_text("[]")
    with pytest.raises(CorruptShard, match="its SHA-256 is not the one it was committed with"):
        Remote(url).push(here, [id])
    (here.folder(id) / "tokenizer.json").unlink()
    with pytest.raises(CorruptShard, match="is missing"):
        Remote(url).push(here, [id])
    assert id not in Remote(url)


def test_what_is_damaged_in_the_remote_is_not_waited_for_by_who_holds_its_lease(tmp_path):
    """As a step does, which looks for its id and then for the content that it would have."""
    url, here, there = str(tmp_path / "r"), Results(tmp_path / "here"), Results(tmp_path / "there")
    id = make_tokenizer(here)
    remote = Remote(url)
    remote.push(here, [id])
    for path in (tmp_path / "r" / "files").rglob("*"):
        if path.is_file():
            path.write_bytes(b"\0" * path.stat().st_size)
    with there.lease(id):
        assert not remote.bring(there, id)
        assert remote.bring_content(there, content_key(), held=id) is None
        with pytest.raises(RuntimeError, match="would wait for itself"):
            there.lease(id).__enter__()
    assert id not in there and remote.bring_content(there, content_key()) is None


def test_a_push_that_is_killed_leaves_no_entry_and_the_next_one_ends_it(url, tmp_path):
    here = Results(tmp_path / "here")
    id = make_tokenizer(here)
    code = (
        "import os, pathlib, signal, sys\n"
        "from pipeline.store import objects, remote, results\n"
        "upload = objects.ObjectStore.upload\n"
        "def once(self, *args):\n"
        "    upload(self, *args)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "objects.ObjectStore.upload = once\n"
        "home = results.Results(pathlib.Path(sys.argv[1]))\n"
        "remote.Remote(sys.argv[2]).push(home, [sys.argv[3]])\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(here.root), url, id])
    assert killed.returncode == -9
    assert any(name.startswith("files/") for name in objects(url)[0]) and id not in Remote(url)
    Remote(url).push(here, [id])
    Remote(url).pull(Results(tmp_path / "there"), [id])


def test_what_is_not_there_is_said(url, tmp_path):
    id = OTHER
    with pytest.raises(KeyError):
        Remote(url).pull(Results(tmp_path), [id])
    with pytest.raises(KeyError):
        Remote(url).push(Results(tmp_path), [id])
    assert Remote(url).runs() == {} and Remote(url).find(content_key(9)) is None


def test_a_remote_that_cannot_be_reached_is_said_with_its_url(tmp_path, monkeypatch):
    here = Results(tmp_path / "here")
    id = make_tokenizer(here)
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    with pytest.raises(Unavailable, match="file/results"):
        Remote(f"file://{blocked}").push(here, [id])
    with pytest.raises(ValueError, match="remote is 'nonsense://x'"):
        Remote("nonsense://x").push(here, [id])
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(MissingDependency, match="pip install s3fs"):
        Remote("s3://key:secret@bucket/x").push(here, [id])
    assert "secret" not in repr(ObjectStore("s3://key:secret@bucket/x"))


# ---------------------------------------------------------------------------- read-through


def test_read_through_takes_what_is_sound(url, tmp_path):
    here, there = Results(tmp_path / "here"), Results(tmp_path / "there")
    id = make_tokenizer(here)
    Remote(url).push(here, [id])
    remote = Remote(url)
    assert remote.bring_content(there, content_key()) == id
    assert isinstance(there.load(id), Artifact)
    other = Results(tmp_path / "other")
    assert remote.bring(other, id) and id in other
    assert not remote.bring(other, OTHER)
    assert remote.bring_content(other, "0" * 64) is None


def test_read_through_of_what_is_damaged_or_out_of_reach_only_warns(tmp_path, caplog):
    url, here = str(tmp_path / "remote"), Results(tmp_path / "here")
    id = make_tokenizer(here)
    Remote(url).push(here, [id])
    change(url, f"{id}.json", lambda data: data[:50])
    there = Results(tmp_path / "there")
    remote = Remote(url)
    assert not remote.bring(there, id) and "not taken from the remote" in caplog.text
    (tmp_path / "file").write_text("no folder")
    away = Remote(f"file://{tmp_path}/file")
    assert not away.bring(there, id) and not away.bring_content(there, content_key(9))
