import json
import re
import shlex
import signal
import time

import pytest

from steps.cli.__main__ import main as olmo
from tests.steps.lab import toy


@pytest.fixture
def here(lab, monkeypatch):
    """The lab as the working directory of this process."""
    monkeypatch.chdir(lab.folder)
    return lab


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["x.json", "-s", "zz"], "'zz' is no step of x.json; there is a, b"),
        (["x.json", "-s", "first_"], "'first_' is no step of x.json; did you mean 'first'?"),
        (["x.json", "--executor", "olmp"], "no type of executor; did you mean 'olmo'?"),
        (["x.json", "-o", '{"steps.a.valu": 3}'], "steps.a.valu: toy_sum has no such parameter"),
        (["x.json", "-o", '{"steps.a.value": "x"}'], "steps.a.value is 'x'; it must be of type"),
        (["x.json", "-o", '{"step.a.value": 3}'], "step"),
        (["x.json", "-o", "{"], "syntax error"),
        (["x.json", "-D", "x"], "--ext-var is 'x'; it must be NAME=VALUE"),
        (["x.json", "-j", "-1"], "at least 1"),
        (["x.json", "-w", "memory://"], "results need a folder"),
        (["broken.jsonnet"], "broken.jsonnet"),
        (["nosteps.json"], "there is no object `steps`"),
        (["absent.json"], "absent.json"),
        (["x.json", "--what"], "No such option"),
        (["x.json", "-i", "no_such_package"], "no_such_package"),
    ],
)
def test_a_wrong_configuration_is_a_few_lines_without_a_traceback(here, capfd, arguments, says):
    here.write(a=toy(), b=toy("a"), **({"first": toy()} if "first_" in arguments else {}))
    (here.folder / "broken.jsonnet").write_text("{ steps: { a: { type: 'toy_sum', } }\n")
    (here.folder / "nosteps.json").write_text("{}")
    assert olmo(["run", *arguments]) in (1, 2)
    said = capfd.readouterr().err
    assert says in said
    assert "Traceback" not in said and "logging.py" not in said and "ERROR" not in said
    assert len(said.strip().splitlines()) <= 5


def test_debug_shows_where_a_fault_was_raised(here, capfd):
    here.write(a=toy())
    assert olmo(["run", "x.json", "-o", '{"steps.a.valu": 3}', "--debug"]) == 1
    assert "Traceback" in capfd.readouterr().err


def test_a_run_says_where_its_results_are_and_what_was_there_before(lab):
    lab.write(a=toy(), b=toy("a"))
    first = lab.run("x.json", "-n", "one")
    assert first.returncode == 0 and first.stderr_text == ""
    lines = first.stdout_text.splitlines()
    assert lines[-1] == "  results: ws/runs/one"
    assert re.fullmatch(r"\N{CHECK MARK} 2 steps in .*: 2 run", lines[-2])
    again = lab.run("x.json", "-n", "two", "-j", "2")
    assert again.stdout_text.splitlines()[-2].endswith(": 2 cached")
    assert "2 cached" in (lab.folder / "ws" / "runs" / "two" / "out.log").read_text()


def test_tango_itself_runs_it_too_and_both_end_with_an_error_status(lab):
    lab.write(a=toy(does="fail"), b=toy(value=2))
    for module in ("tango", "steps.cli"):
        ended = lab.run("x.json", module=module)
        assert ended.returncode == 1
        assert f"-m {module} run x.json\n" in ended.stdout_text
        assert "a failed: KeyError" in ended.stdout_text
        assert "Traceback" not in ended.stdout_text + ended.stderr_text


def test_the_command_to_go_on_can_be_pasted(lab):
    lab.write("my x.json", **{"a": toy(does="fail")})
    ended = lab.run("my x.json", "-n", "it's")
    command = re.search("to go on: (.*)", ended.stdout_text).group(1)
    assert shlex.split(command)[-5:] == ["steps.cli", "run", "my x.json", "-n", "it's"]


def test_a_run_that_is_asked_to_stop_by_a_system_says_so_in_its_exit_status(lab):
    lab.write(a=toy(seconds=60.0))
    running = lab.start("x.json")
    deadline = time.monotonic() + 60
    while not list(lab.folder.glob("ws/leases/*.json")):
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGUSR1)
    out, error = running.communicate(timeout=30)
    assert running.returncode == 75 and "stopped by SIGUSR1" in out and "Traceback" not in error


REFUSED = [
    (["x.json", "-n", "a/b"], "-n is 'a/b', which cannot be the name of a run"),
    (["more.json"], "more.json: includes is no part of an experiment"),
    (["gone.json"], "steps.corpus.source.root is '/nope', which is no folder"),
    (["x.json", "-s", "frist"], "'frist' is no step of x.json; did you mean 'first'?"),
    (["stepz.json"], "stepz.json: stepz is no part of an experiment; did you mean 'steps'?"),
    (["gpus.json"], "GPUs: 4096 for first"),
]


SLOW = [pytest.param(True, *each, marks=pytest.mark.slow) for each in REFUSED[:-3]]


@pytest.mark.parametrize(
    ("with_tango", "arguments", "says"),
    [*((False, *each) for each in REFUSED), *SLOW, *((True, *each) for each in REFUSED[-3:])],
)
def test_what_is_refused_leaves_no_run_and_is_told_without_a_traceback(
    here, capfd, with_tango, arguments, says
):
    lab = here
    lab.write(first=toy())
    lab.write("gpus.json", first=toy(step_resources={"gpu_count": 4096}))
    source = {"type": "python_install", "part": "code", "source": "x", "root": "/nope"}
    lab.write("gone.json", corpus={"type": "ingest", "source": source})
    (lab.folder / "stepz.json").write_text('{"stepz": {}}')
    (lab.folder / "more.json").write_text('{"steps": {}, "includes": []}')
    if with_tango:
        ended = lab.run(*arguments, module="tango")
        status, told = ended.returncode, ended.stdout_text + ended.stderr_text
    else:
        status, told = olmo(["run", *arguments]), "".join(capfd.readouterr())
    assert status == 1
    assert says in " ".join(told.split())
    assert "Traceback" not in told and "Starting new run" not in told
    assert not (lab.folder / "ws" / "runs").exists() and not (lab.folder / "ws" / "latest").exists()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("steps.frist.value", "override steps.frist.value: steps has no 'frist'; did you mean"),
        ("stepz.first.value", "override stepz.first.value: there is no 'stepz'; did you mean"),
        ("steps.first.inputs.0.x", "steps.first.inputs has no '0'"),
        ("steps.frist", "steps.frist has no type; did you mean 'first'?"),
    ],
)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_an_override_of_what_is_not_there_names_the_nearest(here, capfd, command, override, says):
    here.write(first=toy())
    value = {} if override == "steps.frist" else 3
    assert olmo([command, "x.json", "-o", json.dumps({override: value})]) == 1
    said = capfd.readouterr().err
    assert says in said and len(said.strip().splitlines()) == 1
