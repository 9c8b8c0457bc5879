"""From the bytes of a web page to its text: which characters they are, and what of it is said."""

from __future__ import annotations

import codecs
import importlib.metadata
import logging
import re
from typing import Literal, NamedTuple

from pipeline.core.errors import MissingDependency

Focus = Literal["precision", "balanced", "recall"]
EXTRA = "olmo-tango[web]"
NOT_INSTALLED = "trafilatura (not installed)"
NOW = "2100-01-01"  # a page's date is before it: not before today, as that moves

# Of what Python can decode, what pages are in; the rest is no encoding of text, or decodes badly.
_CHARSETS = re.compile(
    r"(utf-?(8|16(le|be)?)|us-ascii|ascii|latin-?[1-9]|iso-?8859-\d{1,2}|windows-\d{3,4}|cp\d{3,4}"
    r"|koi8-[ru]|gb2312|gbk|gb18030|big5(-hkscs)?|shift[-_]jis|x-sjis|sjis|euc-(jp|kr)"
    r"|iso-2022-jp|tis-620|hz-gb-2312)$"
)
_OTHER_NAMES = {
    **dict.fromkeys(["iso-8859-1", "latin1", "latin-1", "us-ascii", "ascii"], "windows-1252"),
    **dict.fromkeys(["gb2312", "gbk"], "gb18030"),
    **dict.fromkeys(["x-sjis", "sjis", "shift-jis"], "shift_jis"),
    "hz-gb-2312": "hz",
}
_NOT_ASCII = ("utf-16", "iso2022", "hz")  # what is written in these may look like UTF-8
_BOMS = [(codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16le")]
_BOMS += [(codecs.BOM_UTF16_BE, "utf-16be")]
_META = re.compile(rb"""<meta[^>]{0,200}?charset\s{0,9}=\s{0,9}["']?\s{0,9}([\w.:-]{1,40})""", re.I)
_XML = re.compile(rb"""^\s{0,99}<\?xml[^>]{0,200}?encoding\s{0,9}=\s{0,9}["']([\w.:-]{1,40})""")
META_BYTES = 4096

# A parser that looks at each attribute of a tag for each other takes hours for a million of them.
MAX_ATTRIBUTES = 2000
_TAG = re.compile(r"""<[a-zA-Z](?:[^"'>]+|"[^"]*"|'[^']*')*""")
_VALUE = re.compile(r"""\"[^"]*"|'[^']*'""")


class Page(NamedTuple):
    """What a page says: its text, and what it tells of itself, "" where it does not."""

    text: str
    title: str
    date: str
    url: str


def extractor_version() -> str:
    """The package that extracts text, with its version: a page's text depends on it."""
    try:
        return f"trafilatura {importlib.metadata.version('trafilatura')}"
    except importlib.metadata.PackageNotFoundError:
        return NOT_INSTALLED


def decoded(data: bytes, declared: str = "") -> str:
    """The characters of a page, as browsers find them, but that what is UTF-8 is taken for it.

    The first of these decides: a byte order mark; being UTF-8; what the server said; what the page
    says of itself; else it is windows-1252. Bytes that have no meaning become U+FFFD.

    Args:
        declared: the charset of the HTTP header.

    Source: WHATWG, "Encoding Standard", for the names; "HTML", 13.2.3, for the order.
    """
    for mark, charset in _BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(charset, "replace")
    begun = data[:META_BYTES]
    found = [each.group(1).decode() for each in (_META.search(begun), _XML.match(begun)) if each]
    names = [name for name in map(_charset, [declared, *found]) if name]
    if not (names and names[0].startswith(_NOT_ASCII)):
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            pass
    return data.decode(names[0] if names else "windows-1252", "replace")


def extracted(html: str, url: str, focus: Focus, before: str = NOW) -> Page:
    """The main text of a page with its title and date; text "" where none is found.

    Nothing is fetched, and the same page gives the same text at any time.

    Args:
        url: of the page, if it is known.
        before: a date; the page is not younger.

    Raises:
        MissingDependency: trafilatura is not installed.
        ValueError: it fails on the page.
    """
    _require_few_attributes(html)
    try:
        import trafilatura
    except ImportError as error:
        raise MissingDependency(EXTRA, "text from web pages") from error
    for name in ("trafilatura", "htmldate", "courlan", "justext"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is counted
    try:
        found = trafilatura.bare_extraction(
            html,
            url=url or None,
            favor_precision=focus == "precision",
            favor_recall=focus == "recall",
            include_comments=False,
            with_metadata=True,
            date_extraction_params={
                "original_date": True,
                "extensive_search": False,
                "max_date": before,
            },
        )
    except MemoryError:
        raise
    except Exception as error:  # it meets trees that nobody thought of
        raise ValueError(f"text cannot be extracted ({type(error).__name__}: {error})") from error
    if found is None:
        return Page("", "", "", "")
    told = [getattr(found, name, None) or "" for name in ("text", "title", "date", "url")]
    return Page(*(each.encode("utf-8", "replace").decode() for each in told))


def _require_few_attributes(html: str) -> None:
    for tag in _TAG.finditer(html) if len(html) > 1 << 16 else ():
        if tag.end() - tag.start() > 2 * MAX_ATTRIBUTES:
            if len(_VALUE.sub("", tag.group()).split()) > MAX_ATTRIBUTES:
                raise ValueError(f"a tag of the page has more than {MAX_ATTRIBUTES} attributes")


def _charset(name: str) -> str:
    """The name Python has for a charset of pages; "" for what is none."""
    lower = name.strip().strip("\"'").lower()
    if not _CHARSETS.match(lower):
        return ""
    try:
        return codecs.lookup(_OTHER_NAMES.get(lower, lower)).name
    except LookupError:
        return ""
