import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.core.errors import CorruptShard, Inaccessible
from pipeline.store.tensors import TensorFiles, file_name, sharding_note, tensor_files
from tests.fixtures.kept_from import forbid

WHOLE = {"a": np.arange(21, dtype=np.float32).reshape(7, 3), "b": np.ones(2, np.float32)}


def write(folder, cuts, num_ranks=None):
    """Write `a` cut at some rows, a file a part; `b` is whole in the first."""
    bounds = list(zip([0, *cuts], [*cuts, 7], strict=True))
    for rank, (start, stop) in enumerate(bounds):
        held = {"a": WHOLE["a"][start:stop]} | ({"b": WHOLE["b"]} if rank == 0 else {})
        note = sharding_note({"a": (start, 0), "b": (0,)} if rank == 0 else {"a": (start, 0)})
        path = folder / file_name("model", rank, num_ranks or len(bounds))
        save_file({n: np.ascontiguousarray(each) for n, each in held.items()}, path, note)


@pytest.mark.parametrize("cuts", [(), (4,), (2, 3, 6)])
def test_rows_of_several_files_are_one_tensor(tmp_path, cuts):
    write(tmp_path, cuts)
    with TensorFiles(tensor_files(tmp_path, "model"), "np") as files:
        assert files.names == ["a", "b"] and "a" in files and "c" not in files
        assert files.shape("a") == (7, 3) and files.kind("a") == "F32"
        for name, whole in WHOLE.items():
            assert np.array_equal(np.concatenate([*files.parts(name)]), whole)


def test_a_checkpoint_without_the_file_of_a_rank_is_refused(tmp_path):
    write(tmp_path, (2, 4))
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CorruptShard, match="lacks model files; there is model-00001-of-00003"):
        tensor_files(tmp_path, "model")
    with pytest.raises(CorruptShard, match="lacks optimizer files; there is none"):
        tensor_files(tmp_path, "optimizer")


def test_rows_that_do_not_follow_on_each_other_are_refused(tmp_path):
    write(tmp_path, (2, 4))
    paths = tensor_files(tmp_path, "model")
    with pytest.raises(CorruptShard, match="begins at row 4, not at 2"):
        TensorFiles([paths[0], paths[2]], "np")
    with pytest.raises(CorruptShard, match="begins at row 0, not at 2"):
        TensorFiles([paths[0], paths[0]], "np")


@pytest.mark.parametrize("note", ["{", "{}", '{"a": {"saved_offsets": [0, 1]}}'])
def test_a_header_that_does_not_place_its_tensors_is_refused(tmp_path, note):
    path = tmp_path / "model.safetensors"
    save_file({"a": WHOLE["a"]}, path, {"DCP_SHARDING_INFO": note})
    with pytest.raises(CorruptShard, match="model.safetensors: not readable safetensors"):
        TensorFiles([path], "np")


@pytest.mark.parametrize(
    "note",
    ["[" * 200_000, "[]", '{"a": 1}', '{"a": {"saved_offsets": ["0", 0]}}']
    + ['{"a": {"saved_offsets": [-2, 0]}}', '{"a": {"saved_offsets": [0]}}'],
)
def test_a_note_of_a_stranger_is_refused_by_the_name_of_its_file(tmp_path, note):
    path = tmp_path / "model.safetensors"
    save_file({"a": np.zeros((2, 2), np.float32)}, path, metadata={"DCP_SHARDING_INFO": note})
    with pytest.raises(CorruptShard, match="model.safetensors: not readable safetensors"):
        TensorFiles([path], "np")


def test_tensors_that_may_not_be_read_are_not_said_to_be_broken_or_missing(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_file({"a": np.zeros(2, np.float32)}, path)
    forbid(monkeypatch, path)
    with pytest.raises(Inaccessible, match="model.safetensors cannot be read"):
        TensorFiles([path])
