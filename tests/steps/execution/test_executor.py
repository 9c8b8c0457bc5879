import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tango.step_graph import StepGraph

from steps.execution.executor import LocalExecutor
from steps.graph.wiring import WiringError
from steps.workspace import ResultWorkspace
from tests.steps import pages, toys  # noqa: F401  registers them
from tests.steps.lab import toy

DIAMOND = {"a": toy(), "b": toy("a"), "c": toy("a", value=5), "d": toy("b", "c")}


def execute(folder, steps, run="r", **options):
    """Run a graph, in this process where no number of workers is given.

    Gives Tango's output and the values that were made.
    """
    workspace = ResultWorkspace(str(folder))
    graph = StepGraph.from_params(steps)
    workspace.register_run(graph.values(), run)
    executor = LocalExecutor(workspace, include_package=["tests.steps.toys"], **options)
    with workspace.capture_logs_for_run(run), pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLMO_IN_PROCESS", "0" if options else "1")
        output = executor.execute_step_graph(graph, run)
        output.display()
    made = {name: workspace.step_cache[graph[name]] for name in output.successful}
    return output, {name: getattr(each, "value", None) for name, each in made.items()}


def log_of(folder, step, run="r"):
    return (folder / "runs" / run / "logs" / f"{step}.log").read_text()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_graph_runs_once_and_is_cached_then(tmp_path, capfd, workers):
    steps = {name: {**step, "note": str(tmp_path / "note")} for name, step in DIAMOND.items()}
    _, values = execute(tmp_path, steps, workers=workers)
    assert values == {"a": 1, "b": 2, "c": 6, "d": 9}
    said = capfd.readouterr().out
    assert "4 steps in" in said and "4 run" in said and "results: " in said
    execute(tmp_path, steps, run="again", workers=workers)
    assert "4 cached" in capfd.readouterr().out
    assert sorted((tmp_path / "note").read_text().split()) == ["a", "b", "c", "d"]


def test_what_a_step_prints_is_in_its_log_and_warnings_are_shown(tmp_path, capfd):
    execute(tmp_path, {"a": toy(does="talk"), "b": toy(does="talk", value=3)})
    printed = log_of(tmp_path, "a").splitlines()
    for line in ("a print", "an error", "a child", "its error"):
        assert line in printed
    assert any(line.endswith("INFO    toys: an info") and line[:2] == "20" for line in printed)
    assert "! a: a warning" in (said := capfd.readouterr().out)
    assert "a print" not in said and "an info" not in said
    assert "a: a warning" in (tmp_path / "runs" / "r" / "out.log").read_text()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_is_told_in_full_and_other_branches_finish(tmp_path, capfd, workers):
    steps = {
        "bad": toy(does="fail"),
        "below": toy("bad"),
        "lowest": toy("below"),
        "left": toy(does="leave", value=2),
        "refused": toy(does="refuse", value=3),
        "good": toy(value=4),
        "better": toy("good"),
    }
    output, values = execute(tmp_path, steps, workers=workers)
    assert values == {"good": 4, "better": 5}
    assert set(output.failed) == {"bad", "left", "refused"}
    assert set(output.not_run) == {"below", "lowest"}
    said = capfd.readouterr().out
    assert "bad failed: KeyError: 'the [key] is missing'" in said
    assert "toys.py:" in said and "steps/execution/running.py" not in said
    assert "| line 11\n" in said and "| line 2\n" in said and "| line 1\n" not in said
    assert "left failed: SystemExit: 7" in said
    assert "refused failed: PipelineError: corpus/00003.jsonl.gz record 918: not JSON" in said
    assert "logs/bad.log" in said and "to go on: " in said
    assert "Traceback" not in said and "Traceback" in log_of(tmp_path, "bad")
    assert "7 steps" in said and "3 failed" in said and "2 not run" in said


def test_workers_give_what_one_process_gives(tmp_path):
    steps = {f"s{i}": toy(*[f"s{j}" for j in range(i) if (i * j) % 3 == 1]) for i in range(12)}
    _, here = execute(tmp_path / "here", steps)
    _, there = execute(tmp_path / "there", steps, workers=3)
    assert here == there

    def contents(folder):
        return {
            path.parent.name: json.loads(path.read_text())["content"]
            for path in (folder / "cache").glob("*/manifest.json")
        }

    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_independent_steps_run_at_once(tmp_path):
    warm = {f"warm{i}": toy(value=i, seconds=0.1) for i in range(2)}
    steps = {f"s{i}": toy(*warm, value=9 + i, seconds=0.4) for i in range(4)}
    execute(tmp_path, {**warm, **steps}, workers=2)
    log = [log_of(tmp_path, name).splitlines() for name in steps]
    starts = sorted(lines[0][:23] for lines in log)
    ends = sorted(lines[-1][:23] for lines in log)
    assert starts[1] < ends[0] and starts[3] < ends[2]


def test_a_step_whose_worker_is_killed_is_tried_again_once(tmp_path, capfd):
    steps = {"a": toy(does="be_killed_once"), "b": toy(does="be_killed", value=2), "c": toy("b")}
    output, values = execute(tmp_path, steps, workers=2)
    assert values == {"a": 1} and set(output.failed) == {"b"} and set(output.not_run) == {"c"}
    said = capfd.readouterr().out
    assert "a is started again: its process was ended by SIGKILL" in said
    assert "b failed" in said and "LostWorker: its process was ended by SIGKILL" in said
    assert "(status 137), perhaps for lack of memory\n" in said and "logs/b.log" in said
    assert not list((tmp_path / "leases").glob("[!.]*")) or _free(tmp_path)


def test_no_end_of_a_step_is_that_of_the_run_and_each_is_told(lab):
    lab.write(
        crashed=toy(does="crash"),
        left=toy(does="leave_at_once", value=2),
        below=toy("left"),
        good=toy(value=4),
    )
    ended = lab.run("x.json", "-n", "r")
    said = ended.stdout_text
    assert ended.returncode == 1 and "Traceback" not in ended.stderr_text
    assert "4 steps" in said and all(n in said for n in ("2 failed", "1 run", "1 not run"))
    assert "crashed failed" in said and "was ended by SIGSEGV (status 139)" in said
    assert "| about to crash" in said and "| Fatal Python error: Segmentation fault" in said
    assert re.search("  at .*toys.py:[0-9]+ in crash\n", said)
    assert "left failed" in said and "its process ended with status 0" in said
    assert "| about to leave" in said and "  log: ws/runs/r/logs/left.log" in said
    assert said.count("to go on: ") == 2


def test_what_a_failed_step_started_ends_with_it(tmp_path, capfd):
    steps = {"a": toy(does="fail_with_child"), "b": toy(value=2)}
    output, values = execute(tmp_path, steps, workers=1)
    assert set(output.failed) == {"a"} and values == {"b": 2}
    (note,) = tmp_path.glob("work/*/children")
    assert not any(map(_runs, note.read_text().split()))
    assert "that it had started ended with it" in capfd.readouterr().out


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.slow
def test_a_lost_worker_is_noticed_though_another_process_holds_its_socket(tmp_path, capfd):
    started = time.monotonic()
    output, _ = execute(tmp_path, {"a": toy(does="be_killed_with_child")}, workers=1)
    assert set(output.failed) == {"a"} and time.monotonic() - started < 16
    (note,) = tmp_path.glob("work/*/child")
    os.kill(int(note.read_text()), signal.SIGKILL)


def test_what_a_step_says_of_its_failure_is_cut_and_cannot_steer_a_terminal(tmp_path, capfd):
    execute(tmp_path, {"a": toy(does="say_too_much")})
    said = capfd.readouterr().out
    assert "\x1b" not in said and "\x9b" not in said and "\u202e" not in said
    assert "failed: ValueError: \\x1b[2J\\x9b31mxx" in said
    assert len(said) < 4000 and "more characters in the log" in said
    assert "x" * 20000 in log_of(tmp_path, "a")


def test_a_step_that_makes_nothing_is_told_as_that(tmp_path, capfd):
    output, _ = execute(tmp_path, {"a": toy(does="make_nothing")})
    said = capfd.readouterr().out
    assert set(output.failed) == {"a"}
    assert "PipelineError: run() of ToySum gave None and made no artifact in its folder" in said
    assert str(tmp_path / "work" / "ToySum-001-") in said and "manifest.json" not in said


def test_the_page_of_a_report_is_named_where_it_stands(tmp_path, capfd, monkeypatch):
    steps = {"page": pages.write("x")}

    def named():
        said = re.search("open in a browser: (.*)\n", capfd.readouterr().out)
        return Path(said.group(1)).resolve(strict=True).read_text()

    execute(tmp_path, steps)
    assert named() == "x"

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system", "ws")

    monkeypatch.setattr(ResultWorkspace, "note_run", refuse)
    execute(tmp_path, steps, run="not_noted")
    assert named() == "x"


def test_a_breakpoint_in_a_step_says_how_to_have_it(tmp_path, capfd):
    output, _ = execute(tmp_path, {"a": toy(does="stop_here")}, workers=1)
    said = capfd.readouterr().out
    assert set(output.failed) == {"a"}
    assert "breakpoint() was called" in said and "OLMO_IN_PROCESS=1" in said


@pytest.mark.slow
def test_in_the_process_of_the_run_a_breakpoint_has_the_terminal(lab):
    lab.write(a=toy(does="stop_here"))
    on_terminal = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    command = [sys.executable, "-c", on_terminal, sys.executable, "-m", "steps.cli", "run"]
    ended = subprocess.run(
        [*command, "x.json"],
        input=b"p 6 * 7, self.name\nc\n",
        cwd=lab.folder,
        env={**lab.env, "OLMO_IN_PROCESS": "1", "TERM": "dumb"},
        capture_output=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended
    assert b"(Pdb) " in ended.stdout and b"(42, 'a')" in ended.stdout and b"1 run" in ended.stdout


def test_training_that_saves_its_state_has_the_time_for_it(lab, tmp_path):
    lab.write(a=toy(does="save_slowly"))
    code = (
        "import sys; from steps.execution import pool;"
        "pool.GRACE_SECONDS = dict.fromkeys(range(64), 0.1);"
        "from steps.cli.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code, "run", "x.json"],
        cwd=lab.folder,
        env=lab.env,
        stdout=subprocess.PIPE,
        text=True,
    )
    found = lab.wait_for("ws/*/*/begun", running)
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=30)
    assert running.returncode == 130 and "a step saves its state" in out
    assert found.with_name("saved").exists()


def test_a_run_of_what_is_there_starts_no_process(tmp_path, monkeypatch):
    from steps.execution import executor

    execute(tmp_path, {"a": toy()})
    monkeypatch.setattr(executor, "Pool", None)
    _, values = execute(tmp_path, {"a": toy()}, workers=2)
    assert values == {"a": 1}


def _free(folder):
    """Whether nobody that lives holds a lease."""
    from pipeline.store.leases import live_leases

    return not live_leases(folder / "leases")


def test_what_steps_ask_for_is_within_the_machine_at_any_time(tmp_path, monkeypatch):
    from steps.execution import needs

    monkeypatch.setattr(needs, "num_cpus", lambda: 2)
    steps = {f"s{i}": toy(value=i, seconds=0.3, step_resources={"cpu_count": 2}) for i in range(3)}
    execute(tmp_path, steps, workers=3)
    spans = sorted(
        (lines[0][:23], lines[-1][:23])
        for lines in (log_of(tmp_path, f"s{i}").splitlines() for i in range(3))
    )
    assert all(before[1] <= after[0] for before, after in zip(spans, spans[1:], strict=False))
    with pytest.raises(WiringError, match="CPUs: 3 for big; this machine has 2"):
        execute(tmp_path, {"big": toy(value=77, step_resources={"cpu_count": 3})})


def test_a_name_that_is_given_again_hides_no_result_from_the_cleaning(tmp_path):
    def ids(run):
        path = tmp_path / "runs" / run / "steps.json"
        return json.loads(path.read_text()) if path.exists() else {}

    execute(tmp_path, DIAMOND)
    whole = ids("r")
    execute(tmp_path, {"a": DIAMOND["a"]})  # a part of it, as with -s
    assert ids("r") == whole and len(whole) == 4
    more = {**DIAMOND, "more": toy(value=9)}
    execute(tmp_path, more)
    assert ids("r").items() > whole.items() and not ids("r~1")
    grown = ids("r")
    execute(tmp_path, {**more, "more": toy(value=8)})
    assert ids("r~1") == grown and ids("r")["more"] != grown["more"]
    execute(tmp_path, {"other": toy(value=7)})
    assert ids("r").keys() == {"other"} and ids("r~2").keys() == more.keys()
    workspace = ResultWorkspace(str(tmp_path))
    with workspace.results.lease("run-r"):
        with pytest.raises(WiringError, match="a run named r is at work"):
            execute(tmp_path, DIAMOND)
    assert ids("r").keys() == {"other"}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_step_that_is_not_ours_runs_whenever_it_is_asked_for(tmp_path, capfd, workers):
    steps = {"a": toy(), "say": {"type": "toy_say", "value": {"type": "ref", "ref": "a"}}}
    for number in range(2):
        workspace = ResultWorkspace(str(tmp_path))
        graph = StepGraph.from_params(steps)
        run = workspace.register_run(graph.values(), f"r{number}")
        executor = LocalExecutor(workspace, ["tests.steps.toys"], workers=workers)
        output = executor.execute_step_graph(graph, run.name)
        assert output.successful.keys() == {"a", "say"}
        assert "says 1" in log_of(tmp_path, "say", f"r{number}")


def test_any_name_of_a_step_is_a_file_of_its_run(tmp_path):
    names = ["a b", "a'b\"c", "ü→x", "x" * 199, "x" * 200, "out.log", "logs", "%2E", "a.."]
    steps = {name: toy(value=place, does="talk") for place, name in enumerate(names)}
    _, values = execute(tmp_path, steps)
    assert values == {name: place for place, name in enumerate(names)}
    run = tmp_path / "runs" / "r"
    logs = list((run / "logs").iterdir())
    assert len(logs) == len(names) and all("a print" in log.read_text() for log in logs)
    links = [path for path in run.iterdir() if path.is_symlink()]
    assert len(links) == len(names) and all((path / "manifest.json").exists() for path in links)
    for name in ("..", ".", "../x", "a/b", ".hidden"):
        with pytest.raises(WiringError, match="cannot be the name of a step"):
            execute(tmp_path, {name: toy()})


def test_a_stopped_run_ends_its_children_and_goes_on_later(lab):
    note = lab.folder / "note"
    waiting = toy("a", does="wait_with_child")
    lab.write(a=toy(note=str(note)), b=waiting, c=toy(value=3, seconds=60.0), d=toy("b", value=9))
    for workers, signum, status in ((1, signal.SIGINT, 130), (2, signal.SIGTERM, 75)):
        running = lab.start("x.json", "-n", "r", "-j", str(workers))
        found = lab.wait_for("ws/*/*/child", running)
        child = int(found.read_text())
        running.send_signal(signum)
        out, _ = running.communicate(timeout=30)
        assert running.returncode == status
        assert f"stopped by {signum.name}" in out and "to go on: " in out
        assert not os.path.exists(f"/proc/{child}")
        assert not list((lab.folder / "ws" / "leases").glob("[!.]*"))
        found.unlink()
    lab.write(a=toy(note=str(note)), b=toy("a"), c=toy(value=3))
    assert lab.run("x.json", "-n", "r").returncode == 0
    assert note.read_text() == "a\n"


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("-j", "2")])
def test_a_killed_run_leaves_no_process_and_no_lock(lab, options):
    lab.write(a=toy(does="wait_with_child"), b=toy(value=2, seconds=60.0))
    running = lab.start("x.json", *options)
    deadline = time.monotonic() + 60
    found = lab.wait_for("ws/*/*/child", running)
    child = int(found.read_text())
    running.kill()
    running.communicate()
    while os.path.exists(f"/proc/{child}"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    found.unlink()
    lab.write(a=toy(), b=toy(value=2))
    assert lab.run("x.json").returncode == 0


@pytest.mark.parametrize("options", [{}, pytest.param({"workers": 1}, marks=pytest.mark.slow)])
def test_a_step_that_another_run_works_on_holds_up_no_other(tmp_path, capfd, options):
    steps = {"a": toy(), "b": toy("a"), "c": toy(value=3), "d": toy("c")}
    workspace = ResultWorkspace(str(tmp_path))
    held = StepGraph.from_params(steps)["a"]
    done = threading.Event()

    def work_elsewhere():
        with workspace.results.lease(held.unique_id):
            started.set()
            while not all((tmp_path / "runs" / "r" / name).exists() for name in "cd"):
                time.sleep(0.02)
            done.wait(2.0)
        held.result(workspace)

    started = threading.Event()
    other = threading.Thread(target=work_elsewhere)
    other.start()
    started.wait(10)
    _, values = execute(tmp_path, steps, **options)
    other.join()
    assert values == {"a": 1, "b": 2, "c": 3, "d": 4}
    said = capfd.readouterr().out
    assert f"a waits: process {os.getpid()}" in said
    assert said.index("\N{CHECK MARK} d ") < said.index("a waits") < said.index("\N{CHECK MARK} b ")


def test_a_warning_is_said_once_where_nobody_keeps_the_log_of_the_run(tmp_path, capfd):
    workspace = ResultWorkspace(str(tmp_path))
    graph = StepGraph.from_params({"a": toy(does="talk")})
    LocalExecutor(workspace).execute_step_graph(graph)
    assert capfd.readouterr().out.count("a warning") == 1


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_eight_runs_at_once_run_every_step_once_and_end_alike(lab, killed):
    note = str(lab.folder / "note")
    steps = {
        f"s{i}": toy(*[f"s{j}" for j in range(max(0, i - 4), i)], note=note, seconds=0.05)
        for i in range(30)
    }
    lab.write("x.json", **steps)
    shared = dict(list(steps.items())[:20])
    lab.write("y.json", **shared, end=toy("s19", note=note))
    options = (("x.json",), ("x.json", "-j", "2"), ("y.json",))
    given = [options[i % 3] for i in range(8)]  # several of one name, too, if of one experiment
    running = [lab.start(*each, "-n", f"{each[0][0]}{i % 4}") for i, each in enumerate(given)]
    if killed:
        while not list(lab.folder.glob("ws/cache/*")):
            time.sleep(0.05)
        running[1].kill()
    said = [each.communicate(timeout=240) for each in running]
    statuses = [each.returncode for each in running]
    assert statuses == [0, -9 if killed else 0, *[0] * 6], said
    times = sorted((lab.folder / "note").read_text().split())
    assert len(times) <= 31 + killed and set(times) == {*steps, "end"}
    assert len(list(lab.folder.glob("ws/cache/*/manifest.json"))) == 31
    assert not list(lab.folder.glob("ws/leases/[!.]*")) or killed


def test_on_a_disk_that_takes_nothing_what_is_cached_is_there_and_the_rest_fails_in_words(
    tmp_path, capfd, monkeypatch
):
    from steps.execution import logs

    execute(tmp_path, {"a": toy()})

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system", "ws")

    monkeypatch.setattr(ResultWorkspace, "note_run", refuse)
    monkeypatch.setattr(logs, "_opened", refuse)
    output, values = execute(tmp_path, {"a": toy(), "b": toy("a")})
    assert values == {"a": 1} and set(output.failed) == {"b"}
    assert "b failed: OSError: [Errno 30] Read-only file system: 'ws'" in capfd.readouterr().out
