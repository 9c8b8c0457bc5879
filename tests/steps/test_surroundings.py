"""What surrounds a run: disks that are full or read-only, other users, odd names."""

import errno
import os
import resource
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from tango.step_graph import StepGraph

from steps.cli.__main__ import main
from steps.execution.executor import LocalExecutor
from steps.execution.running import told
from steps.graph.wiring import WiringError, build_steps
from steps.workspace import ResultWorkspace
from tests.small_disk import ROOT, in_a_child, leftovers, small_disk
from tests.steps.conftest import Bench


@pytest.mark.parametrize("most", [100, 700, 1500])
def test_a_write_that_fails_leaves_nothing_half_and_the_next_run_ends_well(bench, most):
    """Files cannot grow beyond so many bytes, which fails as a full disk does."""
    bench.steps()  # with all that is imported when it is first used

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    said = in_a_child(lambda: bench.run(["mix"]), limit)
    assert said["error"] in ("OSError", "ShardFailed") and "File too large" in said["says"]
    assert leftovers(bench.results.root) == []
    assert bench.folder("mix").name not in bench.results
    after = bench.run()
    shutil.rmtree(bench.results.root)
    assert bench.run() == after


def test_a_full_disk_leaves_nothing_half_and_with_room_the_run_goes_on(tmp_path):
    with small_disk(tmp_path / "disk", "size=120k") as disk:
        bench = Bench(tmp_path)
        bench.workspace = ResultWorkspace(str(disk / "workspace"))
        bench.results = bench.workspace.results
        with pytest.raises(Exception, match="No space left|No space"):
            bench.run()
        assert leftovers(disk) == []
        for id in bench.results:
            assert bench.results.unreadable(id) == []
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        made = bench.run()
        other = Bench(tmp_path)
        assert other.run() == made


def test_a_full_disk_is_told_with_what_to_do(tmp_path):
    error = OSError(errno.ENOSPC, "No space left on device")
    failure = told(error, [], tmp_path / "runs" / "first" / "logs" / "mix.log")
    assert "No space left on device: " in failure.message and not failure.places
    assert f"bytes are free on the disk of {tmp_path}" in failure.message
    assert "make room (`olmo gc` says what nothing needs) and run again" in failure.message


def execute(bench, **changes):
    """Run a graph as `tango run` does."""
    executor = LocalExecutor(workspace=bench.workspace)
    return executor.execute_step_graph(StepGraph(bench.steps(**changes)), "first")


def test_a_full_disk_is_told_before_a_run_begins(bench, monkeypatch):
    usage = shutil.disk_usage(bench.root)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(WiringError, match="its disk is full"):
        execute(bench)


def test_a_read_only_workspace_can_be_looked_at_and_says_that_nothing_runs(tmp_path, capsys):
    with small_disk(tmp_path / "disk", "size=8m") as disk:
        bench = Bench(tmp_path)
        bench.workspace = ResultWorkspace(str(disk / "workspace"))
        bench.results = bench.workspace.results
        bench.run()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(WiringError, match="it is read-only"):
            execute(bench, at_least=30)
        place = ["-w", str(disk / "workspace")]
        for command in (["ls"], ["ls", "latest"], ["show", "kept"], ["verify"], ["gc"]):
            assert main([*command, *place]) == 0
        assert "all is whole" in capsys.readouterr().out
        for command in (["rm", "order"], ["discard", "kept"]):
            assert main([*command, *place]) == 1
            said = f"the workspace {disk / 'workspace'} is read-only; nothing was changed"
            assert said in capsys.readouterr().err
        assert all(step.unique_id in bench.results for step in bench.steps().values())


@pytest.mark.skipif(ROOT, reason="root may write where nobody may")
def test_a_folder_that_may_not_be_written_is_said_to_be(bench):
    bench.run()
    os.chmod(bench.results.root, 0o555)
    try:
        with pytest.raises(WiringError, match="it is read-only"):
            execute(bench, at_least=30)
    finally:
        os.chmod(bench.results.root, 0o755)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_what_is_made_is_open_to_whom_the_workspace_is_whatever_the_umask(bench, umask):
    bench.results.root.mkdir()
    os.chmod(bench.results.root, 0o2775)

    def work():
        bench.workspace = ResultWorkspace(str(bench.results.root))
        bench.run()

    assert in_a_child(work, lambda: os.umask(umask)) == {"made": None}
    for path in bench.results.root.rglob("*"):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode & 0o064 == 0o064, (path, oct(mode))


@pytest.mark.skipif(not ROOT, reason="only root can work as two users")
def test_two_users_with_different_umasks_go_on_with_each_others_work():
    root = Path(tempfile.mkdtemp())
    try:
        os.chmod(root, 0o755)
        bench = Bench(root)
        os.chmod(bench.source, 0o644)
        bench.run()  # all that is imported when it is first used is imported here
        expected = bench.run()
        shutil.rmtree(bench.results.root)
        bench.results.root.mkdir()
        os.chown(bench.results.root, 51001, 51000)
        os.chmod(bench.results.root, 0o2775)

        def become(user, umask):
            os.environ["XDG_CACHE_HOME"] = "/nonexistent"
            os.setgroups([51000])
            os.setgid(51000)
            os.setuid(user)
            os.umask(umask)

        def run(names=None, **changes):
            bench.workspace = ResultWorkspace(str(bench.results.root))
            bench.results = bench.workspace.results
            return bench.run(names, **changes)

        def first():
            run(["kept"])

        assert in_a_child(first, lambda: become(51001, 0o077)) == {"made": None}
        assert in_a_child(run, lambda: become(51002, 0o022)) == {"made": expected}
        assert in_a_child(run, lambda: become(51001, 0o077)) == {"made": expected}
        again = in_a_child(lambda: run(at_least=3), lambda: become(51001, 0o077))
        assert set(again) == {"made"}
        owners = {each.stat().st_uid for each in (bench.results.root / "cache").iterdir()}
        assert owners == {51001, 51002}
    finally:
        shutil.rmtree(root)


@pytest.mark.parametrize(
    "name",
    ["two words", "it's", 'a "quoted" one', "ünïcode 你好 🙂", "%s {0}", "a-b*?", "x" * 300],
)
def test_a_step_may_have_any_name_that_can_be_seen(bench, name):
    config = bench.config()
    config[name] = config.pop("quality")
    config["kept"]["attributes"] = [{"type": "ref", "ref": name}]
    built = build_steps(config)
    bench.workspace.register_run(built.values(), "first")
    built["kept"].result(bench.workspace)
    assert bench.workspace.registered_run("first").steps.keys() == built.keys()
    assert main(["ls", "latest", "-w", str(bench.results.root)]) == 0
    for each in (name, f"latest:{name}", f"first:{name}"):
        assert main(["show", "-w", str(bench.results.root), each]) == 0


@pytest.mark.parametrize(
    "name",
    ["..", ".", "", "../x", "/etc/x", "a/b", "a\\b", ".hidden", "a\nb", "\x1b[31m", "\u202ex", " "]
    + ["[red]x", "a\0b", "\ud800", "-n", "latest:x", ":b:"],
)
def test_a_name_that_is_a_path_an_option_or_acts_on_a_terminal_is_refused(bench, name):
    config = bench.config()
    config[name] = config.pop("order")
    with pytest.raises(WiringError, match="cannot be the name of a step") as caught:
        build_steps(config)
    assert str(caught.value).isprintable()


def snapshot(root, but):
    return {
        str(path): (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in root.rglob("*")
        if but not in path.parents and path != but
    }


@pytest.mark.parametrize(
    "change",
    [
        {"../../outside": {"type": "tag"}},
        {"quality": {"out": "/tmp/outside"}},
        {"quality": {"series": "../../outside"}},
        {"quality": {"step_metadata": {"out": "../outside"}}},
        {"quality": {"type": "../outside"}},
        {"quality": {"type": "outside.module.Step"}},
        {"kept": {"documents": {"type": "ref", "ref": "../corpus"}}},
        {"quality": {"cache_results": False}},
        {"quality": {"step_format": {"type": "dill"}}},
        {"corpus": {"source": {"type": "jsonl", "path": "/none", "source": "../../outside"}}},
        {"quality": {"engine": {"type": "local", "workers": 1, "out": "../outside"}}},
    ],
    ids=str,
)
def test_an_experiment_writes_nothing_outside_of_its_workspace(bench, monkeypatch, change):
    elsewhere = bench.root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "outside.py").write_text("open('written', 'w').close()\n")
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("XDG_CACHE_HOME", str(bench.root / "workspace" / "home"))
    before = snapshot(bench.root, bench.results.root)
    config = bench.config()
    for name, fields in change.items():
        config[name] = {**config.get(name, {}), **fields}
    try:
        built = build_steps(config)
        bench.workspace.register_run(built.values(), "../../outside")
    except (WiringError, ValueError):
        pass
    else:
        pytest.fail("the name of a run led out of the workspace")
    try:
        for step in build_steps(config).values():
            step.result(bench.workspace)
    except WiringError:
        pass
    assert snapshot(bench.root, bench.results.root) == before


def test_a_source_named_as_a_path_writes_inside_the_workspace(bench, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(bench.root / "workspace" / "home"))
    config = bench.config()
    config["corpus"]["source"]["source"] = "../../../outside"
    before = snapshot(bench.root, bench.results.root)
    built = build_steps(config)
    built["order"].result(bench.workspace)
    assert snapshot(bench.root, bench.results.root) == before
