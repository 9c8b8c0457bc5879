"""What a training will cost, beside what it then does, and beside what was published."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.core.energy import co2_kilograms
from pipeline.model.config import OLMO_1B, OLMO_7B, OlmoConfig
from pipeline.model.olmo import Olmo
from pipeline.train.config import Linear, TrainConfig
from pipeline.train.plan.cards import find_card
from pipeline.train.plan.foretelling import Effort, Job, Traffic
from pipeline.train.ranks.launches import Launch, Slurm
from tests.train.conftest import SHAPE, config

SCHEDULE = Linear(peak_lr=3e-4, warmup_steps=5000, total_steps=557_000)
# As FACTS of the published run: 557,000 updates of 2,160 sequences, 27 nodes of 8 GPUs.
PUBLISHED = Job(
    OLMO_7B,
    TrainConfig(batch_size=2160, schedule=SCHEDULE, precision="bf16"),
    Slurm(ranks=8, nodes=27, microbatch=2, compile=True),
    length=2048,
)
ODD = OlmoConfig(
    d_model=48, n_layers=3, n_heads=6, mlp_hidden_size=74, vocab_size=131, max_sequence_length=20
)


@pytest.mark.parametrize(
    "shape",
    [
        OLMO_1B,
        OLMO_7B,
        ODD,
        replace(ODD, tie_embeddings=True),
        replace(ODD, clip_qkv=8.0, n_layers=1),
    ],
)
def test_parameters_are_those_of_the_model(shape):
    with torch.device("meta"):
        model = Olmo(shape)
    assert shape.num_parameters() == sum(each.numel() for each in model.parameters())
    layer = sum(each.numel() for each in model.blocks[0].parameters())
    assert shape.layer_parameters() == layer


@pytest.mark.parametrize("tied", [False, True])
def test_a_third_of_the_operations_is_forward(tied):
    """The counter, like the formula, counts attention's masked half; a kernel may leave it out."""
    shape = replace(ODD, tie_embeddings=tied)
    model = Olmo(shape, seed=0).double()  # not in blocks, which count for nothing
    ids = torch.zeros(2, 20, dtype=torch.int64)
    foretold = shape.flops_per_token(20) * ids.numel()
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            logits = model.logits(model(ids))
        with FlopCounterMode(display=False) as backward:
            logits.sum().backward()
    assert 3 * forward.get_total_flops() == foretold
    assert backward.get_total_flops() == 2 * forward.get_total_flops()


def test_attentions_masked_half_is_four_per_cent_of_the_operations_of_7b():
    masked = 6 * OLMO_7B.n_layers * OLMO_7B.d_model * 2048
    assert masked / OLMO_7B.flops_per_token(2048) == pytest.approx(0.0372, abs=1e-4)


def test_the_published_run_reads_the_tokens_that_it_names():
    assert PUBLISHED.tokens_per_update == 2160 * 2048
    assert PUBLISHED.num_tokens == pytest.approx(2.464e12, rel=1e-4)
    assert PUBLISHED.ranks == 216 and PUBLISHED.num_passes == 5


def test_the_papers_energy_is_that_of_a_plausible_utilization():
    """104 MWh of 216 A100 of 40 GB, 135 MWh of MI250X: before the data centre's share."""
    a100, mi250x = (Effort(PUBLISHED, find_card(name), mfu=1.0) for name in ("A100-40GB", "MI250X"))
    assert a100.kwh / 104_000 == pytest.approx(0.37, abs=0.01)
    assert mi250x.kwh / 135_000 == pytest.approx(0.33, abs=0.01)
    assert co2_kilograms(104_000) == pytest.approx(69_784, abs=1)


def test_time_and_energy_follow_from_operations():
    effort = Effort(PUBLISHED, find_card("A100 40GB"), mfu=0.5, pue=1.2, intensity=0.1)
    seconds = PUBLISHED.num_flops / (0.5 * 312e12)
    assert effort.gpu_hours == pytest.approx(seconds / 3600)
    assert effort.days == pytest.approx(seconds / 216 / 86400)
    assert effort.kwh == pytest.approx(seconds / 3600 * 0.4)
    assert effort.co2_kilograms == pytest.approx(effort.kwh * 1.2 * 0.1)
    used = effort.tokens_per_second * OLMO_7B.flops_per_token(2048)
    assert used / (216 * 312e12) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "name, card",
    [
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("a100-40gb", "A100 40GB"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("AMD Instinct MI250X", "MI250X"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H200 NVL", "H200 NVL"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA A100-PCIE-40GB", "A100 PCIe 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe"),
    ],
)
def test_a_card_is_known_by_any_of_its_names(name, card):
    assert find_card(name).name == card


def test_an_unknown_card_is_none():
    assert find_card("T4") is None and find_card("") is None
    assert find_card("NVIDIA H200 PCIe") is None and find_card("B200 NVL") is None


def seconds(launch, network=None, card="H100"):
    job = Job(OLMO_7B, config(batch_size=64), launch, 2048)
    effort = Effort(job, find_card(card), mfu=0.5, network=network)
    return effort.communication_seconds, job.traffic()


def test_within_a_node_traffic_takes_the_cards_links():
    assert seconds(Launch())[0] == 0
    took, traffic = seconds(Launch(ranks=8), network=1)
    assert took == (traffic.all_gather + traffic.reduce_scatter) / 450e9


def test_a_ring_over_nodes_has_the_pace_of_its_slowest_part():
    took, traffic = seconds(Slurm(ranks=8, nodes=4))
    sent = traffic.all_gather + traffic.reduce_scatter
    assert took == sent / (8 * 50e9)
    assert seconds(Slurm(ranks=8, nodes=4), network=1e12)[0] == sent / 450e9
    took, traffic = seconds(Slurm(ranks=1, nodes=4), network=1e12)  # no link is used
    assert took == (traffic.all_gather + traffic.reduce_scatter) / 1e12
    assert seconds(Slurm(ranks=8, nodes=4), card="H100 PCIe")[0] is None


def test_rings_among_the_copies_of_nodes_share_the_network():
    took, traffic = seconds(Slurm(ranks=8, nodes=4, shard_within=8), network=80e9)
    within = (traffic.all_gather + traffic.reduce_scatter) / 450e9
    assert took == pytest.approx(within + traffic.all_reduce / 10e9)
    took, traffic = seconds(Slurm(ranks=8, nodes=4, shard_within=4), network=80e9)
    within = (traffic.all_gather + traffic.reduce_scatter) / 450e9
    assert took == pytest.approx(within + traffic.all_reduce / 20e9)


def test_one_rank_sends_nothing():
    assert Job(OLMO_1B, config(), Launch(), 16).traffic() == Traffic(0, 0, 0)


def test_traffic_is_what_rings_of_ranks_send():
    job = Job(OLMO_7B, config(batch_size=16, precision="bf16"), Launch(ranks=8, microbatch=1), 2048)
    layers = 32 * OLMO_7B.layer_parameters()
    rest = 6_888_095_744 - layers
    assert job.traffic() == Traffic(
        all_gather=2 * 7 / 8 * 2 * (2 * layers + rest),
        reduce_scatter=2 * 7 / 8 * 4 * 6_888_095_744,
    )


def test_copies_of_the_model_reduce_their_gradients_among_them():
    launch = Slurm(ranks=8, nodes=2, shard_within=8)
    job = Job(OLMO_7B, config(batch_size=16), launch, 2048)
    within = replace(job, launch=Launch(ranks=8), config=config(batch_size=8))
    assert job.traffic().all_gather == within.traffic().all_gather
    assert job.traffic().all_reduce == 2 * 1 / 2 * 4 * 6_888_095_744 / 8
    assert job.memory().parameters == within.memory().parameters


def test_gathering_and_reducing_less_often_sends_less():
    launch = Launch(ranks=4, microbatch=1)
    job = Job(OLMO_7B, config(batch_size=16), launch, 2048)
    held = replace(job, launch=replace(launch, reshard_after_forward=False))
    once = replace(job, launch=replace(launch, reduce_each_microbatch=False))
    assert held.traffic().all_gather < job.traffic().all_gather
    assert once.traffic().reduce_scatter == job.traffic().reduce_scatter / 4


def test_a_series_takes_the_bytes_that_are_foretold(run):
    wanted = config(steps=6)
    made = run(wanted)
    files = list(made.series_root.glob("step*/*.safetensors"))
    took = sum(each.stat().st_size for each in files)
    job = Job(SHAPE, wanted, Launch(), 16)
    assert len(wanted.kept_steps) == job.num_checkpoints == 3
    assert took == pytest.approx(job.series_bytes, rel=0.1)  # names and shapes of small tensors
    assert took > job.series_bytes


def test_only_the_last_states_of_the_optimizer_take_room():
    job = replace(PUBLISHED, retention=2)
    assert job.num_checkpoints == 558
    assert job.series_bytes == (558 + 2 * 2) * 4 * 6_888_095_744
    assert PUBLISHED.series_bytes == (558 * 3 - 2) * 4 * 6_888_095_744


def test_pairs_are_two_rows_each():
    job = Job(OLMO_1B, config(batch_size=8), Launch(microbatch=4), 100, rows_per_item=2)
    assert job.tokens_per_update == 1600
    assert job.num_passes == 4


def test_a_launch_that_needs_less_memory_is_named():
    job = replace(PUBLISHED, launch=Launch(microbatch=4, compile=True, ranks=8))
    most = job.memory().total - 1
    assert job.suited(most) == "activation_checkpointing"
    assert job.suited(0) is None
