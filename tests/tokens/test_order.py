import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.seeds import MAX_SEED
from pipeline.core.shards import read_shard
from pipeline.tokens.inspecting import inspect_order
from pipeline.tokens.mixing import mix_tokens
from pipeline.tokens.order import MOST_BATCH, FeistelOrder, TokenBatches
from tests.tokens.test_mixing import write_tokens

sizes = st.integers(1, 300)
seeds = st.integers(0, MAX_SEED)
epochs = st.integers(0, 10**6)


@given(sizes, seeds, epochs)
def test_an_epoch_is_a_permutation(size, seed, epoch):
    shuffled = FeistelOrder(size, 1, seed).shuffle(np.arange(size), epoch)
    assert sorted(shuffled) == list(range(size))


@given(st.integers(1, 1 << 62), seeds, epochs, st.data())
def test_place_is_the_inverse_of_shuffle(size, seed, epoch, data):
    places = data.draw(st.lists(st.integers(0, size - 1), max_size=5))
    order = FeistelOrder(size, 1, seed)
    assert order.place(order.shuffle(places, epoch), epoch).tolist() == places


@given(sizes, st.integers(1, 40), st.integers(0, 50), st.integers(1, 50), seeds)
def test_ranks_of_any_world_size_read_one_batch(size, batch, step, world_size, seed):
    order = FeistelOrder(size, batch, seed)
    whole = order.at(step)
    assert len(whole) == batch
    for rank in range(world_size):
        assert order.at(step, rank, world_size).tolist() == whole[rank::world_size].tolist()


@given(sizes, st.integers(1, 40), st.integers(0, 50), seeds)
def test_when_finds_the_step_and_row_that_read_an_instance(size, batch, step, seed):
    order = FeistelOrder(size, batch, seed)
    for row, instance in enumerate(order.at(step)):
        epoch = (step * batch + row) // size
        assert order.when(int(instance), epoch) == (step, row)


def test_the_order_is_the_reviewed_one():
    assert FeistelOrder(10, 4, 0).at(0).tolist() == [3, 5, 2, 0]
    assert FeistelOrder(1_200_000_000, 4, 6198).at(500_000_000).tolist() == [
        315821199,
        99758612,
        892495801,
        1146635651,
    ]
    assert FeistelOrder(1 << 33, 3, 1).at(7).tolist() == [1835464233, 6345952322, 8509693487]


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        tuple(FeistelOrder(100, 100, seed).at(epoch).tolist())
        for seed in range(9)
        for epoch in range(9)
    }
    assert len(orders) == 81


@pytest.mark.parametrize("size", [3, 5, 10, 24])
def test_every_instance_is_equally_likely_at_every_place(size):
    num_epochs = 4000
    order = FeistelOrder(size, 1, 7)
    places = np.tile(np.arange(size), num_epochs)
    which = order.shuffle(places, np.repeat(np.arange(num_epochs), size))
    counts = np.zeros((size, size))
    np.add.at(counts, (places, which), 1)
    expected = num_epochs / size
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = (size - 1) ** 2
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom) + 5


@pytest.mark.parametrize(
    "values", [(0, 1, 0), (1, 0, 0), (1, 1 + MOST_BATCH, 0), (1, 1, -1), (1, 1, MAX_SEED + 1)]
)
def test_an_impossible_order_is_refused(values):
    with pytest.raises(ValueError, match="it must be"):
        FeistelOrder(*values)


def test_batches_hold_the_chunks_of_parts_that_cross_shards_and_repeat(tmp_path):
    one = write_tokens(tmp_path / "cache" / "a", [[[1, 2, 3], [4]], [], [[5, 6, 7, 8, 9]]])
    two = write_tokens(tmp_path / "cache" / "b", [[[11, 12, 13, 14, 15, 16, 17]]])
    repeats = {"one": 2}
    mix = mix_tokens(
        {"one": one, "two": two}, sequence_length=3, repeats=repeats, out=tmp_path / "work" / "m"
    )
    batches = TokenBatches(mix, 4, seed=3)
    assert batches.order.num_instances == 8
    read = [row for step in range(2) for row in batches.at(step)["input_ids"].tolist()]
    chunks = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert sorted(read) == sorted([*chunks, *chunks, [11, 12, 13], [14, 15, 16]])
    assert batches.at(0)["input_ids"].dtype == np.int64
    assert batches.tokens_by_source(0) + batches.tokens_by_source(1) == {"one": 18, "two": 6}
    again = pickle.loads(pickle.dumps(batches))
    rows = batches.at(5)["input_ids"].tolist()
    assert again.at(5, 1, 3)["input_ids"].tolist() == rows[1::3]


def test_inspection_names_the_document_of_every_token(tmp_path):
    shards = [[[1, 2, 3], [0], [4, 5, 6, 7]], [[8, 9]]]
    tokens = write_tokens(tmp_path / "cache" / "a", shards)
    mix = mix_tokens({"a": tokens}, sequence_length=2, out=tmp_path / "work" / "m")
    settings = {"batch_instances": 3, "seed": 1}
    order = inspect_order(
        mix, **settings, num_steps=2, first_step=1, world_size=2, out=tmp_path / "work" / "o"
    )
    documents = {f"{s}-{d}": ids for s, shard in enumerate(shards) for d, ids in enumerate(shard)}
    found = {}
    for row in read_shard(order.root, order.table).to_pylist():
        assert (row["part"], row["rank"]) == ("a", row["row"] % 2)
        piece = documents[row["id"]][row["start"] : row["end"]]
        assert piece
        found.setdefault((row["step"], row["row"]), []).extend(piece)
    batches = TokenBatches(mix, **settings)
    assert found == {
        (step, row): ids
        for step in (1, 2)
        for row, ids in enumerate(batches.at(step - 1)["input_ids"].tolist())
    }


@pytest.mark.parametrize("name", ["num_steps", "first_step", "world_size"])
def test_inspection_counts_from_one_to_what_an_order_can_count(tmp_path, name):
    tokens = write_tokens(tmp_path / "cache" / "a", [[[1, 2, 3, 4]]])
    mix = mix_tokens({"a": tokens}, sequence_length=2, out=tmp_path / "work" / "m")
    settings = {"batch_instances": 1, "seed": 1, "num_steps": 1, "out": tmp_path / "work" / "o"}
    for number in (0, 10**18):
        with pytest.raises(ValueError, match=f"{name} is {number}; it must be at least 1 and at"):
            inspect_order(mix, **{**settings, name: number})


@pytest.mark.parametrize(
    ("size", "seed", "epoch", "first"),
    [
        (10, 0, 1, [6, 9, 1, 7]),
        (1000, 6198, 0, [97, 139, 493, 300]),
        (1000, 6198, 1, [824, 622, 94, 409]),
        (1_200_000_000, 6198, 0, [152211090, 647524383, 1078527634, 293770264]),
        (1_200_000_000, 6198, 1, [238761361, 502578494, 831625596, 653115003]),
        (1_200_000_000, 7, 3, [986933433, 978490119, 821213461, 818499726]),
    ],
)
def test_each_size_seed_and_epoch_begins_as_reviewed(size, seed, epoch, first):
    order = FeistelOrder(size, 1, seed)
    assert order.shuffle(np.arange(4), epoch).tolist() == first
    assert order.place(first, epoch).tolist() == [0, 1, 2, 3]


def test_holding_is_the_inverse_of_the_documents_of_rows(tmp_path):
    one = write_tokens(tmp_path / "cache" / "a", [[[1, 2, 3], [4]], [], [[5, 6, 7, 8, 9]]])
    two = write_tokens(tmp_path / "cache" / "b", [[[11, 12, 13, 14, 15, 16, 17]]])
    mix = mix_tokens(
        {"one": one, "two": two}, sequence_length=3, repeats={"one": 2}, out=tmp_path / "w" / "m"
    )
    batches = TokenBatches(mix, 4, seed=3)
    found = {}
    for step in range(2):
        for instance, row in zip(batches.order.at(step), batches.rows(step), strict=True):
            for piece in row:
                found.setdefault(piece.id, set()).add(int(instance))
    assert found and batches.holding("no such document") == []
    for document, instances in found.items():
        assert batches.holding(document) == sorted(instances)
    assert {piece.id for piece in batches.documents(0)} <= found.keys()
