import os
import subprocess
import sys
from pathlib import Path

import pytest

# Installed without a look at what its dependencies' newest versions ask for: resolved all at once,
# they take hours, and so does a free boto3 beside s3fs. `fasttext-wheel` has no need of the
# compiler that its metadata asks for.
DOLMA = ["dolma==1.2.1", "fasttext-wheel==0.9.2"]
WITH_DOLMA = """anyascii blingfire==0.1.8 boto3==1.28.17 fsspec jsonpath-ng jq msgspec nltk
omegaconf platformdirs pyyaml python-dotenv requests rich s3fs==2023.6.0 smart-open
tokenizers<=0.19.1 tqdm uniseg numpy<2 necessary charset-normalizer zstandard
huggingface-hub<0.30 pybind11 detect-secrets beautifulsoup4 regex pygments""".split()
# it hashes strings, which newer xxhash refuses; its English words are spaCy's
DATATROVE = ["datatrove==0.10.1", "xxhash<4", "spacy", "tokenizers", "regex", "orjson"]
# its trainer's imports, without beaker; it asks for numpy<2, which today's datasets refuses
OLMO = ["ai2-olmo==0.6.0", "ai2-olmo-core==0.1.0"]
WITH_OLMO = """torch<2.14 numpy transformers tokenizers safetensors omegaconf rich boto3 pydantic
google-cloud-storage cached_path importlib_resources packaging requests wandb torchmetrics datasets
scikit-learn msgspec""".split()


def _environment(folder, *installs):
    """The Python of a new environment with what each of these installs."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin" / "pip", "install", "-q", "--disable-pip-version-check"]
    for each in installs:
        subprocess.run([*pip, *each], check=True)
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def dolma(tmp_path_factory):
    """The Python of an environment with dolma: that of OLMO_TANGO_DOLMA, or one that is made."""
    given = os.environ.get("OLMO_TANGO_DOLMA")
    if given:
        return Path(given)
    return _environment(tmp_path_factory.mktemp("dolma"), ["--no-deps", *DOLMA], WITH_DOLMA)


@pytest.fixture(scope="session")
def datatrove(tmp_path_factory):
    """The Python of an environment with datatrove: that of OLMO_TANGO_DATATROVE, or a new one."""
    given = os.environ.get("OLMO_TANGO_DATATROVE")
    if given:
        return Path(given)
    return _environment(tmp_path_factory.mktemp("datatrove"), DATATROVE)


@pytest.fixture(scope="session")
def olmo(tmp_path_factory):
    """The Python of an environment with ai2-olmo: that of OLMO_TANGO_OLMO, or a new one."""
    given = os.environ.get("OLMO_TANGO_OLMO")
    if given:
        return Path(given)
    return _environment(tmp_path_factory.mktemp("olmo"), ["--no-deps", *OLMO], WITH_OLMO)


@pytest.fixture(scope="session")
def real_texts():
    """Files of documents in Dolma's format, below the folder that OLMO_TANGO_TEXT names."""
    folder = os.environ.get("OLMO_TANGO_TEXT")
    if not folder:
        pytest.skip("OLMO_TANGO_TEXT names no folder of documents (*.jsonl.gz)")
    return sorted(Path(folder).glob("*.jsonl.gz"))
