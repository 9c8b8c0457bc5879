import ast
import json

import pytest

from pipeline.core.errors import Unavailable
from pipeline.data.sources.python_install import PythonInstall, cut_off, functions_in
from pipeline.data.sources.rows import Malformed

CODE = '''"""About the module."""


def add(a, b):
    """Add two numbers and give
    their sum.

    More that is not shown.
    """
    return a + b


class Box:
    """A thing that holds another thing."""

    def open(self): "Open the box and look at it."; return 1

    def short(self):
        """Too short."""
'''


@pytest.fixture
def library(tmp_path):
    root = tmp_path / "lib"
    for name, text in {
        "box.py": CODE,
        "pack/__init__.py": "",
        "pack/mod.py": "def f():\n    return 1\n",
        "pack/tests/test_mod.py": "bad",
        "site-packages/other.py": "bad",
        "_sysconfigdata_x.py": "bad",
        "pydoc_data/topics.py": "topics = {'with': 'The with statement\\n', 'as': 'As\\n'}\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def read(part, root):
    source = PythonInstall(part, "py", root=str(root))
    return [each for piece in source.pieces() for each in source.read(piece)]


def test_code_is_every_source_but_tests_and_what_was_installed(library):
    made = read("code", library)
    assert [(each.id, json.loads(each.metadata)["module"]) for each in made] == [
        ("box.py", "box"),
        ("pack/mod.py", "pack"),
    ]
    assert made[0].text == CODE


def test_documentation_is_topics_and_docstrings(library):
    made = {each.id: each for each in read("documentation", library)}
    assert list(made) == ["box.py", "topics/as", "topics/with"]
    assert made["topics/with"].text == "The with statement\n"
    assert json.loads(made["topics/with"].metadata) == {"module": "pydoc_data.topics.with"}
    assert "box.Box.open\n\nOpen the box" in made["box.py"].text


def test_a_function_is_shown_without_its_docstring_which_is_the_answer():
    made = {each.name: each for each in functions_in(ast.parse(CODE), CODE)}
    assert list(made) == ["add", "Box", "Box.open"]
    assert made["add"].code == "def add(a, b):\n    return a + b"
    assert made["add"].answer == "Add two numbers and give their sum."
    assert "Open the box" not in made["Box.open"].code


def test_a_preference_is_the_answer_and_its_beginning(library):
    first = read("preferences", library)[0]
    metadata = json.loads(first.metadata)
    assert metadata["chosen"] == "Add two numbers and give their sum."
    assert metadata["rejected"] == "Add two numbers"
    assert metadata["prompt"][0]["role"] == "user"
    assert cut_off("One.") == "One"


def test_the_key_follows_the_sources(library):
    before = PythonInstall("code", "py", root=str(library)).fingerprint()
    (library / "pack/mod.py").write_text("def f():\n    return 2\n")
    assert PythonInstall("code", "py", root=str(library)).fingerprint() != before


def test_a_file_this_python_cannot_read_is_told(library):
    (library / "zzz.py").write_bytes(b"# coding: no-such-thing\n")
    (library / "zzzz.py").write_text("def (")
    bad = [each for each in read("functions", library) if isinstance(each, Malformed)]
    assert [each.path for each in bad] == ["zzz.py", "zzzz.py"]


def test_an_installation_without_sources_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(Unavailable, match="has no Python sources"):
        PythonInstall("code", "py", root=str(tmp_path / "empty")).fingerprint()


def test_this_python_has_functions_to_learn_from():
    source = PythonInstall("functions", "py")
    made = [each for piece in source.pieces() for each in source.read(piece)]
    assert len(made) > 3000
    assert not [each for each in made if isinstance(each, Malformed)]
    assert len({each.id for each in made}) == len(made)
