import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.keys import canonical, changes, digest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Part:
    VERSION = "002"
    UNKEYED = ("speed",)
    size: float
    speed: int = 1


def test_a_component_stands_by_name_version_and_keyed_fields():
    assert canonical(Part(2.0, speed=9)) == {"is": "Part", "version": "002", "size": 2}


@given(st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False, allow_infinity=False)))
def test_the_order_of_a_dict_does_not_matter(value):
    assert digest(value) == digest(dict(reversed(value.items())))


def test_equal_numbers_and_sequences_have_equal_keys():
    assert digest([1, (2.0,)]) == digest((1.0, [2]))


@pytest.mark.parametrize("value", [{1, 2}, print, b"x", float("nan"), {1: 2}, object()])
def test_what_has_no_single_form_is_refused(value):
    with pytest.raises(ValueError, match=r"value\.at"):
        canonical({"at": value})


def test_changes_name_the_path_and_both_values():
    old = {"args": {"taggers": [{"is": "C4", "min": 3}]}}
    new = {"args": {"taggers": [{"is": "C4", "min": 5}]}}
    assert [str(c) for c in changes(old, new)] == ["args.taggers[0].min: 3 -> 5"]


VALUES = {
    "numbers": [0, -1, 1.5, 1e300, 2**70, True, None],
    "text": ["", "é", "\u2028", "a\0b", "😀"],
    "nested": {"b": {"z": [], "a": {}}, "a": (1, 2.0)},
}
GOLDEN = "35d9313fdedc4238067f211b24ac618c5129f2132905d95b5e0861bba805739c"


def test_a_key_is_the_one_it_always_was():
    assert digest(VALUES) == GOLDEN


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_every_python_and_every_process_gives_the_same_key(version):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    code = f"from pipeline.core.keys import digest; print(digest({VALUES!r}))"
    for seed in ("0", "1"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
        made = subprocess.run([python, "-S", "-c", code], env=environment, capture_output=True)
        assert made.stdout.decode().strip() == GOLDEN, made.stderr.decode()


def interpreter(version):
    """A Python of this version, on the path or where pyenv keeps them."""
    if sys.version.startswith(f"{version}."):
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    kept = sorted(pyenv.glob(f"{version}.*/bin/python"))
    return str(kept[-1]) if kept else shutil.which(f"python{version}")
