"""Ranks, however they are started: they meet, and the failure of one ends all of them by name."""

import atexit
import multiprocessing
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from pipeline.core.errors import DivergedTraining, PipelineError
from pipeline.core.stopping import Stopped, heeding, stop_requested, stopping_signals
from pipeline.train.ranks.failures import (
    Failure,
    failures_in,
    failures_of,
    first_failure,
    put_by,
)
from pipeline.train.ranks.launches import Joining, Launch, Slurm, Torchrun
from pipeline.train.ranks.launching import run_ranks
from pipeline.train.ranks.meeting import open_attempt

SECONDS = 8  # that a rank waits for another


@dataclass(frozen=True)
class Meet:
    """Each rank leaves its number; rank `fails` does not go on to where they meet."""

    folder: Path
    fails: int | None = None
    how: str = ""

    def __call__(self, ranks):
        told = ranks.agreed(lambda: {"from": os.getpid()})
        each = [{"é" * (9 * rank): rank} for rank in range(ranks.size)]  # of unequal lengths
        assert ranks.told(each[ranks.rank]) == each
        (self.folder / f"{ranks.rank}-{ranks.size}-{ranks.local}").write_text(str(told["from"]))
        if ranks.rank == self.fails:
            FAULTS[self.how]()
        assert ranks.summed(1.0) == [ranks.size]


def _raise():
    raise ValueError("three is no even number")


FAULTS = {
    "raises": _raise,
    "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exits": lambda: os._exit(3),
    "hangs": lambda: time.sleep(600),
}
FAULTS_APART = [  # of ranks that others started
    pytest.param(each, marks=pytest.mark.long if each in ("exits", "hangs") else ())
    for each in FAULTS
]
SAYS = {
    "raises": "rank 1: ValueError: three is no even number",
    "is killed": "rank 1 was killed by SIGKILL",
    "exits": "rank 1 ended with exit status 3",
    "hangs": "rank 1 did not answer",
}


def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def _process(work, launch, series, variables, said):
    os.environ.update(variables)
    try:
        run_ranks(work, launch, series)
    except PipelineError as error:
        said.put((variables.get("SLURM_PROCID"), str(error), str(error.__cause__)))
        raise SystemExit(1) from None


def both(work, launch, series, variables=({}, {})):
    """The process that leads a run and one that joins it; gives what they say, and exit codes."""
    spawn = multiprocessing.get_context("spawn")
    said = spawn.Queue()
    lead = spawn.Process(target=_process, args=(work, launch, series, variables[0], said))
    lead.start()
    while open_attempt(series) is None:
        time.sleep(0.02)
    joins = spawn.Process(
        target=_process, args=(work, Joining(of=launch), series, variables[1], said)
    )
    joins.start()
    lead.join(120)
    joins.join(20)  # srun would kill it
    codes = [lead.exitcode, joins.exitcode]
    joins.kill()
    words = [said.get(timeout=5) for code in codes if code == 1]
    return words, codes


def task(rank, size=2):
    """The variables of a task of srun."""
    return {
        "SLURM_PROCID": str(rank),
        "SLURM_NTASKS": str(size),
        "SLURM_LOCALID": str(rank),
        "SLURM_JOB_ID": "7",
        "SLURM_NODELIST": "localhost",
    }


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def met(tmp_path):
    folder = tmp_path / "met"
    folder.mkdir()
    return folder


@pytest.fixture
def series(tmp_path):
    return tmp_path / "series"


def torchrun(**changes):
    place = f"localhost:{free_port()}"
    return Torchrun(rendezvous=place, threads=1, timeout_seconds=SECONDS, **changes)


def test_who_could_not_write_its_checkpoint_for_want_of_another_is_not_the_first_to_fail(tmp_path):
    error = PipelineError("checkpoint step000003 was not written")
    error.__cause__ = RuntimeError("Connection closed by peer [127.0.0.1]:4711")
    Failure.of(0, error).write(tmp_path)
    found = failures_of({0: 1, 1: -9}, tmp_path)
    assert "rank 1 was killed by SIGKILL" in str(first_failure(found, 2, 60).told())
    full = PipelineError("checkpoint step000003 was not written")
    full.__cause__ = OSError(28, "No space left on device")
    assert not Failure.of(0, full).lost


def test_one_rank_works_in_the_process_of_its_step(met, series):
    run_ranks(Meet(met), Launch(threads=1), series)
    assert (met / "0-1-0").read_text() == str(os.getpid())


def test_local_ranks_meet_and_the_first_tells_the_others(met, series):
    run_ranks(Meet(met), Launch(ranks=2, threads=1), series)
    assert names(met) == ["0-2-0", "1-2-1"]
    assert len({path.read_text() for path in met.iterdir()}) == 1


def abort_with_python(ranks):
    atexit.register(os.abort)  # as a thread of gloo's may
    print(f"rank {ranks.rank} has worked")


def test_local_ranks_that_have_worked_do_not_fail_while_python_ends(series, capfd):
    run_ranks(abort_with_python, Launch(ranks=2, threads=1), series)
    said = capfd.readouterr().out
    assert "rank 0 has worked" in said and "rank 1 has worked" in said


@pytest.mark.parametrize("how", [pytest.param(each, marks=pytest.mark.slow) for each in FAULTS])
def test_a_local_rank_that_fails_ends_the_run_by_name(how, met, series):
    started = time.monotonic()
    launch = Launch(ranks=2, threads=1, timeout_seconds=SECONDS)
    with pytest.raises(PipelineError, match=SAYS[how]) as caught:
        run_ranks(Meet(met, 1, how), launch, series)
    assert time.monotonic() - started < SECONDS + 25
    if how == "raises":
        assert "in _raise" in str(caught.value.__cause__)  # its own traceback


@pytest.mark.slow
def test_two_agents_make_one_run_and_leave_nothing_behind(met, series, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    words, codes = both(Meet(met), torchrun(nodes=2, ranks=2), series)
    assert (words, codes) == ([], [0, 0])
    assert names(met) == ["0-4-0", "1-4-1", "2-4-0", "3-4-1"]
    assert names(series) == names(temporary) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", FAULTS_APART)
def test_a_rank_of_either_agent_that_fails_ends_both_by_name(how, met, series):
    words, codes = both(Meet(met, 1, how), torchrun(nodes=2), series)
    assert codes == [1, 1]
    assert any(SAYS[how] in said for _, said, _ in words)


@dataclass(frozen=True)
class FailOnce:
    folder: Path

    def __call__(self, ranks):
        first = not (self.folder / f"failed-{ranks.rank}").exists()
        (self.folder / f"failed-{ranks.rank}").touch()
        if first and ranks.rank == 1:
            raise ValueError("once")
        ranks.summed(1.0)


@pytest.mark.slow
@pytest.mark.long
def test_torchrun_starts_ranks_again_as_often_as_it_may(met, series):
    run_ranks(FailOnce(met), torchrun(ranks=2, max_restarts=1), series)
    for path in met.iterdir():
        path.unlink()
    with pytest.raises(PipelineError, match="rank 1: ValueError: once"):
        run_ranks(FailOnce(met), torchrun(ranks=2), series)


@pytest.mark.slow
def test_an_agent_that_nobody_joins_says_where_it_waited(met, series):
    with pytest.raises(PipelineError, match=r"2 agents must meet at localhost:\d+"):
        run_ranks(Meet(met), torchrun(nodes=2, rendezvous_seconds=3), series)


@dataclass(frozen=True)
class WorkOn:
    """Works until any rank is asked to stop, as the loop does."""

    folder: Path

    def __call__(self, ranks):
        with heeding():
            (self.folder / str(ranks.rank)).touch()
            while not ranks.summed(stop_requested() is not None)[0]:
                time.sleep(0.05)
            raise Stopped(stop_requested() or signal.SIGUSR1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "torchrun"])
def test_ranks_that_are_asked_to_stop_do_so_together(kind, met, series):
    def ask():
        while len(names(met)) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    launch = torchrun(ranks=2) if kind == "torchrun" else Launch(ranks=2, threads=1)
    threading.Thread(target=ask, daemon=True).start()
    with pytest.raises(Stopped) as caught, stopping_signals():
        run_ranks(WorkOn(met), launch, series)
    assert caught.value.signum == signal.SIGINT


@pytest.mark.slow
def test_tasks_of_srun_are_the_ranks(met, series):
    launch = Slurm(ranks=2, threads=1, port=free_port(), timeout_seconds=SECONDS)
    words, codes = both(Meet(met), launch, series, (task(0), task(1)))
    assert (words, codes) == ([], [0, 0])
    assert names(met) == ["0-2-0", "1-2-1"] and names(series) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", FAULTS_APART)
def test_a_task_of_srun_that_fails_is_named_by_the_others(how, met, series):
    launch = Slurm(ranks=2, threads=1, port=free_port(), timeout_seconds=SECONDS)
    words, codes = both(Meet(met, 1, how), launch, series, (task(0), task(1)))
    assert codes[0] == 1
    said = {rank: said for rank, said, _ in words}
    assert (
        SAYS[how]
        .replace("was killed by SIGKILL", "did not answer")
        .replace("ended with exit status 3", "did not answer")
        in said["0"]
    )


def test_a_slurm_launch_outside_of_srun_names_what_is_missing(met, series, monkeypatch):
    for name in task(0):
        monkeypatch.delenv(name, raising=False)
    words = "SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID, SLURM_JOB_ID, SLURM_NODELIST is not set"
    with pytest.raises(ValueError, match=words):
        run_ranks(Meet(met), Slurm(ranks=2), series)


# ---------------------------------------------------------------------------- failures

READ = [("s", f"doc-{number}") for number in range(20)]


@dataclass(frozen=True)
class Diverge:
    """Fails on purpose, in all ranks."""

    def __call__(self, ranks):
        ranks.wait()
        raise DivergedTraining(5, "the loss is nan", READ)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "torchrun"])
def test_ranks_that_fail_on_purpose_print_no_traceback_and_name_all_documents(kind, series, capfd):
    launch = torchrun(ranks=2) if kind == "torchrun" else Launch(ranks=2, threads=1)
    with pytest.raises(DivergedTraining, match="loss is nan; its batch read s/doc-0, ") as caught:
        run_ranks(Diverge(), launch, series)
    assert (caught.value.reason, caught.value.documents) == ("the loss is nan", READ)
    if kind == "local":  # torchrun's agent may print one of its own
        assert "Traceback" not in capfd.readouterr().err


def test_a_failure_crosses_processes_as_it_was(tmp_path):
    Failure.of(3, DivergedTraining(5, "the loss is nan", READ)).write(tmp_path)
    (found,) = failures_in(tmp_path)
    told = found.told()
    assert (told.step, told.reason, told.documents) == (5, "the loss is nan", READ)
    assert str(told) == str(DivergedTraining(5, "the loss is nan", READ))


def test_a_failure_that_is_put_by_while_others_are_read_is_left_out(tmp_path, monkeypatch, caplog):
    for rank in (0, 1):
        Failure.of(rank, ValueError(f"a fault of {rank}")).write(tmp_path)
    listed = list(tmp_path.glob("failure-*"))
    put_by(tmp_path, 0)
    monkeypatch.setattr(Path, "glob", lambda *_: listed)
    assert [each.message for each in failures_in(tmp_path)] == ["a fault of 1"]
    assert caplog.text == ""


@pytest.mark.parametrize(
    "text", ["", "{}", "[" * 200_000, '{"rank": 0, "more": 1}', '{"rank": "0", "kind": 1}']
)
def test_a_file_that_is_no_failure_hides_none(tmp_path, text, caplog):
    (tmp_path / "failure-0.json").write_text(text)
    Failure.of(1, ValueError("a fault")).write(tmp_path)
    assert [each.message for each in failures_in(tmp_path)] == ["a fault"]
    assert "failure-0.json is not how a rank ended" in caplog.text


def fails_once(folder, ranks):
    """The second rank fails in the first attempt; the others are asked to make way and do."""
    assert ranks.attempt.name
    if ranks.rank == 0:
        (folder / "died").write_text(ranks.attempt.died_of)
    if (folder / "failed").exists():
        return
    if ranks.rank == 1:
        (folder / "failed").touch()
        raise ValueError("the disk of node 7 is broken")
    with heeding():
        while stop_requested() is None:
            time.sleep(0.01)
        raise Stopped(stop_requested())


@pytest.mark.slow
def test_ranks_that_torchrun_starts_again_know_why_and_were_not_stopped(series, tmp_path):
    launch = Torchrun(
        ranks=2,
        threads=1,
        timeout_seconds=SECONDS,
        max_restarts=1,
        rendezvous=f"localhost:{free_port()}",
    )
    run_ranks(partial(fails_once, tmp_path), launch, series)
    assert (tmp_path / "died").read_text() == "rank 1: ValueError: the disk of node 7 is broken"


def killed_once(folder, ranks):
    """The second rank is killed in the first attempt, while the other one waits for it."""
    if ranks.rank == 0:
        (folder / "died").write_text(ranks.attempt.died_of)
    if ranks.rank == 1 and not (folder / "killed").exists():
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.summed(1.0)


@pytest.mark.slow
def test_ranks_that_torchrun_starts_again_know_which_one_was_killed(series, tmp_path, caplog):
    launch = torchrun(ranks=2, max_restarts=1)
    run_ranks(partial(killed_once, tmp_path), launch, series)
    assert (tmp_path / "died").read_text() == "rank 1 was killed by SIGKILL"
    said = [each.getMessage() for each in caplog.records if each.name.startswith("pipeline.")]
    assert said == ["the ranks are started again: rank 1 was killed by SIGKILL"]
