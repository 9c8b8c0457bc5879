"""Who may import whom, read from the import statements."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A package may import itself and what stands in a row below it.
ROWS = [
    {"browse"},
    {"train", "eval", "report"},
    {"model", "tokens"},
    {"data"},
    {"store"},
    {"core"},
]
PLANNED = [  # of train: plans read them
    "config",
    "monitors",
    "plan.cards",
    "plan.foretelling",
    "plan.memory",
    "ranks.launches",
    "small",
    "spikes",
]
WITHOUT_TORCH = ["core", "store", "data", "tokens", "report"]
FILES = sorted((ROOT / "pipeline").rglob("*.py"))
LONG: dict[str, int] = {}  # of each the limit; it says at its top why it is one idea
MAX_LINES = 400


def imports(path, everywhere=True):
    """Names of the modules that a file imports, inside functions too or not."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module)


def row(package):
    return next(number for number, names in enumerate(ROWS) if package in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_its_own_package_and_those_below(path):
    package = path.relative_to(ROOT / "pipeline").parts[0]
    for name in imports(path):
        top = name.split(".")[0]
        assert top not in ("tango", "steps"), f"{path} imports {name}"
        if name.startswith("pipeline.") and package != "__init__.py":
            other = name.split(".")[1]
            assert other == package or row(other) > row(package), f"{path} imports {name}"


def test_kernels_stand_together_as_one_cache_is_named_after_them_all():
    for path in FILES:
        if "numba" in {name.split(".")[0] for name in imports(path)}:
            assert path.parent.name == "compiled", path
            assert "cache=True" not in path.read_text() or path.name == "__init__.py"


@pytest.mark.parametrize("package", WITHOUT_TORCH)
def test_torch_stays_where_models_are(package):
    for path in (ROOT / "pipeline" / package).rglob("*.py"):
        assert "torch" not in {name.split(".")[0] for name in imports(path)}, path


def test_looking_at_results_needs_no_torch_until_a_model_is_loaded():
    for path in (ROOT / "pipeline" / "browse").rglob("*.py"):
        for name in imports(path, everywhere=False):
            assert name.split(".")[0] != "torch", path
            assert not name.startswith(("pipeline.model.hf", "pipeline.model.olmo")), path


@pytest.mark.parametrize(
    "name",
    [
        "model/config.py",
        *(f"train/{each.replace('.', '/')}.py" for each in PLANNED if each != "monitors"),
        "eval/tasks.py",
        "eval/benchmarks.py",
        "eval/made_up.py",
    ],
)
def test_what_a_plan_reads_needs_no_torch(name):
    for each in imports(ROOT / "pipeline" / name):
        assert each.split(".")[0] != "torch"
        assert not each.startswith(("pipeline.model.olmo", "pipeline.train.loop"))


def test_steps_import_what_computes_only_where_it_runs():
    for path in (ROOT / "steps").rglob("*.py"):
        for name in imports(path, everywhere=False):
            assert name.split(".")[0] != "torch", path
            if name.startswith("pipeline.train."):
                assert name.removeprefix("pipeline.train.") in PLANNED, path


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "steps").rglob("*.py"))], ids=str)
def test_a_file_is_no_longer_than_one_reading(path):
    name = path.relative_to(ROOT).as_posix()
    num_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert num_lines <= LONG.get(name, MAX_LINES)


def test_nothing_is_ever_unpickled():
    for path in [*FILES, *(ROOT / "steps").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert not {"pickle", "dill", "joblib", "shelve"} & {n.split(".")[0] for n in imports(path)}
        assert "torch.load(" not in text, path
        assert "allow_pickle=True" not in text, path
        assert not re.search(r"\b(all_)?(gather|broadcast|scatter|send|recv)_object", text), path


def test_a_plan_imports_no_torch_and_no_numba():
    code = "import sys, steps; sys.exit(bool({'torch', 'numba'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
