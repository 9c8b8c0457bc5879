"""What a training will cost, from its configuration alone; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.core.energy import INTENSITY, PUE, co2_kilograms
from pipeline.model.config import OlmoConfig
from pipeline.train.config import TrainConfig
from pipeline.train.plan.cards import Card
from pipeline.train.plan.memory import FLOAT, Memory, Pass
from pipeline.train.ranks.launches import Launch


@dataclass(frozen=True)
class Traffic:
    """Bytes that one rank sends, and receives, in an update, over rings of ranks.

    Args:
        all_gather: parameters within a copy of the model.
        reduce_scatter: gradients within a copy.
        all_reduce: gradients among copies.
    """

    all_gather: float = 0
    reduce_scatter: float = 0
    all_reduce: float = 0


@dataclass(frozen=True)
class Job:
    """A training as it is launched, on the most machines where their number is open.

    Args:
        length: tokens of a row; where rows differ, of the longest.
        rows_per_item: 2 where an item of a batch is a pair.
        retention: so many of the last checkpoints keep the optimizer's state; null for all.
    """

    shape: OlmoConfig
    config: TrainConfig
    launch: Launch
    length: int
    rows_per_item: int = 1
    retention: int | None = None

    @property
    def ranks(self) -> int:
        return self.launch.world_sizes[-1]

    @property
    def shards(self) -> int:
        """Ranks that hold one copy of the model between them."""
        return self.launch.shard_within or self.ranks

    @property
    def tokens_per_update(self) -> int:
        """Of the global batch; as many at most where rows are shorter than the longest."""
        return self.config.batch_size * self.rows_per_item * self.length

    @property
    def num_tokens(self) -> int:
        return self.config.last_step * self.tokens_per_update

    @property
    def num_flops(self) -> int:
        """Operations of the whole training, by `OlmoConfig.flops_per_token`."""
        return self.num_tokens * self.shape.flops_per_token(self.length)

    @property
    def num_passes(self) -> int:
        """Forward and backward passes of a rank in an update."""
        return -(-self._items // self._items_per_pass)

    @property
    def _items(self) -> int:
        return self.config.batch_size // self.ranks

    @property
    def _items_per_pass(self) -> int:
        microbatch = self.launch.microbatch
        if microbatch is None:
            return self._items
        return min(self._items, max(1, microbatch // self.rows_per_item))

    def memory(self) -> Memory:
        """Of one rank, at the highest moment of an update."""
        return Pass(
            self.shape,
            self._items_per_pass * self.rows_per_item,
            self.length,
            self.config.precision,
            compiled=self.launch.compile,
            recomputed=self.launch.activation_checkpointing,
            shards=self.shards,
            accumulates=self.num_passes > 1,
            reshards=self.launch.reshard_after_forward,
            whole_gradients=not self.launch.reduce_each_microbatch,
        ).peak()

    def traffic(self) -> Traffic:
        """What FSDP2 sends in an update, sharded by layer.

        Each pass gathers every layer, forward and again backward unless it is held, in the type of
        the products, and the vocabulary's matrices once; gradients are reduced as float32. A ring
        of n ranks sends (n - 1) / n of what is gathered or scattered, and twice that of what is
        reduced to all.
        """
        layers = self.shape.n_layers * self.shape.layer_parameters()
        rest = self.shape.num_parameters() - layers
        width = 2 if self.config.precision == "bf16" else FLOAT
        gathered = width * ((1 + self.launch.reshard_after_forward) * layers + rest)
        reduced = FLOAT * self.shape.num_parameters()
        num_reduced = self.num_passes if self.launch.reduce_each_microbatch else 1
        sent, among_copies = _ring(self.shards), 2 * _ring(self.ranks // self.shards)
        return Traffic(
            all_gather=self.num_passes * sent * gathered,
            reduce_scatter=num_reduced * sent * reduced,
            all_reduce=num_reduced * among_copies * reduced / self.shards,
        )

    @property
    def weights_bytes(self) -> int:
        """Of a checkpoint's parameters, float32."""
        return FLOAT * self.shape.num_parameters()

    @property
    def optimizer_bytes(self) -> int:
        """Of a checkpoint's two moments, float32."""
        return 2 * self.weights_bytes

    @property
    def num_checkpoints(self) -> int:
        return self.config.num_kept

    @property
    def series_bytes(self) -> int:
        """Of all checkpoints; the one before the first update has no moments."""
        with_moments = self.num_checkpoints - 1
        if self.retention is not None:
            with_moments = min(with_moments, self.retention)
        return self.num_checkpoints * self.weights_bytes + with_moments * self.optimizer_bytes

    def suited(self, most: float) -> str | None:
        """In words, the least change of the launch with which a rank takes at most so many bytes.

        Nothing where it is small enough, None where these changes do not suffice.
        """
        least = self.rows_per_item
        for words, changes in (
            ("", {}),
            ("activation_checkpointing", {"activation_checkpointing": True}),
            (f"microbatch {least}", {"microbatch": least}),
            (
                f"activation_checkpointing and microbatch {least}",
                {"activation_checkpointing": True, "microbatch": least},
            ),
        ):
            launch = replace(self.launch, **changes)  # type: ignore[arg-type]
            if replace(self, launch=launch).memory().total <= most:
                return words
        return None


@dataclass(frozen=True)
class Effort:
    """Time, energy and emissions of a training at an assumed share of what its GPUs can do.

    Args:
        mfu: model FLOPs utilization, as `pipeline/train/speed.py` measures it.
        pue: power usage effectiveness of the data centre.
        intensity: kilograms of CO2-equivalent a kWh of its grid.
        network: bytes a second that go out of a node; by default as `Card` says.
    """

    job: Job
    card: Card
    mfu: float
    pue: float = PUE
    intensity: float = INTENSITY
    network: float | None = None

    @property
    def gpu_hours(self) -> float:
        return self.job.num_flops / (self.mfu * self.card.peak_flops) / 3600

    @property
    def days(self) -> float:
        return self.gpu_hours / self.job.ranks / 24

    @property
    def tokens_per_second(self) -> float:
        """Of all GPUs."""
        return self.job.num_tokens / (self.days * 86400)

    @property
    def update_seconds(self) -> float:
        return self.job.tokens_per_update / self.tokens_per_second

    @property
    def out_of_node(self) -> float | None:
        """Bytes a second that the network of a node carries; None where that is not known."""
        if self.network is None and self.card.network is not None:
            return self.card.network * self.job.launch.ranks
        return self.network

    @property
    def communication_seconds(self) -> float | None:
        """That an update's traffic takes alone; None where it needs a network that is not known.

        Each collective has the whole bandwidth for itself and goes at the pace of a ring's slowest
        part: a card's link, or the node's network, which all rings share that leave the node.
        Ranks of one copy of the model are neighbours: their ring leaves a node once. Of ranks that
        hold the same part of different copies, there are as many rings as parts in a node.
        """
        job, traffic, of_node = self.job, self.job.traffic(), self.job.launch.ranks
        shards = job.shards
        collectives = (  # bytes, rings that leave a node, and whether they use links within it
            (traffic.all_gather + traffic.reduce_scatter, int(shards > of_node), of_node > 1),
            (
                traffic.all_reduce,
                min(shards, of_node) if job.ranks > of_node else 0,
                shards < of_node,
            ),
        )
        seconds = 0.0
        for num_bytes, rings, linked in collectives:
            if num_bytes:
                if rings and self.out_of_node is None:
                    return None
                paces = [self.card.link] if linked else []
                paces += [self.out_of_node / rings] if rings and self.out_of_node else []
                seconds += num_bytes / min(paces)
        return seconds

    @property
    def kwh(self) -> float:
        """At the cards' thermal design power, without the rest of the computer and the centre."""
        return self.gpu_hours * self.card.watts / 1000

    @property
    def co2_kilograms(self) -> float:
        return co2_kilograms(self.kwh, self.pue, self.intensity)


def _ring(ranks: int) -> float:
    return (ranks - 1) / ranks
