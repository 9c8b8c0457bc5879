import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.steps.lab import ROOT, toy

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")


def start(lab, *arguments, **variables):
    """The batch script, with this Python's `olmo`, and a `scontrol` and `srun` that note things."""
    folder = lab.folder / "bin"
    folder.mkdir(exist_ok=True)
    for name, line in (
        ("olmo", f'exec {sys.executable} -m steps.cli "$@"'),
        ("scontrol", f'echo "$@" >> {lab.folder}/requeued'),
        (
            "srun",
            f'echo "$@" >> {lab.folder}/tasks; while [ "$1" != olmo ]; do shift; done; exec "$@"',
        ),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    environment = {
        **lab.env,
        "PATH": f"{folder}:{lab.env['PATH']}",
        "SLURM_JOB_ID": "17",
    } | variables
    return subprocess.Popen(
        ["bash", str(ROOT / "docs" / "slurm" / "run.sbatch"), *arguments],
        cwd=lab.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.parametrize(
    "signum", [signal.SIGUSR1, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_job_near_its_limit_is_queued_again_and_goes_on(lab, signum):
    lab.write(a=toy(), b=toy("a", seconds=60.0))
    job = start(lab, "x.json", "-n", "r")
    deadline = time.monotonic() + 60
    while not (lab.folder / "ws" / "runs" / "r" / "logs" / "b.log").exists():
        assert time.monotonic() < deadline and job.poll() is None
        time.sleep(0.05)
    time.sleep(0.2)
    job.send_signal(signum)
    out, _ = job.communicate(timeout=30)
    assert job.returncode == 75, out
    assert (lab.folder / "requeued").read_text() == "requeue 17\n"
    lab.write(a=toy(), b=toy("a"))
    job = start(lab, "x.json", "-n", "r")
    out, _ = job.communicate(timeout=60)
    assert job.returncode == 0 and b"1 cached, 1 run" in out


def test_a_job_that_fails_is_not_queued_again(lab):
    lab.write(a=toy(does="fail"))
    job = start(lab, "x.json")
    job.communicate(timeout=60)
    assert job.returncode == 1 and not (lab.folder / "requeued").exists()


def test_a_job_of_several_tasks_has_srun_start_them(lab):
    lab.write(a=toy())
    job = start(lab, "x.json", SLURM_NTASKS="16", SLURM_CPUS_PER_TASK="8")
    job.communicate(timeout=60)
    assert job.returncode == 0
    said = (lab.folder / "tasks").read_text()
    assert said == "--kill-on-bad-exit=1 --cpus-per-task=8 olmo run x.json\n"
    start(lab, "x.json").communicate(timeout=60)
    assert (lab.folder / "tasks").read_text() == said
