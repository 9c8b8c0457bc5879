"""torchrun's agent tells which rank was killed, though torch tells of one that failed after it."""

import errno
import os
import subprocess
import sys
from types import SimpleNamespace

from torch.distributed.elastic.agent.server.api import RunResult, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.launcher import api

from pipeline.train.ranks import agents
from pipeline.train.ranks.agents import telling_agents
from pipeline.train.ranks.failures import Failure, failures_in, first_failure, take_put_by


def test_a_killed_rank_is_noted_though_torch_tells_of_one_that_lost_it(tmp_path, monkeypatch):
    killed = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    killed.kill()
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)
    Failure.of(0, RuntimeError("Connection reset by peer")).write(tmp_path)
    told = RunResult(WorkerState.FAILED, failures={0: SimpleNamespace(exitcode=1)})
    monkeypatch.setattr(LocalElasticAgent, "_monitor_workers", lambda *_: told)
    workers = [SimpleNamespace(global_rank=1, id=killed.pid)]
    with telling_agents(tmp_path, 60):
        agent = object.__new__(api.LocalElasticAgent)
        assert agent._monitor_workers(SimpleNamespace(workers=workers)) is told
    assert api.LocalElasticAgent is LocalElasticAgent
    first = first_failure(failures_in(tmp_path), 0, 60)
    assert str(first.told()) == "rank 1 was killed by SIGKILL"
    assert killed.wait() == -9  # its end was looked at, not taken from who waits for it
    killed.stdin.close()


def agent_of(monkeypatch):
    """An agent that starts nothing, and its group of one rank."""
    monkeypatch.setattr(LocalElasticAgent, "_start_workers", lambda *_: {0: 1})
    agent = object.__new__(api.LocalElasticAgent)
    return agent, SimpleNamespace(workers=[SimpleNamespace(global_rank=0, id=os.getpid())])


def test_a_rank_that_dies_as_it_starts_again_is_told_of_and_not_how_it_died_before(
    tmp_path, monkeypatch, caplog
):
    dead = RunResult(WorkerState.FAILED, failures={0: SimpleNamespace(exitcode=-9)})
    monkeypatch.setattr(LocalElasticAgent, "_monitor_workers", lambda *_: dead)
    Failure.of(0, ValueError("of the first attempt")).write(tmp_path)
    with telling_agents(tmp_path, 60):
        agent, group = agent_of(monkeypatch)
        assert agent._start_workers(group) == {0: 1}
        assert "started again: rank 0: ValueError: of the first attempt" in caplog.text
        agent._monitor_workers(group)
    assert [each.message for each in failures_in(tmp_path)] == ["was killed by SIGKILL"]
    assert take_put_by(tmp_path, 1, 60) == "rank 0: ValueError: of the first attempt"


def test_a_folder_that_cannot_be_used_keeps_no_ranks_from_starting_again(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ESTALE, "Stale file handle")

    dead = RunResult(WorkerState.FAILED, failures={0: SimpleNamespace(exitcode=-9)})
    monkeypatch.setattr(LocalElasticAgent, "_monitor_workers", lambda *_: dead)
    for name in ("failures_in", "put_by"):
        monkeypatch.setattr(agents, name, refuse)
    monkeypatch.setattr(Failure, "write", refuse)
    with telling_agents(tmp_path, 60):
        agent, group = agent_of(monkeypatch)
        assert agent._monitor_workers(group) is dead and agent._start_workers(group) == {0: 1}
