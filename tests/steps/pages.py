"""Steps that write one page of text: cheap, and any graph can be made of them."""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path

from tango.step import Step

from pipeline.core.artifacts import Report
from pipeline.core.files import NamedFile
from pipeline.core.fingerprints import OutsideFile
from steps.base import PipelineStep


def page(out: Path, text: str) -> Report:
    """A result whose content is its text."""
    (out / "page.html").write_text(text, encoding="utf-8")
    return Report.of(out, page=NamedFile.of(out, "page.html"))


def said(text: str) -> str:
    return text.strip()


@Step.register("test_write", exist_ok=True)
class WriteText(PipelineStep):
    """A page of a text, without the spaces around it."""

    def run(self, text: str, mark: int = 0) -> Report:
        return page(self.out, said(text))


@Step.register("test_join", exist_ok=True)
class JoinTexts(PipelineStep):
    """Several pages as one."""

    def run(self, pages: list[Report], between: str = " ") -> Report:
        texts = [(each.root / "page.html").read_text(encoding="utf-8") for each in pages]
        return page(self.out, between.join(texts))


@Step.register("test_copy", exist_ok=True)
class CopyText(PipelineStep):
    """A page of an outside file."""

    def run(self, path: OutsideFile) -> Report:
        return page(self.out, path.local().read_text(encoding="utf-8"))


@Step.register("test_series", exist_ok=True)
class Continue(PipelineStep):
    """A page of how often its series was written to."""

    SERIES = True

    def run(self, text: str) -> Report:
        number = len(list(self.series.glob("[0-9]*")))
        (self.series / str(number)).write_text(said(text), encoding="utf-8")
        return page(self.out, str(number))


def as_changed(folder: Path, old: str, new: str) -> None:
    """Register these steps again, from a copy of this file with a change."""
    text = Path(__file__).read_text(encoding="utf-8")
    assert old in text
    folder.mkdir()
    (folder / "pages.py").write_text(text.replace(old, new), encoding="utf-8")
    spec = util.spec_from_file_location("pages", folder / "pages.py")
    module = util.module_from_spec(spec)
    sys.modules["pages"] = module
    spec.loader.exec_module(module)


def write(text: str, **more):
    return {"type": "test_write", "text": text, **more}


def join(*names: str, **more):
    return {"type": "test_join", "pages": [{"type": "ref", "ref": n} for n in names], **more}
