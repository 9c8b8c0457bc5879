import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from pipeline.store import leases
from pipeline.store.leases import Lease, LostLease, clear_leftovers


@pytest.fixture
def quick(monkeypatch):
    for name, seconds in (("BEAT", 0.05), ("LOOK", 0.3), ("STALE", 1.0)):
        monkeypatch.setattr(leases, f"{name}_SECONDS", seconds)


def plant(folder, **changes):
    """A lease file of somebody else, by default of a process of this machine that has ended."""
    here = dict(leases._this_process(os.getpid()), nonce="a" * 32, started="1")
    folder.mkdir(exist_ok=True)
    path = folder / "one.json"
    path.write_text(json.dumps({**here, **changes}))
    return path


def seconds_to_take(folder, limit=10.0):
    """How long it takes to get the lease; fails the test where that is too long."""
    held = []

    def take():
        with Lease(folder, "one"):
            held.append(time.monotonic())

    started = time.monotonic()
    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(limit)
    assert held, "the lease was never free"
    return held[0] - started


def script(code, **options):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)


def test_of_many_threads_one_at_a_time_holds_a_lease_and_nothing_is_left(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(5):
            with Lease(tmp_path, "one") as lease:
                inside.append(1)
                most.append(len(inside))
                lease.require()
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] * 40
    assert not list(tmp_path.iterdir())


def test_a_waiter_is_told_once_who_holds_it_and_may_go_away(tmp_path):
    class Elsewhere(Exception):
        pass

    def waiting(owner):
        raise Elsewhere(owner["pid"])

    with Lease(tmp_path, "one"):
        with pytest.raises(Elsewhere, match=str(os.getpid())):
            with Lease(tmp_path, "one", waiting):
                pass
        assert Lease(tmp_path, "one").holder()["pid"] == os.getpid()
    assert Lease(tmp_path, "one").holder() is None


def test_the_lease_of_an_ended_process_is_free_at_once_even_if_its_id_is_used_again(tmp_path):
    plant(tmp_path, pid=os.getpid())
    assert seconds_to_take(tmp_path) < 1


def test_the_lease_of_another_host_stays_its_own_while_its_heart_beats(tmp_path, quick):
    path = plant(tmp_path, machine="another", host="another")
    stop = threading.Event()

    def beat():
        while not stop.wait(0.05):
            os.utime(path)

    heart = threading.Thread(target=beat)
    heart.start()
    lease = Lease(tmp_path, "one")
    deadline = time.monotonic() + 1.3
    while time.monotonic() < deadline:
        assert not lease._take()
        time.sleep(0.05)
    stop.set()
    heart.join()
    assert seconds_to_take(tmp_path) < 3


def test_a_heartbeat_that_was_old_before_is_looked_at_for_a_moment_only(tmp_path, quick):
    path = plant(tmp_path, machine="another")
    os.utime(path, (1, 1))
    assert 0.3 <= seconds_to_take(tmp_path) < 0.95


def test_a_clock_that_jumped_back_keeps_no_lease_and_takes_none(tmp_path, quick):
    path = plant(tmp_path, machine="another")
    ahead = time.time() + 3600
    os.utime(path, (ahead, ahead))  # the clock was put back by an hour since this heartbeat
    assert 1.0 <= seconds_to_take(tmp_path) < 5
    path = plant(tmp_path, machine="another", nonce="b" * 32)
    lease = Lease(tmp_path, "one")
    for beat in range(25):  # alive, with a clock that is behind ours and goes backwards
        os.utime(path, (1000 - beat, 1000 - beat))
        assert not lease._take()
        time.sleep(0.05)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "\0" * 9, '{"nonce": "../../x", "pid": 1}', '{"nonce": 3}']
)
def test_a_lease_that_is_garbage_is_free_after_a_moment(tmp_path, quick, text):
    (tmp_path / "one.json").write_text(text)
    assert seconds_to_take(tmp_path) < 3
    assert not list(tmp_path.iterdir())


def test_without_hard_links_there_is_still_one_holder(tmp_path, quick, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    test_of_many_threads_one_at_a_time_holds_a_lease_and_nothing_is_left(tmp_path)
    plant(tmp_path)
    assert seconds_to_take(tmp_path) < 1
    (tmp_path / "one.json").write_text("")  # killed between making and writing it
    assert seconds_to_take(tmp_path) < 3


def test_the_end_of_a_lease_that_was_taken_over_does_not_touch_the_new_one(tmp_path):
    with pytest.raises(LostLease, match="another"):
        with Lease(tmp_path, "one") as lease:
            lease.interrupts = False  # by a heartbeat in this very moment, with Ctrl-C's signal
            plant(tmp_path, host="another")
            lease.require()
    assert json.loads((tmp_path / "one.json").read_text())["host"] == "another"


def test_an_owner_that_lost_its_lease_is_interrupted_and_its_children_end(tmp_path):
    code = f"""
import json, pathlib, subprocess, time
from pipeline.store import leases
leases.BEAT_SECONDS = 0.1
folder = pathlib.Path({str(tmp_path)!r})
from pipeline.core.stopping import stopping_signals
with stopping_signals():
    child = subprocess.Popen(["sleep", "60"])
    started = time.monotonic()
    try:
        with leases.Lease(folder, "one") as lease:
            lease.path.write_text(json.dumps({{"nonce": "b" * 32}}))
            time.sleep(60)
    except leases.LostLease as error:
        print("lost", time.monotonic() - started < 5, child.wait())
"""
    assert script(code).stdout.split() == ["lost", "True", "-9"]


def test_a_lease_can_be_given_back_on_a_full_disk(tmp_path, monkeypatch):
    with Lease(tmp_path, "one") as lease:

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(lease, "_with_record", full)
    assert not (tmp_path / "one.json").exists()


def test_a_kill_at_any_file_operation_leaves_nothing_locked(tmp_path):
    code = f"""
import json, os, pathlib, signal, sys, time
from pipeline.store import leases
folder = pathlib.Path({str(tmp_path)!r})
dead = dict(leases._this_process(os.getpid()), nonce="a" * 32, started="1")
point = 0
while True:
    point += 1
    (folder / "one.json").write_text(json.dumps(dead))
    if os.fork() == 0:
        left = point
        def count(event, _):
            global left
            if event in ("open", "os.link", "os.rename", "os.remove", "os.chmod"):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count)
        with leases.Lease(folder, "one"):
            pass
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGKILL
    started = time.monotonic()
    if os.fork() == 0:
        with leases.Lease(folder, "one"):
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 7 and time.monotonic() - started < 2
    if not killed:
        break
print(point)
"""
    done = script(code)
    assert int(done.stdout or 0) > 15, done.stderr


def test_processes_killed_at_random_never_hold_a_lease_together(tmp_path):
    # the kernel lets go of a dead owner's lock before it shows the owner as dead, so this lock is
    # free wherever a lease may be taken over
    code = f"""
import fcntl, os, pathlib, random, time
from pipeline.store.leases import Lease
folder = pathlib.Path({str(tmp_path / "leases")!r})
while True:
    with Lease(folder, "one"), open({str(tmp_path / "inside")!r}, "w") as inside:
        try:
            fcntl.flock(inside, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("two at once", os.getpid(), flush=True)
        time.sleep(random.random() * 0.004)
"""

    def start():
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)

    running = [start() for _ in range(4)]
    said = []
    for _ in range(6):
        time.sleep(0.35)
        victim = running.pop(0)
        victim.send_signal(signal.SIGKILL)
        said.append(victim.communicate()[0])
        running.append(start())
    for each in running:
        each.kill()
        said.append(each.communicate()[0])
    assert said == [b""] * 10
    assert seconds_to_take(tmp_path / "leases") < 2


def test_what_kills_left_is_cleared_and_what_is_new_or_held_is_not(tmp_path):
    old, new = tmp_path / ".one.json.x.new", tmp_path / ".one.json.y.heir"
    for path in (old, new):
        path.write_text("")
    os.utime(old, (1, 1))
    code = f"""
import os, pathlib
from pipeline.store.leases import Lease
Lease(pathlib.Path({str(tmp_path)!r}), "dead one").__enter__()
os._exit(9)
"""
    assert script(code).returncode == 9 and (tmp_path / "dead one.json").exists()
    with Lease(tmp_path, "one") as lease:
        os.utime(lease.path, (1, 1))
        clear_leftovers(tmp_path)
        lease.require()
    assert [path.name for path in tmp_path.iterdir()] == [new.name]
