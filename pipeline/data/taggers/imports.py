"""What a Python file imports, told without running it."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import sys
import sysconfig
from functools import cache
from pathlib import Path

from pipeline.core.fingerprints import fingerprint_files
from pipeline.data.taggers import package_version

OURS = "pipeline"  # whose measures have versions of their own


def imported(path: Path) -> list[str]:
    """The modules that a file names in `import` statements, in order, each with what it is.

    Of an installed package that is its version, as which of its changes change a result cannot be
    known; of a module from elsewhere the digest of its `.py` files. Python's own are left out.
    A file that is no Python imports nothing.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {each.name.split(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return [_told(name) for name in sorted(names - sys.stdlib_module_names - {OURS})]


def _told(name: str) -> str:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return f"no {name}"
    folders = [Path(each) for each in spec.submodule_search_locations or ()]
    files = sorted(path for each in folders for path in each.rglob("*.py"))
    if not files and spec.origin and Path(spec.origin).is_file():
        files = [Path(spec.origin)]
    if any(_is_installed(path) for path in files) or not files:
        return ", ".join(package_version(each) for each in _distributions().get(name, [name]))
    base = folders[0] if folders else files[0].parent
    return f"{name} {fingerprint_files(files, [str(path.relative_to(base)) for path in files])}"


def _is_installed(path: Path) -> bool:
    return any(path.is_relative_to(sysconfig.get_path(each)) for each in ("purelib", "platlib"))


@cache
def _distributions() -> dict[str, list[str]]:
    """Name of a module -> the packages that it is of."""
    found = importlib.metadata.packages_distributions()
    return {name: sorted(set(packages)) for name, packages in found.items()}
