"""What counts as a change of the code that makes a result, and what does not."""

import itertools
import subprocess
import sys
import textwrap
from importlib import util
from pathlib import Path

import pytest

from pipeline.data.taggers.c4 import C4
from pipeline.data.taggers.gopher import Gopher
from pipeline.store.code import Code, code_of

ROOT = Path(__file__).parents[2]
NUMBER = itertools.count()


@pytest.fixture
def code(tmp_path, monkeypatch):
    """The code of `Make.run` in some files; `made.py` holds the class."""

    def of(files, components=()):
        folder = tmp_path / f"folder{next(NUMBER)}"
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(textwrap.dedent(text), encoding="utf-8")
        monkeypatch.syspath_prepend(str(folder))
        for name in {Path(path).parts[0].removesuffix(".py") for path in files}:
            for loaded in [each for each in sys.modules if each.split(".")[0] == name]:
                monkeypatch.delitem(sys.modules, loaded)
        spec = util.spec_from_file_location("made", folder / "made.py")
        module = util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "made", module)
        spec.loader.exec_module(module)
        return code_of(module.Make, "run", [getattr(module, each) for each in components])

    return of


BASE = """
    import math

    LIMIT = 3
    TABLE = {}
    TABLE["one"] = LIMIT

    def helped(values):
        return [each for each in values if each < LIMIT]

    class Part:
        size: int = 2
        def half(self):
            return math.floor(self.size / 2)

    class Base:
        FACTOR = 2
        def scaled(self, values):
            return [each * self.FACTOR for each in values]

    class Make(Base):
        VERSION = "001"
        def run(self, values, unused=None):
            from beside import late
            return late(self.scaled(helped(values)), TABLE)

        def other(self):
            return "not reached"
"""
BESIDE = """
    def late(values, table):
        return sorted(values), table

    def never():
        return 1
"""


def changed(code, old, new, beside=(BESIDE, BESIDE), components=()):
    before = code({"made.py": old, "beside.py": beside[0]}, components)
    after = code({"made.py": new, "beside.py": beside[1]}, components)
    return before.changes(after)


def replaced(old, new, text=BASE):
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = (  # a comment\n        3\n    )"),
        ("def helped(values):", 'def helped(values):\n        """Documented."""'),
        ("def helped(values):", "def helped(values: list[int]) -> list[int]:"),
        ('return "not reached"', 'return "changed"'),
        ('VERSION = "001"', 'VERSION = "002"'),
        ("class Part:", "class Other: ...\n    class Part:"),
        ("math.floor", "math.ceil"),  # of a component that was not given
    ],
)
def test_what_cannot_change_a_result_does_not_count(code, old, new):
    assert changed(code, BASE, replaced(old, new)) == []


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("LIMIT = 3", "LIMIT = 4", ["made.LIMIT"]),
        ("LIMIT = 3", "LIMIT = 3.0", ["made.LIMIT"]),
        ("each < LIMIT", "each <= LIMIT", ["made.helped"]),
        ('TABLE["one"]', 'TABLE["two"]', ["made.TABLE"]),
        ("FACTOR = 2", "FACTOR = 3", ["made.Base.FACTOR"]),
        ("each * self", "each + self", ["made.Base.scaled"]),
        ("unused=None", "unused=''", ["made.Make.run"]),
    ],
)
def test_a_change_that_is_reached_is_named(code, old, new, names):
    assert changed(code, BASE, replaced(old, new)) == names


def test_what_an_import_inside_a_function_leads_to_counts(code):
    other = BESIDE.replace("sorted(values)", "list(values)")
    assert changed(code, BASE, BASE, (BESIDE, other)) == ["beside.late"]
    assert changed(code, BASE, BASE, (BESIDE, BESIDE.replace("return 1", "return 2"))) == []


def test_a_component_reaches_its_own_class(code):
    new = replaced("math.floor", "math.ceil")
    assert changed(code, BASE, new, components=["Part"]) == ["made.Part.half"]
    assert changed(code, BASE, replaced("size: int = 2", "size: int = 3"), components=["Part"])


def test_another_name_of_another_package_counts(code):
    old = replaced("import math", "from math import floor as rounded")
    old = replaced("each < LIMIT", "rounded(each) < LIMIT", old)
    new = replaced("import floor", "import ceil", old)
    assert changed(code, old, new) == ["made.helped"]


def test_code_that_was_moved_is_the_same(code):
    helped = BASE[BASE.index("    def helped") : BASE.index("    class Part")]
    moved = BASE.replace(helped, "    from beside import helped\n\n")
    beside = "    LIMIT = 3\n" + helped + BESIDE
    assert changed(code, BASE, moved, (BESIDE, beside)) == []


def test_a_part_that_becomes_like_another_has_changed(code):
    """As where one of several limits is set to what another was before."""
    old = replaced("LIMIT = 3", "LIMIT = 3\n    LEAST = 3\n    MOST = 5")
    old = replaced("each < LIMIT", "LEAST < each < MOST + LIMIT", old)
    new = replaced("LIMIT = 3", "LIMIT = 5", old)
    assert changed(code, old, new) == ["made.LIMIT"]
    before, after = (code({"made.py": each, "beside.py": BESIDE}) for each in (old, new))
    assert before.digest != after.digest


@pytest.mark.parametrize(
    ("statement", "call"),
    [
        ("import package.inner.deep as deep", "deep.work"),
        ("import package.inner.deep", "package.inner.deep.work"),
        ("from package.inner import deep", "deep.work"),
        ("from package.inner import work", "work"),
        ("from package import *", "work"),
        ("from package import renamed", "renamed"),
    ],
)
def test_every_form_of_import_is_followed(code, statement, call):
    def files(number):
        return {
            "made.py": f"{statement}\nclass Make:\n    def run(self):\n        return {call}()\n",
            "package/__init__.py": (
                "from .inner import *\nfrom .inner.deep import work as renamed\n"
            ),
            "package/inner/__init__.py": "from .deep import work\n",
            "package/inner/deep.py": f"def work():\n    return {number}\n",
        }

    assert code(files(1)).changes(code(files(2))) == ["package.inner.deep.work"]


def test_a_local_name_does_not_lead_to_the_module(code):
    text = """
    def late(): return 0
    def helped(): return 1
    class Make:
        def run(self, late):
            return [helped for helped in late], (lambda LIMIT: LIMIT)
    LIMIT = 1
    """
    assert list(code({"made.py": text}).parts) == ["made.Make.run"]


def test_a_class_without_source_has_no_code():
    space = {"__name__": "nowhere"}
    exec("class Make:\n    def run(self): ...", space)
    assert code_of(space["Make"], "run") is None


def test_code_survives_its_record():
    made = Code.of({"a.f": "01", "a.g": "02"})
    assert Code.from_json(made.to_json()) == made
    for broken in (None, [], {}, {"digest": 1, "parts": {}}, {"digest": "x", "parts": []}):
        assert Code.from_json(broken) is None


def test_components_of_ours_count_one_by_one():
    from steps.data import Tag

    one, two = code_of(Tag, "run", [Gopher]), code_of(Tag, "run", [Gopher, C4])
    assert {name.rsplit(".", 2)[0] for name in one.changes(two)} >= {"pipeline.data.taggers.c4"}
    assert not any(name.startswith("pipeline.data.taggers.gopher") for name in one.changes(two))


def test_how_a_step_is_run_is_not_part_of_its_code():
    from steps.data import Tag

    parts = code_of(Tag, "run", [Gopher]).parts
    assert "pipeline.data.tagging.tag_documents" in parts
    assert not [p for p in parts if p.startswith(("pipeline.core.engine", "pipeline.store"))]
    assert not [p for p in parts if p.startswith(("steps.base", "steps.graph.wiring"))]


def test_training_code_is_read_without_torch():
    script = (
        "import sys, steps; from steps.train import Dpo; from pipeline.store.code import code_of\n"
        "parts = code_of(Dpo, 'run').parts\n"
        "assert {'pipeline.train.loop.train', 'pipeline.model.olmo.Olmo.forward'} <= parts.keys()\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
