from pipeline.model.config import OlmoConfig
from pipeline.model.hf import import_hf, load_hf
from pipeline.model.made_up import write_made_up_model


def test_a_made_up_folder_is_taken_as_a_released_one(tmp_path):
    config = OlmoConfig(8, 2, 2, 16, 300, 32, tie_embeddings=True)
    write_made_up_model(tmp_path / "made", config)
    model = import_hf(tmp_path / "made", out=tmp_path / "out")
    assert load_hf(model).config == config
