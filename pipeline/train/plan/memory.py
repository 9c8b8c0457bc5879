"""How much memory an update takes at its highest, by formulas; nothing here imports torch.

Parameters, gradients and AdamW's two moments are float32, four bytes a parameter each, split over
the ranks that hold one copy of the model. Everything else is reckoned at the three moments of a
forward and backward pass one of which is the peak:

- the end of the forward pass, when all layers keep what they need and the loss is computed;
- the start of the backward pass, in the last layer;
- its end, in the first layer, when all gradients are there.

What a layer keeps of a token, in units of the width d and the doubled width f of the feed-forward:

| | eager | compiled |
|---|---|---|
| what the two norms read | 2 d, float32 | 2 d |
| what the norms give | 2 d | 2 d |
| queries, keys and values, as projected and as attention reads them | 6 d | 6 d |
| what attention gives, in two layouts | 2 d | 2 d |
| the feed-forward's projection and product | 1.5 f | 1.5 f |
| its activation | 0.5 f | computed again |

The widths that have no type beside them are of two bytes under bf16 and of four else. With
activation checkpointing a layer keeps its input alone, and in its own backward pass the rest.

Derived from `pipeline/model/olmo.py` and `chunked_loss.py` (what autograd saves), and held against
measurements: `benchmarks/results/memory_model.md`. Not counted: the driver's context, NCCL's
buffers, the allocator's fragments.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from pipeline.model.config import OlmoConfig
from pipeline.train.config import Precision
from pipeline.train.stages.chunks import tokens_of_chunk

FLOAT = 4


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank at the highest moment of an update.

    Args:
        gradients: that exist at that moment; those of a single pass are made as activations go.
        activations: what layers keep for the backward pass, and what the one at work needs.
        logits: the loss: a chunk of logits and their gradients, and the vocabulary's matrix as it
            is multiplied, with its gradient.
        weights: of layers, as they are multiplied: bf16 copies that are kept for the backward
            pass or, under FSDP, the layers that are gathered, and gradients on their way.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    weights: int

    @property
    def total(self) -> int:
        return sum(getattr(self, each.name) for each in fields(self))


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass of a rank.

    Args:
        rows: sequences of the pass.
        length: tokens of each.
        recomputed: with activation checkpointing.
        shards: ranks that hold one copy of the model; 1 is a copy in each, without gathering.
        accumulates: an update has several passes, so the gradients of the earlier ones are there.
        reshards: a layer's gathered weights are given back until its backward pass.
        whole_gradients: those of earlier passes are held unreduced, one number a parameter.
    """

    shape: OlmoConfig
    rows: int
    length: int
    precision: Precision = "bf16"
    compiled: bool = False
    recomputed: bool = False
    shards: int = 1
    accumulates: bool = False
    reshards: bool = True
    whole_gradients: bool = False

    def peak(self) -> Memory:
        """Memory at the highest of the three moments."""
        return max(self._at_loss(), self._at_last_layer(), self._at_first_layer(), key=_total)

    @property
    def layer_parameters(self) -> int:
        return self.shape.layer_parameters()

    @property
    def width(self) -> int:
        """Bytes of a number in a matrix product."""
        return 2 if self.precision == "bf16" else 4

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def layer_activations(self) -> int:
        """Bytes that a layer keeps which is not computed again."""
        d, wide = self.shape.d_model, self.shape.mlp_hidden_size
        if self.compiled:
            return self.tokens * self.width * (12 * d + 3 * wide // 2)
        return self.tokens * (2 * FLOAT * d + self.width * (10 * d + 2 * wide))

    @property
    def at_work(self) -> int:
        """Bytes of the gradients of activations while a layer's backward pass is computed."""
        return self.tokens * self.width * 3 * self.shape.mlp_hidden_size // 2

    def _at_loss(self) -> Memory:
        return self._moment(
            gradients=self._accumulated(),
            activations=self._kept(),
            logits=self._loss(),
            layers=self.shape.n_layers,
        )

    def _at_last_layer(self) -> Memory:
        layer = self.layer_activations if self.recomputed else 0
        return self._moment(
            gradients=self._accumulated(),
            activations=self._kept() + layer + self.at_work,
            logits=self._vocabulary() * (FLOAT if self.shards == 1 else self.width),
            layers=self.shape.n_layers,
        )

    def _at_first_layer(self) -> Memory:
        made = self._of_shard(self.shape.num_parameters() - self.layer_parameters)
        return self._moment(
            gradients=max(made, self._accumulated()),
            activations=self.layer_activations + self.at_work,
            logits=0,
            layers=1,
        )

    def _moment(self, *, gradients: int, activations: int, logits: int, layers: int) -> Memory:
        held = self._of_shard(self.shape.num_parameters())
        return Memory(
            parameters=held,
            gradients=gradients,
            optimizer=2 * held,
            activations=activations,
            logits=logits,
            weights=self._weights(layers),
        )

    def _of_shard(self, parameters: int) -> int:
        return -(-parameters * FLOAT // self.shards)

    def _accumulated(self) -> int:
        """Bytes of gradients that earlier passes of the update left."""
        if not self.accumulates:
            return 0
        shards = 1 if self.whole_gradients else self.shards
        return -(-self.shape.num_parameters() * FLOAT // shards)

    def _kept(self) -> int:
        """Bytes that the layers keep between forward and backward, and the last norm."""
        d = self.shape.d_model
        last = self.tokens * d * (FLOAT + 2 * self.width)
        if self.recomputed:
            return last + self.shape.n_layers * self.tokens * d * self.width
        return last + self.shape.n_layers * self.layer_activations

    def _weights(self, layers: int) -> int:
        """Of layers: copies that are kept for the backward pass, or units that are gathered.

        FSDP2 gathers a layer while the one before it computes; the vocabulary's matrices stay
        gathered from forward to backward. A layer's gradients are whole before they are reduced,
        as float32.
        """
        layer = self.layer_parameters
        if self.shards > 1:
            root = self.shape.num_parameters() - self.shape.n_layers * layer
            gathered = 2 if self.reshards else max(2, layers)
            return self.width * (root + gathered * layer) + (self.width + FLOAT) * layer
        if self.width == FLOAT or (self.recomputed and self.compiled):
            return layer * (self.width if self.width < FLOAT else 0)
        return self.width * layers * layer

    def _loss(self) -> int:
        """Bytes at the loss: `chunked_loss.py`, with all tokens learned."""
        vocabulary, tokens = self.shape.vocab_size, self.tokens
        rows = tokens_of_chunk(tokens, vocabulary)
        matrix = self._vocabulary()
        copy = matrix * self.width if self.width < FLOAT and self.shards == 1 else 0
        product = matrix * self.width
        if self.compiled:
            logits = rows * vocabulary * self.width
            chunk = logits + max(logits, product)
        else:
            halves = self.width if self.width < FLOAT else 0
            chunk = rows * vocabulary * (2 * FLOAT + halves) + product
        return copy + matrix * FLOAT + tokens * self.shape.d_model * self.width + chunk

    def _vocabulary(self) -> int:
        return self.shape.vocab_size * self.shape.d_model


def _total(memory: Memory) -> int:
    return memory.total
