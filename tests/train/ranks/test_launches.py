import pytest

from pipeline.train.config import Linear, TrainConfig, check_launch
from pipeline.train.ranks.launches import Launch, Slurm, SlurmTask, Torchrun, first_host
from tests.train.ranks.test_launching import task


@pytest.mark.parametrize(
    ("kind", "values", "says"),
    [
        (Launch, {"ranks": 0}, "ranks is 0; it must be at least 1"),
        (Launch, {"ranks": 4, "shard_within": 3}, "shard_within is 3; it must divide the ranks, 4"),
        (Launch, {"timeout_seconds": 604_801}, "timeout_seconds is 604801; .* at most 604800"),
        (Launch, {"threads": 10**9}, "threads is 1000000000; it must be .* at most 4096"),
        (Launch, {"ranks": 10**6}, "ranks is 1000000; it must be at least 1 and at most 1024"),
        (Launch, {"microbatch": 10**15}, "microbatch is 1000000000000000; .* at most 1048576"),
        (Torchrun, {"timeout_seconds": 10**18}, "timeout_seconds is 1000000000000000000; it must"),
        (Torchrun, {"rendezvous_seconds": 10**10}, "rendezvous_seconds is 10000000000; it must"),
        (Torchrun, {"rendezvous": "node1"}, "rendezvous is 'node1'; it must be host:port"),
        (Torchrun, {"rendezvous": "node1:70000"}, "rendezvous is 'node1:70000'"),
        (Torchrun, {"nodes": "4:1"}, "nodes is '4:1'; it must be a number, or as in '1:4'"),
        (Torchrun, {"nodes": 0}, "nodes is 0"),
        (Torchrun, {"nodes": "1:999999999"}, "nodes is '1:999999999'; .* up to 10000"),
        (Torchrun, {"max_restarts": -1}, "max_restarts is -1; it must be at least 0"),
        (Torchrun, {"rendezvous_seconds": 0}, "rendezvous_seconds is 0; it must be at least 1"),
        (Torchrun, {"id": ""}, "id is ''"),
        (Torchrun, {"nodes": "1:3", "shard_within": 2}, "shard_within is 2; it must divide"),
        (Slurm, {"port": 0}, "port is 0; it must be from 1 to 65535"),
        (Slurm, {"nodes": 0}, "nodes is 0; it must be at least 1"),
        (Slurm, {"nodes": 10**9}, "nodes is 1000000000; it must be .* at most 10000"),
    ],
)
def test_a_launch_that_cannot_be_is_refused_when_it_is_made(kind, values, says):
    with pytest.raises(ValueError, match=says):
        kind(**values)


def test_a_batch_must_be_shared_by_each_number_of_ranks_that_there_may_be():
    config = TrainConfig(8, Linear(peak_lr=1e-3, warmup_steps=1, total_steps=9))
    check_launch(config, Torchrun(nodes="1:2", ranks=4))
    with pytest.raises(ValueError, match="batch_size is 8; it must be a multiple of ranks, 3"):
        check_launch(config, Torchrun(nodes="1:4"))


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu7", "gpu7"),
        ("gpu[003-010,12],login", "gpu003"),
        ("a,b", "a"),
        ("rack[2,5]-ib", "rack2-ib"),
        ("a[1-2]b[3-4],c", "a1b3"),
    ],
)
def test_the_first_machine_of_a_list_of_slurm_is_found(nodes, first):
    assert first_host(nodes) == first


def test_a_task_of_srun_knows_its_place():
    variables = {**task(9, 16), "SLURM_LOCALID": "1", "SLURM_NODELIST": "gpu[3-4]"}
    made = SlurmTask.read(Slurm(nodes=2, ranks=8), variables)
    assert made == SlurmTask(rank=9, size=16, local=1, address="gpu3:10007")
    assert SlurmTask.read(Slurm(nodes=2, ranks=8, port=99), variables).address == "gpu3:99"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"SLURM_LOCALID": ""}, "SLURM_LOCALID is not set; start the run with srun"),
        ({"SLURM_NODELIST": ""}, "SLURM_NODELIST is not set"),
        ({"SLURM_NTASKS": "4"}, "SLURM_NTASKS is 4; it must be nodes times ranks, 2"),
        ({"SLURM_PROCID": "x"}, "SLURM_PROCID is 'x'; it must be a whole number"),
        ({"SLURM_PROCID": "-1"}, "SLURM_PROCID is '-1'; it must be a whole number"),
        ({"SLURM_PROCID": "2"}, "SLURM_PROCID is 2; it must be below 2"),
        ({"SLURM_LOCALID": "2"}, "SLURM_LOCALID is 2; it must be below 2"),
    ],
)
def test_what_srun_did_not_say_or_says_otherwise_is_named(change, says):
    with pytest.raises(ValueError, match=says):
        SlurmTask.read(Slurm(ranks=2), {**task(0), **change})
