"""Text from data as it may be shown: what a document holds cannot steer a terminal."""

from __future__ import annotations

import unicodedata

HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # control, direction, halves, unassigned, lines


def visible(text: object, keep_lines: bool = False) -> str:
    """Text with every character that acts instead of being seen written as its code.

    Joiners within a word and signs of text direction act too: they may make a name look like
    another.

    Args:
        keep_lines: leave newlines and tabs as they are; else they are shown as signs.
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(each, keep_lines) for each in text)


def shortened(text: str, most: int) -> str:
    """At most so many characters, with a sign where some are left out."""
    return text if len(text) <= most else text[: max(0, most - 1)] + "…"


def counted(number: int, name: str, names: str = "") -> str:
    """A number of things: `1 result`, `2 results`; `names` where the plural is another."""
    return f"{number:,} {name if number == 1 else names or name + 's'}"


def _shown(character: str, keep_lines: bool) -> str:
    if character == "\n":
        return "\n" if keep_lines else "⏎"
    if character == "\t":
        return "    " if keep_lines else "⇥"
    if unicodedata.category(character) not in HIDDEN:
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
