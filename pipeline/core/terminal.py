"""Text and quantities as they may be shown: what a document holds cannot steer a terminal."""

from __future__ import annotations

import unicodedata

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
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


def one_line(text: object, most: int = 200) -> str:
    """Text of somebody else as one line to read."""
    return shortened(visible(" ".join(str(text)[: 4 * most].split())), most)


def excerpt(text: object, num_lines: int = 20, num_characters: int = 2000, rest: str = "") -> str:
    """The start of a text of somebody else; where it is long, the end says how much is left out.

    Args:
        rest: where that stands, as in "the log".
    """
    text = str(text).rstrip()
    kept = "\n".join(text[:num_characters].split("\n")[:num_lines]).rstrip()
    left = len(text) - len(kept)
    place = f" in {rest}" if rest else ""
    more = f"\n… and {counted(left, 'more character')}{place}" if left else ""
    return visible(kept, keep_lines=True) + more


def counted(number: int, name: str, names: str = "") -> str:
    """A number of things: `1 result`, `2 results`; `names` where the plural is another."""
    return f"{number:,} {name if number == 1 else names or name + 's'}"


def duration(seconds: float) -> str:
    """A length of time for people: 3.2 s, 42 s, 4 min 10 s, 2 h 5 min, 3 d 4 h."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    for size, name, part, below in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        whole = round(seconds / part)
        if whole * part >= size:
            return f"{whole * part // size} {name} {whole % (size // part)} {below}"
    raise AssertionError(seconds)


def size(num_bytes: float) -> str:
    """A number of bytes, thousands to a unit: 512 B, 1.2 kB, 34 MB, 5.6 GB, 1.1 TB."""
    unit, *larger = UNITS
    while larger and abs(num_bytes) >= 999.5:
        num_bytes, unit, *larger = num_bytes / 1000, *larger
    return f"{num_bytes:.{int(unit != 'B' and abs(num_bytes) < 9.95)}f} {unit}"


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
