import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.core.engine import Local
from pipeline.core.errors import CorruptShard, ShardFailed


def square(number):
    return number * number


def fail_at_three(number):
    if number == 3:
        raise ZeroDivisionError("three")
    return number


def corrupt(number):
    raise CorruptShard(f"{number:05d}.parquet", 7, "is not what it says")


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_items(workers, threads):
    assert Local(workers).map(square, range(20), threads=threads) == [n * n for n in range(20)]
    assert Local(workers).map(square, [], threads=threads) == []


def test_threads_are_of_this_process_and_as_many_as_workers():
    together = threading.Barrier(3, timeout=20)  # passed by three at a time only

    def meet(_):
        together.wait()
        return os.getpid()

    assert Local(3).map(meet, range(3), threads=True) == [os.getpid()] * 3


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_names_the_shard_and_keeps_its_cause(workers, threads):
    with pytest.raises(ShardFailed, match="shard 3: ZeroDivisionError: three") as caught:
        Local(workers).map(fail_at_three, range(6), threads=threads)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_ours_crosses_processes_as_it_is(workers):
    with pytest.raises(CorruptShard, match=r"00000\.parquet record 7: is not what it says"):
        Local(workers).map(corrupt, range(4))


def wait_long(folder):
    (Path(folder) / f"{os.getpid()}").touch()
    time.sleep(300)


def test_workers_end_with_a_killed_run(tmp_path):
    code = (
        "from pipeline.core.engine import Local\n"
        "from tests.core.test_engine import wait_long\n"
        f"Local(2).map(wait_long, [{str(tmp_path)!r}] * 4)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    workers = within(20, lambda: held if len(held := os.listdir(tmp_path)) == 2 else None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    within(20, lambda: not any(is_running(each) for each in workers))


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def within(seconds, found):
    """What is found, or a failure when it is not in so many seconds."""
    until = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return value


def test_workers_do_not_run_a_console_script_again(tmp_path):
    script = tmp_path / "console"
    script.write_text(
        "import sys\nsys.stderr.write('imported ')\n"
        "from pipeline.core.engine import Local\n"
        "if __name__ == '__main__':\n    print(Local(2).map(abs, [-1, 2, -3]))\n"
    )
    made = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert (made.stdout, made.stderr) == ("[1, 2, 3]\n", "imported ")


def test_workers_know_what_the_main_script_defines(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from pipeline.core.engine import Local\ndef double(n):\n    return 2 * n\n"
        "if __name__ == '__main__':\n    print(Local(2).map(double, [1, 2]))\n"
    )
    made = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert (made.stdout, made.stderr) == ("[2, 4]\n", "")


def test_no_workers_are_refused():
    with pytest.raises(ValueError, match="workers is 0; it must be at least 1"):
        Local(0)
