import gzip
import json
import random
import socket
import zlib

import pytest

from pipeline.browse.text import documents as documents_shown
from pipeline.core.errors import CorruptShard, MissingDependency
from pipeline.core.keys import canonical, digest
from pipeline.data.document import Document
from pipeline.data.ingest import SKIPPED, ingest_documents
from pipeline.data.sources import pages
from pipeline.data.sources.cut import Cut
from pipeline.data.sources.extraction import decoded
from pipeline.data.sources.pages import HtmlFiles, TextFiles, WarcFiles
from pipeline.data.sources.rows import Malformed, Skipped
from pipeline.store.memo import FileMemo
from tests.data.conftest import column

SAID = "The lighthouse on the northern cape was built of grey stone, and its keeper wrote letters."
ARTICLE = f"""<!DOCTYPE html><html><head><title>The lighthouse</title>
<meta property="article:published_time" content="2019-05-17"></head><body>
<nav><a href="/">Home</a> <a href="/about">About us</a></nav>
<article><h1>The lighthouse</h1>{"".join(f"<p>{SAID} Letter {n}.</p>" for n in range(8))}</article>
<script>var tracker = "tracker";</script><footer>Copyright of nobody</footer></body></html>"""


DAMAGED = gzip.compress(random.Random(0).randbytes(90_000), mtime=0)
DAMAGED = DAMAGED[:40_000] + b"\0" * 1000 + DAMAGED[41_000:]


@pytest.fixture(scope="session")
def web():
    pytest.importorskip("trafilatura")
    pytest.importorskip("warcio")


def everything(source):
    return [each for piece in source.pieces() for each in source.read(piece)]


def answer(body, status="200 OK", kind="text/html; charset=utf-8", headers=()):
    body = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", *([f"Content-Type: {kind}"] if kind else []), *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def record(number, block, kind="response", url="https://example.org/a", length=None, name=None):
    lines = [
        "WARC/1.0",
        f"WARC-Type: {kind}",
        f"WARC-Record-ID: <urn:uuid:{number:032d}>" if name is None else name,
        f"WARC-Target-URI: {url}",
        "WARC-Date: 2024-04-25T16:24:44Z",
        f"Content-Type: application/http;msgtype={kind}",
        f"Content-Length: {len(block) if length is None else length}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + block + b"\r\n\r\n"


def warc(path, *records, compressed=True):
    path.write_bytes(b"".join(map(gzip.compress, records) if compressed else records))
    return WarcFiles(str(path), "web")


def test_text_files_are_a_document_each_named_by_their_path(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/2.txt").write_bytes("two \x00\r\n عربي e\u0301".encode())
    (tmp_path / "b/1.txt.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfone\n"))
    (tmp_path / "b/0.txt").write_bytes(b"")
    found = everything(TextFiles(str(tmp_path / "*/*"), "books"))
    assert [each.id for each in found] == ["b/0.txt", "b/1.txt.gz", "b/2.txt"]
    assert [each.text for each in found] == ["", "one\n", "two \x00\r\n عربي e\u0301"]


def test_a_text_file_of_another_encoding_is_malformed_unless_it_is_told(tmp_path):
    (tmp_path / "a.txt").write_bytes("é".encode("latin-1"))
    (bad,) = everything(TextFiles(str(tmp_path / "a.txt"), "books"))
    assert bad.path.endswith("a.txt") and "can't decode byte 0xe9" in bad.reason
    (good,) = everything(TextFiles(str(tmp_path / "a.txt"), "books", encoding="latin-1"))
    assert good.text == "é"
    for encoding in ("utf-9", "hex"):
        with pytest.raises(ValueError, match=f"encoding is '{encoding}'"):
            TextFiles(str(tmp_path / "a.txt"), "books", encoding=encoding)


def test_many_text_files_share_shards_and_one_more_disturbs_few(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "GROUP_FILES", 16)
    for number in range(600):
        (tmp_path / f"{number:04d}.txt").write_text(f"text {number}")
    source = TextFiles(str(tmp_path / "*.txt"), "books")
    pieces = source.pieces()
    assert 600 / 16 <= len(pieces) <= 50
    made = ingest_documents(source, out=tmp_path / "out")
    assert column(made, "text") == [f"text {n}" for n in range(600)]
    (tmp_path / "0300b.txt").write_text("new")
    assert len({each.digest for each in source.pieces()} - {each.digest for each in pieces}) < 30
    last = source.pieces()[-1]
    (tmp_path / "0599.txt").write_text("other")
    assert source.digest_now(last) != last.digest
    assert len(everything(Cut(source, max_pieces=2, max_documents=4))) == 4


def test_every_url_and_file_of_a_piece_is_in_the_key(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    here, urls = str(tmp_path / "a.txt"), [f"https://example.org/{name}.txt" for name in "abc"]

    def key(*paths):
        source = TextFiles(list(paths), "books", revision="1")
        assert len(source.listed()) == 1
        return digest(source)

    keys = [key(*urls[:2]), key(urls[0], urls[2]), key(here, urls[0])]
    (tmp_path / "a.txt").write_text("two")
    assert len({*keys, key(here, urls[0])}) == 4


def test_a_file_that_blows_up_is_malformed_and_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "MAX_RECORD_BYTES", 1 << 20)
    (tmp_path / "bomb.txt.gz").write_bytes(gzip.compress(bytes(64 << 20)))
    (tmp_path / "c.txt").write_text("fine")
    bomb, fine = everything(TextFiles(str(tmp_path / "*"), "books"))
    assert bomb.reason == "has more than 1048576 bytes" and fine.text == "fine"


def test_the_text_of_a_page_is_its_article(tmp_path, web):
    (tmp_path / "a.html").write_text(ARTICLE)
    (tmp_path / "b.html").write_text("<html><body></body></html>")
    (tmp_path / "c.html").write_text("")
    page, *empty = everything(HtmlFiles(str(tmp_path / "*.html"), "web"))
    assert page.id == "a.html"
    assert page.text.count(SAID) == 8
    assert not any(each in page.text for each in ("About us", "tracker", "Copyright", "<"))
    assert json.loads(page.metadata) == {"title": "The lighthouse", "date": "2019-05-17"}
    assert [type(each) for each in empty] == [Skipped, Skipped]


@pytest.mark.parametrize(
    ("data", "declared", "text"),
    [
        ("é €".encode(), "latin-1", "é €"),  # what the server says is wrong
        ("é €".encode("cp1252"), "iso-8859-1", "é €"),
        ("é".encode("cp1252"), "utf-8", "\ufffd"),
        ("日本".encode("shift_jis"), "x-sjis", "日本"),
        ("日本".encode("iso2022_jp"), "ISO-2022-JP", "日本"),
        (b'<meta charset="euc-kr">' + "한국".encode("euc-kr"), "", '<meta charset="euc-kr">한국'),
        ("é".encode("utf-16"), "", "é"),
        ("é".encode("utf-16-be"), "utf-16be", "é"),
        (b"\xef\xbb\xbfa", "utf-16", "a"),
        (b"\xe9", "zlib", "é"),
        (b"\xe9", "unicode_escape", "é"),
        (b"\xff\xfe\x00", "", "\ufffd"),
        (b"", "", ""),
    ],
)
def test_bytes_of_a_page_are_read_as_browsers_do(data, declared, text):
    assert decoded(data, declared) == text


def hostile_pages():
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 20))
    yield "deep", "<div>" * 200_000 + SAID
    yield "deep and closed", "<div>" * 50_000 + SAID + "</div>" * 50_000
    yield "deep inline", "<p>" + "<b><i>" * 20_000 + SAID
    yield "deep lists", "<ul><li>" * 5000 + SAID
    yield "deep tables", "<table><tr><td>" * 3000 + SAID
    yield "many attributes", f"<p {' '.join(f'a{n}=1' for n in range(50_000))}>{SAID}</p>"
    yield "entities", f"<!DOCTYPE x [<!ENTITY e0 'x'>{entities}]><html><p>&e19;{SAID}</p></html>"
    yield "no body", "<html><head><title>x</title></head></html>"
    yield "nulls", ARTICLE.replace("stone", "st\0one\x01")
    yield "an end in a tag", "<html><body><p>" + SAID + "</p><p class='"
    yield "angles", "<" * 100_000
    yield "a comment without an end", ARTICLE + "<!--" + "-" * 100_000
    yield "noncharacters", ARTICLE.replace("grey", "\ufffe\uffff\U0010ffff")
    yield "frames", "<html><frameset>" + "<frame src='file:///etc/passwd'>" * 100 + "</frameset>"
    yield "xml", "<?xml version='1.0' encoding='utf-16'?>" + ARTICLE
    yield "binary", bytes(range(256)).decode("latin-1") * 1000


HOSTILE = dict(hostile_pages())


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_hostile_page_is_a_document_or_counted(tmp_path, web, name):
    (tmp_path / "a.html").write_bytes(HOSTILE[name].encode())
    (found,) = everything(HtmlFiles(str(tmp_path / "a.html"), "web"))
    assert isinstance(found, (Document, Skipped, Malformed))
    if isinstance(found, Document):
        found.text.encode()


def test_nothing_that_a_page_names_is_opened(tmp_path, web, monkeypatch):
    (tmp_path / "secret").write_text("the secret")
    place = (tmp_path / "secret").as_uri()
    page = f"""<?xml version="1.0"?><!DOCTYPE html SYSTEM "http://127.0.0.1:9/x.dtd" [
        <!ENTITY own SYSTEM "{place}"><!ENTITY % far SYSTEM "http://127.0.0.1:9/y"> %far; ]>
        <html><head><base href="http://127.0.0.1:9/"><link rel="stylesheet" href="z.css"></head>
        <body><iframe src="{place}"></iframe><p>&own; {SAID}</p><img src="{place}"></body></html>"""
    (tmp_path / "a.html").write_text(page)

    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    (found,) = everything(HtmlFiles(str(tmp_path / "a.html"), "web"))
    assert SAID in found.text and "the secret" not in found.text


def test_a_crawl_gives_the_pages_and_counts_the_rest(tmp_path, web):
    page = ARTICLE.replace("grey", "grëy")
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(page.encode()), page.encode())
    source = warc(
        tmp_path / "a.warc.gz",
        record(1, b"software: x\r\n", kind="warcinfo"),
        record(2, b"GET / HTTP/1.1\r\n\r\n", kind="request"),
        record(3, answer(page), url="https://example.org/lighthouse"),
        record(4, answer("moved", "301 Moved Permanently", headers=["Location: /x"])),
        record(5, answer(b"\x89PNG", kind="image/png")),
        record(6, answer("<html><body></body></html>")),
        record(7, answer(gzip.compress(page.encode()), headers=["Content-Encoding: gzip"])),
        record(8, answer(chunked, headers=["Transfer-Encoding: chunked"])),
        record(9, answer(page.encode("cp1252"), kind="text/html;charset=iso-8859-1")),
        record(10, answer(page, kind="")),
        record(11, answer(page, headers=["Content-Encoding: gzip"])),  # which it is not any more
    )
    made = ingest_documents(source, out=tmp_path / "out", memo=FileMemo(tmp_path / "memo"))
    assert column(made, "id") == [f"urn:uuid:{n:032d}" for n in (3, 7, 8, 9, 10, 11)]
    assert len(set(column(made, "text"))) == 1 and "grëy" in column(made, "text")[0]
    assert set(column(made, "created")) == {"2024-04-25T16:24:44Z"}
    assert json.loads(column(made, "metadata")[0]) == {
        "url": "https://example.org/lighthouse",
        "title": "The lighthouse",
        "date": "2019-05-17",
    }
    counted = json.loads((made.root / SKIPPED).read_text())
    assert {reason: each["first"][0][1] for reason, each in counted.items()} == {
        "a record of type warcinfo": 1,
        "a record of type request": 2,
        "HTTP status 301": 4,
        "an answer of another type than HTML": 5,
        "the page has no text": 6,
    }
    again = ingest_documents(source, out=tmp_path / "2", memo=FileMemo(tmp_path / "memo"))
    assert again == made and json.loads((again.root / SKIPPED).read_text()) == counted
    assert any("skipped" in str(each) for each in documents_shown(made, 3))


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (b"", "the answer is empty"),
        (answer(DAMAGED, headers=["Content-Encoding: gzip"]), "cannot be read"),
        (answer(DAMAGED[:-9], headers=["Content-Encoding: gzip"]), "cannot be read"),
        (answer(b"a", headers=["Content-Encoding: zap"]), "content encoding is zap"),
        (answer(gzip.compress(bytes(9 << 20)), headers=["Content-Encoding: gzip"]), "more than"),
        (answer(zlib.compress(bytes(9 << 20)), headers=["Content-Encoding: deflate"]), "more than"),
        (answer("a" * (2 << 20)), "more than 1048576 bytes"),
    ],
)
def test_a_broken_answer_is_malformed_and_the_next_is_read(tmp_path, web, block, reason):
    path = tmp_path / "a.warc.gz"
    warc(path, record(1, block), record(2, answer("<html></html>")))
    bad, skipped = everything(WarcFiles(str(path), "web", max_page_bytes=1 << 20))
    assert isinstance(bad, Malformed) and bad.record == 1 and reason in bad.reason
    assert isinstance(skipped, Skipped) and skipped.record == 2


def test_a_crawl_that_is_cut_off_or_no_crawl_is_damaged(tmp_path, web):
    records = [record(n, answer(ARTICLE)) for n in range(1, 4)]
    source = warc(tmp_path / "a.warc.gz", *records)
    whole = (tmp_path / "a.warc.gz").read_bytes()
    (tmp_path / "a.warc.gz").write_bytes(whole[:-40])
    with pytest.raises(CorruptShard, match=r"a\.warc\.gz: not readable"):
        everything(source)
    plain = warc(tmp_path / "b.warc", *records, compressed=False)
    (tmp_path / "b.warc").write_bytes((tmp_path / "b.warc").read_bytes()[:-100])
    with pytest.raises(CorruptShard, match=r"b\.warc record 3: is cut off, 96 bytes"):
        everything(plain)
    head = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http\r\n"
    lengths = [b"", *(b"Content-Length: " + each for each in (b"x", b"-5", b"5"))]
    for content in (b"no crawl\n", b"WARC/1.0\r\n", *(head + each + b"\r\n" for each in lengths)):
        (tmp_path / "c.warc").write_bytes(content)
        with pytest.raises(CorruptShard, match=r"c\.warc"):
            everything(WarcFiles(str(tmp_path / "c.warc"), "web"))
    (tmp_path / "d.warc.gz").write_bytes(gzip.compress(b"WARC/1.0\r\nX: " + b"a" * (9 << 20)))
    with pytest.raises(CorruptShard, match="header has more than"):
        everything(WarcFiles(str(tmp_path / "d.warc.gz"), "web"))
    (tmp_path / "e.warc").write_bytes(b"")
    assert everything(WarcFiles(str(tmp_path / "e.warc"), "web")) == []


def test_a_crawl_with_wrong_bytes_is_damaged_or_read_and_nothing_else(tmp_path, web, capfd):
    page = "<html><body><p>hi there</p></body></html>"
    whole = b"".join(
        [
            record(1, answer(page)),
            record(2, answer(gzip.compress(page.encode()), headers=["Content-Encoding: gzip"])),
            record(3, b"x", kind="request"),
            record(4, answer(b"4\r\n<p>a\r\n0\r\n\r\n", headers=["Transfer-Encoding: chunked"])),
        ]
    )
    inserted = [b"\r\n", b"\0", b"WARC/1.0\r\n", b": ", b"\xff", b"Content-Length: 9999999999\r\n"]
    damaged, rng = 0, random.Random(5)
    for _ in range(120):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(content))
            if rng.random() < 0.5:
                content[at] = rng.randrange(256)
            elif rng.random() < 0.5:
                del content[at : at + rng.randint(1, 30)]
            else:
                content[at:at] = rng.choice(inserted)
        (tmp_path / "a.warc").write_bytes(content)
        try:
            everything(WarcFiles(str(tmp_path / "a.warc"), "web"))
        except CorruptShard as error:
            damaged += "a.warc" in str(error)
    assert 20 < damaged < 120
    capfd.readouterr()  # warcio warns of what it meets


def test_what_extracts_is_in_the_key_and_its_absence_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.html").write_text(ARTICLE)
    own = HtmlFiles(str(tmp_path / "a.html"), "web")
    assert own.extractor in json.dumps(canonical(own))
    with pytest.raises(ValueError, match="extractor is 'trafilatura 0.1'; what is installed"):
        HtmlFiles(str(tmp_path / "a.html"), "web", extractor="trafilatura 0.1")
    monkeypatch.setitem(__import__("sys").modules, "trafilatura", None)
    with pytest.raises(MissingDependency, match=r"olmo-tango\[web\]"):
        everything(own)


def test_a_record_that_is_shorter_than_it_says_prints_nothing_of_its_own(web, tmp_path, capfd):
    records = [record(n, answer(ARTICLE), length=20 if n == 2 else None) for n in (1, 2, 3)]
    with pytest.raises(CorruptShard, match=r"a\.warc record 3: is no record"):
        everything(warc(tmp_path / "a.warc", *records, compressed=False))
    assert capfd.readouterr() == ("", "")
