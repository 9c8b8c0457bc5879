import numpy as np
import pytest

from pipeline.core.artifacts import Artifact
from pipeline.core.errors import CorruptShard, MismatchedInputs
from pipeline.tokens import olmo_indices
from pipeline.tokens.inspecting import inspect_order
from pipeline.tokens.olmo_indices import FileOrder, OlmoReplay, import_order, open_indices
from pipeline.tokens.olmo_order import OlmoOrder, OlmoShuffle
from pipeline.tokens.order import TokenBatches
from tests.tokens.test_olmo_order import mixed


def shuffled(size, seed=6198):
    indices = np.arange(size, dtype=np.uint32)
    np.random.Generator(np.random.PCG64(seed)).shuffle(indices)
    return indices


def imported(tmp_path, indices):
    path = tmp_path / "global_indices.npy"
    path.write_bytes(np.asarray(indices, "<u4").tobytes())
    return import_order(path, out=tmp_path / "order")


@pytest.fixture(params=[7, 1 << 20])
def blocks(request, monkeypatch):
    monkeypatch.setattr(olmo_indices, "BLOCK_INDICES", request.param)


def test_the_file_of_a_thousand_instances_is_read_as_the_reference_reads_it(tmp_path, blocks):
    made = imported(tmp_path, shuffled(1000))
    order, same = FileOrder(made, 1000, 4), OlmoOrder(1000, 4, 6198)
    assert order.at(0).tolist() == [615, 832, 881, 9]
    for step in (0, 1, 249):
        assert order.at(step).tolist() == same.at(step).tolist()
        assert order.at(step, 1, 2).tolist() == same.at(step, 1, 2).tolist()


def test_the_copy_stands_alone_and_its_manifest_says_what_it_holds(tmp_path, blocks):
    made = imported(tmp_path, [4, 0, 2, 30])
    (tmp_path / "global_indices.npy").unlink()
    loaded = Artifact.load(made.root)
    loaded.verify()
    assert (loaded.num_instances, loaded.largest) == (4, 30)
    assert isinstance(open_indices(loaded), np.memmap)
    assert open_indices(loaded).tolist() == [4, 0, 2, 30]


def test_when_inverts_the_file_and_knows_what_its_whole_batches_leave_out(tmp_path, blocks):
    order = FileOrder(imported(tmp_path, shuffled(103)[:100]), 103, 8)
    found = {instance: order.when(instance) for instance in range(103)}
    assert sum(each is None for each in found.values()) == 7
    for instance, place in found.items():
        assert place is None or order.at(place[0])[place[1]] == instance
    assert order.when(int(order.at(0)[0]), epoch=1) is None


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "has 0 bytes; it must have 4 for each index, and one or more"),
        (bytes(7), "has 7 bytes; it must have 4 for each index"),
        (b"\x93NUMPY" + bytes(10), "has a NumPy header; ai2-olmo's file"),
        (np.array([5, 3, 9, 5], "<u4").tobytes(), "the index 5 stands before already"),
    ],
)
def test_a_file_that_is_no_reading_order_is_refused(tmp_path, content, fault):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(CorruptShard, match=fault):
        import_order(tmp_path / "f", out=tmp_path / "o")
    assert not (tmp_path / "o").exists() or not list((tmp_path / "o").iterdir())


def test_an_index_that_repeats_is_found_at_its_place_in_any_block(tmp_path, blocks):
    indices = shuffled(50)
    indices[41] = indices[2]
    with pytest.raises(CorruptShard, match=f"record 41: the index {indices[2]} stands before"):
        imported(tmp_path, indices)


def test_an_index_that_the_mix_has_not_is_named_with_its_place(tmp_path, blocks):
    made = imported(tmp_path, [*range(20), 120, 300, 20])
    with pytest.raises(MismatchedInputs, match="of 100 instances.*at place 20 is 120"):
        FileOrder(made, 100, 4)


def test_past_its_end_a_file_says_how_many_steps_it_holds(tmp_path):
    order = FileOrder(imported(tmp_path, range(10)), 10, 4)
    assert order.at(1).tolist() == [4, 5, 6, 7]
    fault = "step is 2, from 0; the index file has 10 instances, which is 2 updates of batch_size 4"
    with pytest.raises(ValueError, match=fault):
        order.at(2)
    with pytest.raises(ValueError, match="batch_instances is 11; .* 0 updates of"):
        FileOrder(order.indices, 10, 11)


def test_replayed_is_what_the_shuffle_reads_and_inspected_is_what_is_replayed(tmp_path):
    mix, order = mixed(tmp_path), OlmoReplay(imported(tmp_path, shuffled(4, 7)))
    replay, same = TokenBatches(mix, 2, 1, order), TokenBatches(mix, 2, 1, OlmoShuffle(7))
    for step in range(2):
        assert replay.at(step)["input_ids"].tolist() == same.at(step)["input_ids"].tolist()
        assert replay.rows(step) == same.rows(step)
    settings = {"batch_instances": 2, "seed": 1}
    table = inspect_order(mix, order=order, num_steps=2, out=tmp_path / "a", **settings)
    other = inspect_order(mix, order=OlmoShuffle(7), num_steps=2, out=tmp_path / "b", **settings)
    assert table.content == other.content
    for asked in ({"num_steps": 3}, {"num_steps": 2, "first_step": 2}):
        told = " from first_step ".join(str(each) for each in asked.values())
        fault = f"num_steps is {told}; .* 4 instances, which is 2 updates of batch_size 2, and no"
        with pytest.raises(ValueError, match=fault):
            inspect_order(mix, order=order, out=tmp_path / "c", **asked, **settings)
