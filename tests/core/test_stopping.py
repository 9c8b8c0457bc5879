import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from pipeline.core.stopping import (
    Stopped,
    children,
    descendants,
    end_descendants,
    heeding,
    interrupt,
    kill_children,
    now,
    passes_on_to,
    stop_requested,
    stopping_signals,
)


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)]
)
def test_a_signal_breaks_off_the_work_and_ends_its_children(signum, status):
    before = signal.getsignal(signum)
    with pytest.raises(Stopped) as caught, stopping_signals():
        child = subprocess.Popen(["sleep", "60"])
        assert child.pid in children()
        os.kill(os.getpid(), signum)
        time.sleep(60)
    assert caught.value.status == status and child.wait(10) == -signal.SIGTERM
    assert signal.getsignal(signum) is before and stop_requested() is None


HEARING = """
import sys, time
from pipeline.core.stopping import Stopped, stopping_signals
try:
    with stopping_signals():
        print("ready", flush=True)
        time.sleep(60)
except Stopped as stop:
    sys.exit(stop.signum)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_child_that_hears_signals_is_told_which_one_came(signum):
    with pytest.raises(Stopped), stopping_signals():
        child = subprocess.Popen([sys.executable, "-c", HEARING], stdout=subprocess.PIPE)
        passes_on_to(child.pid)
        child.stdout.readline()
        os.kill(os.getpid(), signum)
        time.sleep(60)
    assert child.wait(10) == signum
    child.stdout.close()


def test_work_that_heeds_goes_on_until_it_looks_and_breaks_off_at_the_second_signal():
    with stopping_signals():
        with heeding():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            assert stop_requested() == signal.SIGTERM
            with pytest.raises(Stopped, match="SIGTERM"):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)


def test_what_a_system_tells_all_processes_and_a_parent_passes_on_is_one_wish():
    with stopping_signals(), heeding():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        for signum in (signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), signum)
            time.sleep(0.05)
        assert stop_requested() == signal.SIGTERM


def test_a_signal_that_was_ignored_before_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping_signals():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_can_raise_an_error_in_the_main_one_while_it_heeds_or_waits():
    threading.Timer(0.1, interrupt, [ValueError("lost")]).start()
    with pytest.raises(ValueError, match="lost"), stopping_signals(), heeding():
        threading.Event().wait(60)


def test_what_was_started_since_a_moment_ends_with_what_it_started():
    before = subprocess.Popen(["sleep", "60"])
    time.sleep(0.05)
    moment = now()
    script = "trap '' TERM; sleep 60 & echo $!; wait; wait; sleep 60"
    after = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True)
    below = int(after.stdout.readline())
    assert {before.pid, after.pid, below} <= set(descendants())
    assert end_descendants(moment, 0.3) == 2
    assert after.wait(10) in (-signal.SIGKILL, -signal.SIGTERM)
    assert below not in descendants() and before.poll() is None
    after.stdout.close()
    before.kill()
    before.wait()


def test_children_that_do_not_end_are_killed():
    stubborn = subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])
    time.sleep(0.2)
    stubborn.terminate()
    kill_children(0.2)
    assert stubborn.wait(10) == -signal.SIGKILL
