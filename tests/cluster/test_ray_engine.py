import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.engine import LOCAL
from pipeline.core.errors import CorruptShard, MissingDependency, ShardFailed
from pipeline.core.ray_engine import RayEngine


class Square:
    """Squares numbers; notes who did it; dies, or fails, at some."""

    def __init__(self, folder, dies_at=None, fails_at=None):
        self.folder, self.dies_at, self.fails_at = Path(folder), dies_at, fails_at

    def __call__(self, number):
        tries = self.folder / str(number)
        with open(tries, "a") as file:
            file.write(f"{os.getpid()} {os.getcwd()}\n")
        if number == self.dies_at and len(tries.read_text().splitlines()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == self.fails_at:
            raise ValueError(f"{number} is bad luck")
        return number * number

    def tries(self):
        return {int(path.name): path.read_text().splitlines() for path in self.folder.iterdir()}


def damaged(number):
    raise CorruptShard("a.parquet", number, "not readable")


@pytest.mark.slow
def test_results_keep_the_order_of_the_items_and_the_meaning_of_relative_paths(
    ray_address, tmp_path
):
    numbers = list(range(200, 0, -1))
    square = Square(tmp_path)
    assert RayEngine(ray_address).map(square, numbers) == LOCAL.map(abs, [n * n for n in numbers])
    assert {line.split()[1] for lines in square.tries().values() for line in lines} == {os.getcwd()}
    assert RayEngine(ray_address).map(square, []) == []


@pytest.mark.slow
def test_a_failed_shard_is_named_and_not_tried_again(ray_address, tmp_path):
    square = Square(tmp_path, fails_at=3)
    with pytest.raises(ShardFailed, match="shard 3: ValueError: 3 is bad luck") as caught:
        RayEngine(ray_address).map(square, [1, 2, 3, 4])
    assert "in __call__" in str(caught.value.__cause__)
    assert len(square.tries()[3]) == 1
    with pytest.raises(CorruptShard, match="a.parquet record 1: not readable"):
        RayEngine(ray_address).map(damaged, [1])


@pytest.mark.slow
def test_a_shard_whose_worker_was_killed_is_tried_again_and_no_other(ray_address, tmp_path):
    square = Square(tmp_path, dies_at=3)
    assert RayEngine(ray_address).map(square, range(6)) == [n * n for n in range(6)]
    assert {number: len(lines) for number, lines in square.tries().items()} == {
        number: 2 if number == 3 else 1 for number in range(6)
    }


@pytest.mark.slow
def test_a_shard_whose_worker_dies_each_time_is_named(ray_address, tmp_path):
    with pytest.raises(ShardFailed, match="shard 3: WorkerCrashedError"):
        RayEngine(ray_address, max_retries=0).map(Square(tmp_path, dies_at=3), [3])


def test_where_no_cluster_listens_it_is_said_at_once():
    pytest.importorskip("ray", reason="the extra ray is not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code = f"from pipeline.core.ray_engine import connect; connect({address!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"Unavailable: there is no Ray cluster at {address}" in done.stderr


def test_without_ray_its_absence_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependency, match="pip install ray"):
        RayEngine().map(abs, [1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cpus_per_shard": 0}, "above 0"),
        ({"max_retries": -1}, "at least 0"),
        ({"address": "somewhere"}, "must be host:port"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        RayEngine(**values)
