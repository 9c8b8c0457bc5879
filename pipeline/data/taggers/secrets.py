"""Passwords, keys and tokens in source code, by the package detect-secrets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from pipeline.core.errors import MissingDependency
from pipeline.data.taggers import DECIMALS, SpanRow, Value


@dataclass(frozen=True)
class Secrets:
    """Spans of what detect-secrets takes for a secret, a line at a time, with all its detectors.

    `num_secrets` counts the spans; `secrets_per_word` is that over the words between white space,
    -1 for a text without any.

    Source: allenai/dolma 1.2.1, `taggers/code`, `code_secrets_v1`.
    Differs: one column for secrets of every kind; a secret is marked wherever it stands, where
        Dolma marks its first place alone; where a line's text stands in an earlier one, too, its
        spans are in its own line, where Dolma's are in the earlier one.
    """

    name: ClassVar[str] = "secrets"
    VERSION: ClassVar[str] = "001"
    COLUMNS: ClassVar[dict[str, str]] = {
        "secrets": "spans",
        "num_secrets": "number",
        "secrets_per_word": "number",
    }

    def measure(self, text: str) -> dict[str, Value]:
        found: list[SpanRow] = sorted({(start, end, 1.0) for start, end in _secrets(text)})
        words = len(text.split())
        return {
            "secrets": found,
            "num_secrets": float(len(found)),
            "secrets_per_word": round(len(found) / words, DECIMALS) if words else -1.0,
        }


def _secrets(text: str) -> Iterator[tuple[int, int]]:
    lines = text.splitlines()
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    # a file with this ending has no heuristics of its own, and a secret needs no quotes in it
    for each in _scan()(lines=list(enumerate(lines, start=1)), filename="text.yml"):
        value = each.secret_value or ""
        place = lines[each.line_number - 1].find(value)
        if value and place >= 0:
            start = starts[each.line_number - 1] + place
            yield start, start + len(value)


@cache
def _scan() -> Callable[..., Any]:
    """What scans lines, told once for this process to look for everything."""
    try:
        from detect_secrets.core.scan import _process_line_based_plugins
        from detect_secrets.settings import configure_settings_from_baseline, default_settings
    except ImportError as error:
        raise MissingDependency("detect-secrets", "the tagger 'secrets'") from error
    with default_settings() as settings:
        everything = settings.json()
    configure_settings_from_baseline(everything)
    made: Callable[..., Any] = _process_line_based_plugins
    return made
