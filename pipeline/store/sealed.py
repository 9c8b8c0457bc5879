"""Small JSON files that tell when a byte of them changed: the first line is a digest of the rest.

{"digest": "9f2c…",
"files": {…}, …}
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.core.files import write_file
from pipeline.core.untrusted import parsed, read_plain_file


def write_sealed(path: Path, form: dict[str, Any]) -> None:
    """Write an object, complete or not at all."""
    rest = json.dumps(form, separators=(",", ":"), allow_nan=False)[1:].encode()
    write_file(path, _first_line(rest) + rest)


def read_sealed(path: Path) -> dict[str, Any]:
    """The object in a file that `write_sealed` wrote.

    Raises:
        OSError: it is missing or not readable.
        ValueError: it is not as it was written.
    """
    return unsealed(read_plain_file(path))


def unsealed(text: bytes) -> dict[str, Any]:
    """The object in the bytes of such a file; raises ValueError as `read_sealed` does."""
    first, line, rest = text.partition(b"\n")
    if first + line != _first_line(rest):
        raise ValueError("its digest is not that of its bytes")
    form = parsed(text)
    if not isinstance(form, dict):
        raise ValueError("it is no object")
    form.pop("digest", None)
    return form


def _first_line(rest: bytes) -> bytes:
    return b'{"digest": "' + hashlib.sha256(rest).hexdigest().encode() + b'",\n'
