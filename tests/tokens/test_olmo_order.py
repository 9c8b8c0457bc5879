import numpy as np
import pytest

from pipeline.core.artifacts import Artifact
from pipeline.tokens.inspecting import inspect_order
from pipeline.tokens.mixing import mix_tokens
from pipeline.tokens.olmo_order import OlmoOrder, OlmoShuffle
from pipeline.tokens.order import TokenBatches
from tests.tokens.test_mixing import write_tokens


def mixed(tmp_path, **settings):
    """A mix of shards of 10, 3 and 9 tokens, counted up from 1, in instances of 4."""
    runs = [range(1, 11), range(11, 14), range(14, 23)]
    tokens = write_tokens(tmp_path / "t", [[list(run[:5]), list(run[5:])] for run in runs])
    return mix_tokens({"all": tokens}, sequence_length=4, **settings, out=tmp_path / "work" / "m")


def test_the_order_of_a_thousand_instances_is_the_reference_s():
    assert OlmoOrder(1000, 4, 6198).at(0).tolist() == [615, 832, 881, 9]


def test_ranks_read_every_nth_row_of_the_same_global_batch():
    order = OlmoOrder(103, 8, 6198)
    for step in (0, 11, 12, 30):
        whole = order.at(step)
        for size in (2, 4):
            parts = [order.at(step, rank, size) for rank in range(size)]
            assert np.stack(parts, axis=1).ravel().tolist() == whole.tolist()


def test_an_epoch_ends_with_its_last_whole_batch_and_the_next_has_the_next_seed():
    order = OlmoOrder(103, 8, 6198)
    read = np.concatenate([order.at(step) for step in range(12)])
    assert len(set(read.tolist())) == order.num_instances == 96
    assert order.at(12).tolist() == OlmoOrder(103, 8, 6199).at(0).tolist()


def test_when_inverts_the_order_and_knows_what_an_epoch_leaves_out():
    order = OlmoOrder(103, 8, 6198)
    left_out = 0
    for instance in range(103):
        found = order.when(instance, epoch=1)
        left_out += found is None
        if found is not None:
            assert order.at(found[0])[found[1]] == instance
    assert left_out == 7


def test_instances_are_numbered_file_by_file_without_the_tail_of_each(tmp_path):
    reader = OlmoShuffle().reader(mixed(tmp_path))
    rows = reader.read(np.arange(reader.num_instances)).tolist()
    assert rows == [[1, 2, 3, 4], [5, 6, 7, 8], [14, 15, 16, 17], [18, 19, 20, 21]]


def test_a_document_is_found_where_its_tokens_are_read(tmp_path):
    reader = OlmoShuffle().reader(mixed(tmp_path))
    held = {number: {piece.id for piece in reader.pieces(number)} for number in range(4)}
    for document in ("0-0", "0-1", "1-0", "2-0", "2-1"):
        expected = [number for number, ids in held.items() if document in ids]
        assert reader.holding(document) == expected


def test_inspected_is_what_is_read(tmp_path):
    mix = mixed(tmp_path)
    order = OlmoShuffle(7)
    settings = {"batch_instances": 2, "seed": 1, "order": order}
    table = inspect_order(mix, num_steps=4, out=tmp_path / "o", **settings)
    batches = TokenBatches(mix, **settings)
    instances = np.arange(batches.reader.num_instances)
    places = [batches.reader.locate(int(each))[0] for each in instances]
    assert batches.reader.places(instances).tolist() == places
    assert (
        batches.at(0)["input_ids"].tolist()
        == batches.reader.read(OlmoOrder(4, 2, 7).at(0)).tolist()
    )
    assert Artifact.load(table.root).num_steps == 4


@pytest.mark.parametrize("settings", [{"num_instances": 3}, {"repeats": {"all": 2}}])
def test_a_mix_that_is_not_read_once_is_refused(tmp_path, settings):
    with pytest.raises(ValueError, match="'all'; OLMo's order reads each part once"):
        OlmoShuffle().reader(mixed(tmp_path, **settings))


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="batch_instances is 9; it must be from 1 to 8"):
        OlmoOrder(8, 9, 0)
