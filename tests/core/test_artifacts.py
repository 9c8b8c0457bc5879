import pytest

from pipeline.core.artifacts import Artifact, Checkpoint, Checkpoints, MixPart, TokenMix
from pipeline.core.errors import CorruptShard
from pipeline.core.files import StoredFile


@pytest.mark.parametrize("location", ["../../../etc", "/etc", "../../../../../../..", "../.."])
def test_a_mix_reads_nothing_outside_of_its_workspace(tmp_path, location):
    mix = make_mix(tmp_path, location)
    with pytest.raises(CorruptShard, match="outside of"):
        Artifact.load(mix.root).load_parts()


def test_a_mix_whose_part_is_a_link_is_refused(tmp_path):
    mix = make_mix(tmp_path, "../part")
    (tmp_path / "workspace" / "cache" / "part").symlink_to(tmp_path)
    with pytest.raises(CorruptShard, match="outside of"):
        mix.load_parts()


@pytest.mark.parametrize("series", ["../../etc", "/etc", "", "g" * 64, "0" * 63])
def test_checkpoints_of_no_series_are_refused(tmp_path, series):
    root = tmp_path / "workspace" / "cache" / "base"
    made_checkpoints(root, series)
    with pytest.raises(CorruptShard, match="which is not an id"):
        Artifact.load(root)


def test_checkpoints_whose_series_is_a_link_are_refused(tmp_path):
    root = tmp_path / "workspace" / "cache" / "base"
    checkpoints = made_checkpoints(root, "0" * 64)
    assert checkpoints.folder(checkpoints.latest).name == "step000400"
    (tmp_path / "workspace" / "series").mkdir()
    (tmp_path / "workspace" / "series" / ("0" * 64)).symlink_to(tmp_path)
    with pytest.raises(CorruptShard, match="outside of"):
        _ = checkpoints.series_root


def make_mix(tmp_path, location):
    return TokenMix.of(
        tmp_path / "workspace" / "cache" / "mix",
        sequence_length=8,
        tokenizer="t",
        dtype="uint16",
        vocab_size=2,
        end_id=0,
        parts=[MixPart("a", "c", 1, 1)],
        locations=[location],
    )


def made_checkpoints(root, series):
    root.mkdir(parents=True)
    (root / "history.parquet").write_bytes(b"")
    return Checkpoints.of(
        root,
        series=series,
        model={},
        tokenizer="t",
        objective="dpo",
        steps=[Checkpoint("step000400", 400, 1, 1, "w")],
        history=StoredFile.of(root, "history.parquet"),
    )
