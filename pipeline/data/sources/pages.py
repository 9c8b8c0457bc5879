"""Sources whose files are not records: plain text, HTML pages, and the WARC files of a crawl."""

from __future__ import annotations

import codecs
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import xxhash

from pipeline.core.errors import CorruptShard, MissingDependency
from pipeline.core.fingerprints import is_url, open_outside
from pipeline.data.document import Document, json_text
from pipeline.data.sources.extraction import (
    EXTRA,
    NOW,
    Focus,
    Page,
    decoded,
    extracted,
    extractor_version,
)
from pipeline.data.sources.files import MAX_RECORD_BYTES, Files, Malformed, Piece, Skipped, reading
from pipeline.data.sources.records import require_text

GROUP_FILES, GROUP_BYTES = 1024, 32 << 20  # at most so many files in a piece; it ends with so much
MAX_HEAD_BYTES = 4 << 20  # of a record: its own header and the server's
HTML_TYPES = ("text/html", "application/xhtml+xml")
DATE = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True)
class WholeFiles(Files):
    """Files that are a document each; a piece is several, so that a shard is.

    Where a piece ends is told by the names and sizes of files: one file more disturbs its own piece
    and at most those after it up to the next name whose hash ends one.
    """

    def listed(self) -> list[Piece]:
        groups: list[list[tuple[str, str]]] = [[]]
        size = 0
        for path, name in self._found():
            groups[-1].append((path, name))
            size += 0 if is_url(path) else os.path.getsize(path)
            ends = xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogateescape")) % 256 == 0
            if ends or size >= GROUP_BYTES or len(groups[-1]) == GROUP_FILES:
                groups.append([])
                size = 0
        return [Piece(*each[0], files=tuple(each)) for each in groups if each]

    def read(self, piece: Piece) -> Iterator[Document | Malformed | Skipped]:
        """A document a file, in order; its id is the file's name."""
        for path, name in piece.files:
            with reading(path), open_outside(path, self.pins.get(path)) as file:
                data = file.read(self._max_bytes + 1)
                if len(data) > self._max_bytes:
                    reason = f"has more than {self._max_bytes} bytes"
                    yield Malformed(path, 1, reason)
                    while file.read(1 << 20):  # to its end, as a pin asks for
                        pass
                    continue
            try:
                yield self._document(path, name, data)
            except ValueError as error:
                yield Malformed(path, 1, str(error))

    @property
    def _max_bytes(self) -> int:
        return MAX_RECORD_BYTES

    def _document(self, path: str, name: str, data: bytes) -> Document | Skipped:
        """Raises ValueError for what is no document."""
        raise NotImplementedError


@dataclass(frozen=True)
class TextFiles(WholeFiles):
    """Plain text files, a document each; compressed as their names say.

    The text is the file's, but for a byte order mark; bytes that are not of its encoding make it
    malformed.

    Args:
        encoding: of all files, a name that Python knows.
    """

    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            codecs.lookup(self.encoding)
            "".encode(self.encoding)  # some are not of text
        except LookupError as error:
            raise ValueError(f"encoding is {self.encoding!r}; {error}") from None

    def _document(self, path: str, name: str, data: bytes) -> Document:
        text = data.decode(self.encoding)
        require_text(text, "text")
        return Document(_id_of(name), text.removeprefix("\ufeff"), self.source)


@dataclass(frozen=True)
class HtmlFiles(WholeFiles):
    """HTML files, a page each; its text is extracted and its url, title and date are metadata.

    A page without text is skipped and counted; one that is too large, or on which the extraction
    fails, is malformed. Nothing that a page names is fetched.

    Args:
        focus: `precision` for less that is no text, `recall` for less that is missed.
        extractor: the package that extracts, with its version: what is installed.

    Source: trafilatura, Barbaresi 2021, "Trafilatura: A Web Scraping Library and Command-Line Tool
        for Text Discovery and Extraction".
    """

    focus: Focus = "balanced"
    max_page_bytes: int = 16 << 20
    extractor: str = field(default_factory=extractor_version)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_extraction(self.max_page_bytes, self.extractor)

    @property
    def _max_bytes(self) -> int:
        return self.max_page_bytes

    def _document(self, path: str, name: str, data: bytes) -> Document | Skipped:
        page = extracted(decoded(data), "", self.focus)
        if not page.text.strip():
            return Skipped(path, 1, "the page has no text")
        return Document(_id_of(name), page.text, self.source, metadata=_metadata(page, page.url))


@dataclass(frozen=True)
class WarcFiles(Files):
    """WARC files of a crawl: the text of the HTML pages that servers answered with.

    A document's id is the record's, `created` the time of the answer; metadata has the url that was
    asked for, and the page's title and date. Other records, answers that are no page (an error, a
    redirect, an image) and pages without text are skipped and counted by reason. A record that is
    broken, too large, or on which the extraction fails, is malformed; a file that ends within a
    record is damaged. Nothing that a page names is fetched.

    Args:
        focus, extractor: as for HTML files.
        max_page_bytes: of a page as it was sent, decompressed.

    Source: ISO 28500, "WARC file format".
    """

    focus: Focus = "balanced"
    max_page_bytes: int = 16 << 20
    extractor: str = field(default_factory=extractor_version)

    VERSION: ClassVar[str] = "001"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_extraction(self.max_page_bytes, self.extractor)

    def read(self, piece: Piece) -> Iterator[Document | Malformed | Skipped]:
        """The documents of one file, in order; records are numbered from 1."""
        try:
            from warcio.archiveiterator import ArchiveIterator
            from warcio.exceptions import ArchiveLoadFailed
        except ImportError as error:
            raise MissingDependency(EXTRA, "a source of type 'warc'") from error
        with reading(piece.path), open_outside(piece.path, self.pins.get(piece.path)) as file:
            stream = _Bounded(piece.path, file)
            archive = ArchiveIterator(stream, no_record_parse=True)
            archive.INC_RECORD = ""  # what it would print of a record that is shorter than it says
            records = iter(archive)
            number = 0
            while True:
                number += 1
                stream.left = MAX_HEAD_BYTES
                try:
                    record = next(records, None)
                except (ArchiveLoadFailed, ValueError) as error:
                    raise CorruptShard(piece.path, number, f"is no record ({error})") from error
                if record is None:
                    return
                if not (record.rec_headers.get_header("Content-Length") or "").isdecimal():
                    raise CorruptShard(piece.path, number, "is a record that says no length")
                try:
                    yield self._of_record(piece, number, record, stream)
                except ValueError as error:
                    yield Malformed(piece.path, number, str(error))
                stream.left = None
                _read_out(piece.path, number, record)

    def _of_record(
        self, piece: Piece, number: int, record: Any, stream: _Bounded
    ) -> Document | Skipped:
        """Raises ValueError for a record that is broken."""
        from warcio.statusandheaders import StatusAndHeadersParser

        if record.rec_type != "response":
            return Skipped(piece.path, number, f"a record of type {_word(record.rec_type)}")
        kind = record.rec_headers.get_header("Content-Type") or ""
        if not kind.lower().startswith("application/http"):
            return Skipped(piece.path, number, "an answer that is not of HTTP")
        try:
            parser = StatusAndHeadersParser(["HTTP/1.0", "HTTP/1.1"], verify=False)
            record.http_headers = parser.parse(record.raw_stream)
        except EOFError:
            raise ValueError("the answer is empty") from None
        stream.left = None
        status = record.http_headers.get_statuscode()
        if status != "200":
            return Skipped(piece.path, number, f"HTTP status {_word(status)}")
        kind, charset = _content_type(record.http_headers.get_header("Content-Type") or "")
        if kind and kind not in HTML_TYPES:
            return Skipped(piece.path, number, "an answer of another type than HTML")
        told = record.rec_headers
        name = (told.get_header("WARC-Record-ID") or "").strip("<> ")
        date = told.get_header("WARC-Date") or ""
        url = (told.get_header("WARC-Target-URI") or "").strip("<> ")
        if not name:
            raise ValueError("has no WARC-Record-ID")
        html = decoded(_payload(record, self.max_page_bytes), charset)
        before = date[:10] if DATE.match(date) else NOW
        page = extracted(html, url, self.focus, before)
        if not page.text.strip():
            return Skipped(piece.path, number, "the page has no text")
        metadata = _metadata(page, url or page.url)
        for each, value in (("id", name), ("created", date), ("metadata", metadata)):
            require_text(value, each)
        return Document(name, page.text, self.source, created=date, metadata=metadata)


class _Bounded:
    """A stream of which only so many bytes may be read, as a header that has no end is held."""

    def __init__(self, path: str, file: Any) -> None:
        self.path, self.file = path, file
        self.left: int | None = None

    def read(self, size: int = -1) -> bytes:
        with reading(self.path):  # what ends too early would be the end for who reads records
            data: bytes = self.file.read(size)
        if self.left is not None:
            self.left -= len(data)
            if self.left < 0:
                reason = f"a record's header has more than {MAX_HEAD_BYTES} bytes"
                raise CorruptShard(self.path, None, reason)
        return data


def _payload(record: Any, max_bytes: int) -> bytes:
    """The bytes of a page; raises ValueError where they are too many or cannot be decompressed.

    A page that is not what its header says was stored unpacked, as crawlers do, and is taken so.
    """
    from warcio.bufferedreaders import ChunkedDataReader

    told = record.http_headers.get_header
    chunked = (told("Transfer-Encoding") or "").strip().lower() == "chunked"
    stream = ChunkedDataReader(record.raw_stream) if chunked else record.raw_stream
    parts, size = [], 0
    while size <= max_bytes and (block := stream.read(1 << 16)):
        parts.append(block)
        size += len(block)
    page = b"".join(parts)
    packed = (told("Content-Encoding") or "").strip().lower()
    if packed in ("gzip", "x-gzip") and page.startswith(b"\x1f\x8b"):
        page = _inflated(page, 31, max_bytes)
    elif packed == "deflate" and page[:1] == b"\x78":
        page = _inflated(page, 15, max_bytes)
    elif packed not in ("", "identity", "none", "gzip", "x-gzip", "deflate"):
        raise ValueError(f"its content encoding is {_word(packed)}, which cannot be read")
    if len(page) > max_bytes:
        raise ValueError(f"the page has more than {max_bytes} bytes")
    return page


def _inflated(data: bytes, window_bits: int, max_bytes: int) -> bytes:
    """What was compressed, or one byte more than it may be."""
    unpacking = zlib.decompressobj(window_bits)
    try:
        page = unpacking.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise ValueError(f"the page cannot be read ({error})") from None
    if len(page) <= max_bytes and not unpacking.eof:
        raise ValueError("the page cannot be read (it is cut off)")
    return page


def _read_out(path: str, number: int, record: Any) -> None:
    """Raises CorruptShard where the file ends before the record does."""
    rest = record.raw_stream
    while rest.read(1 << 16):
        pass
    if getattr(rest, "limit", 0) > 0:
        raise CorruptShard(path, number, f"is cut off, {rest.limit} bytes before its end")


def _content_type(header: str) -> tuple[str, str]:
    """The type and the charset in a header."""
    kind, *more = header.split(";")
    named = (each.strip().partition("=") for each in more)
    charset = next((value for name, _, value in named if name.lower() == "charset"), "")
    return kind.strip().lower(), charset


def _metadata(page: Page, url: str) -> str:
    told = {"url": url, "title": page.title, "date": page.date}
    return json_text({name: each for name, each in told.items() if each})


def _word(value: Any) -> str:
    """What a stranger's header says, short enough to count by."""
    return re.sub(r"[^\w.-]", "", str(value))[:20] or "of no name"


def _id_of(name: str) -> str:
    """An id of a file's name; raises ValueError for bytes that are no text."""
    require_text(name, "id")
    return name


def _check_extraction(max_page_bytes: int, extractor: str) -> None:
    if max_page_bytes < 1:
        raise ValueError(f"max_page_bytes is {max_page_bytes}; it must be at least 1")
    if extractor != (installed := extractor_version()):
        raise ValueError(f"extractor is {extractor!r}; what is installed is {installed!r}")
