"""Passwords, keys and tokens in source code, by the package detect-secrets."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from pipeline.core.errors import MissingDependency
from pipeline.data.taggers import DECIMALS, SpanRow, Value, package_version

# beyond these the package's patterns take minutes to hours: their time grows by the cube of a line
MAX_LINE = 1000  # characters
MAX_NAMES = 20  # of what a secret is called, as `password`, in a line
BLANKS = re.compile(r"(\s{16})\s+")  # a longer run is read as its beginning


@dataclass(frozen=True)
class Secrets:
    """Spans of what detect-secrets takes for a secret, a line at a time, with all its detectors.

    `num_secrets` counts the spans; `secrets_per_word` is that over the words between white space,
    -1 for a text without any. `num_skipped_lines` counts the lines that are not looked at: of more
    than 1,000 characters, or with more than 20 words as `password` or `api_key`.

    Source: allenai/dolma 1.2.1, `taggers/code`, `code_secrets_v1`.
    Differs: one column for secrets of every kind; a secret is marked wherever it stands, where
        Dolma marks its first place alone; where a line's text stands in an earlier one, too, its
        spans are in its own line, where Dolma's are in the earlier one. Dolma looks at every line,
        however long that takes; of more than 16 white-space characters together the others are
        not seen here, so that a secret that holds so many is not found.
    """

    name: ClassVar[str] = "secrets"
    VERSION: ClassVar[str] = "002"
    COLUMNS: ClassVar[dict[str, str]] = {
        "secrets": "spans",
        "num_secrets": "number",
        "num_skipped_lines": "number",
        "secrets_per_word": "number",
    }

    def fingerprint(self) -> str:
        """The package that tells what a secret is."""
        return package_version("detect-secrets")

    def measure(self, text: str) -> dict[str, Value]:
        secrets, num_skipped = _secrets(text)
        found: list[SpanRow] = sorted({(start, end, 1.0) for start, end in secrets})
        words = len(text.split())
        return {
            "secrets": found,
            "num_secrets": float(len(found)),
            "num_skipped_lines": float(num_skipped),
            "secrets_per_word": round(len(found) / words, DECIMALS) if words else -1.0,
        }


def _secrets(text: str) -> tuple[list[tuple[int, int]], int]:
    """The places of secrets, and how many lines are not looked at."""
    scan, lines = _scan(), text.splitlines()
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    is_read = [not _is_skipped(line) for line in lines]
    read = [BLANKS.sub(r"\1", line) * each for line, each in zip(lines, is_read, strict=True)]
    places = []
    # a file with this ending has no heuristics of its own, and a secret needs no quotes in it
    for each in scan(lines=list(enumerate(read, start=1)), filename="text.yml"):
        value = each.secret_value or ""
        place = lines[each.line_number - 1].find(value)
        if value and place >= 0:
            start = starts[each.line_number - 1] + place
            places.append((start, start + len(value)))
    return places, len(lines) - sum(is_read)


def _is_skipped(line: str) -> bool:
    return len(line) > MAX_LINE or len(_names().findall(line)) > MAX_NAMES


@cache
def _names() -> re.Pattern[str]:
    from detect_secrets.plugins.keyword import DENYLIST

    return re.compile("|".join(DENYLIST), re.IGNORECASE)


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
