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


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_items(workers):
    assert Local(workers).map(square, range(20)) == [n * n for n in range(20)]
    assert Local(workers).map(square, []) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_names_the_shard_and_keeps_its_cause(workers):
    with pytest.raises(ShardFailed, match="shard 3: ZeroDivisionError: three") as caught:
        Local(workers).map(fail_at_three, range(6))
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_ours_crosses_processes_as_it_is(workers):
    with pytest.raises(CorruptShard, match=r"00000\.parquet record 7: is not what it says"):
        Local(workers).map(corrupt, range(4))


def test_no_workers_are_refused():
    with pytest.raises(ValueError, match="workers is 0; it must be at least 1"):
        Local(0)
