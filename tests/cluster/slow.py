"""A tagger that takes its time and notes what it measured: `include_package` of a test."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipeline.data.taggers import Tagger
from steps.graph.wiring import COMPONENTS


@dataclass(frozen=True)
class Slow:
    """Measures the length of a text, `seconds` later; fails on a text that is in `fails`."""

    notes: str
    seconds: float = 0.5
    fails: str = ""

    VERSION: ClassVar[str] = "001"
    COLUMNS: ClassVar[dict[str, str]] = {"length": "number"}
    UNKEYED: ClassVar[tuple[str, ...]] = ("notes", "seconds")
    name: ClassVar[str] = "slow"

    def measure(self, text: str) -> dict[str, Any]:
        time.sleep(self.seconds)
        print(f"measured {text}")
        if text == self.fails:
            raise ZeroDivisionError(text)
        with open(Path(self.notes) / text, "a") as file:
            file.write(f"{os.getpid()}\n")
        return {"length": len(text)}


COMPONENTS[Tagger]["slow"] = Slow
