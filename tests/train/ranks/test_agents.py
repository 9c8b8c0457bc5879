"""torchrun's agent tells which rank was killed, though torch tells of one that failed after it."""

import os
import subprocess
import sys
from types import SimpleNamespace

from torch.distributed.elastic.agent.server.api import RunResult, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.launcher import api

from pipeline.train.ranks.agents import telling_agents
from pipeline.train.ranks.failures import Failure, failures_in, first_failure


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
