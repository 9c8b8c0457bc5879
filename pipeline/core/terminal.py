"""Text from data as a terminal may show it."""

from __future__ import annotations

import unicodedata

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def plain(text: object) -> str:
    """The text in one line, with escapes for what would move a cursor, hide or turn text around.

    Joiners within a word and signs of text direction are escaped too: they may make a name look
    like another.
    """
    return "".join(
        each if unicodedata.category(each) not in _HIDDEN else _escaped(each) for each in str(text)
    )


def _escaped(character: str) -> str:
    known = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
    number = ord(character)
    if number > 0xFFFF:
        return f"\\U{number:08x}"
    return known.get(character) or (f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}")
