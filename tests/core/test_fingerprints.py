import http.server
import os
import threading

import pytest

from pipeline.core import fingerprints
from pipeline.core.errors import CorruptShard, Unavailable
from pipeline.core.fingerprints import OutsideFile, file_digests, fingerprint_files, open_outside
from pipeline.core.pins import Pin


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def aged(path, text):
    """A file old enough for its digest to be remembered."""
    path.write_text(text)
    os.utime(path, (1e9, 1e9))
    return path


def test_a_fingerprint_is_of_names_and_bytes_and_not_of_the_place(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        aged(tmp_path / folder / "a", "text")
    one, two = ([tmp_path / folder / "a"] for folder in ("one", "two"))
    assert fingerprint_files(one, ["a"]) == fingerprint_files(two, ["a"])
    assert fingerprint_files(one, ["a"]) != fingerprint_files(one, ["b"])
    aged(tmp_path / "two" / "a", "tent")
    assert fingerprint_files(one, ["a"]) != fingerprint_files(two, ["a"])


def test_a_file_that_did_not_change_is_not_read_again(tmp_path, monkeypatch):
    path = aged(tmp_path / "a", "text")
    monkeypatch.setattr(fingerprints, "RACY_SECONDS", -1e12)  # its ctime is of now
    first = file_digests([path])
    monkeypatch.setattr(fingerprints, "file_sha256", lambda _: pytest.fail("read again"))
    assert file_digests([path]) == first
    monkeypatch.undo()


def test_a_change_is_seen_even_where_size_and_time_are_the_same(tmp_path):
    path = aged(tmp_path / "a", "text")
    first = file_digests([path])
    aged(path, "tent")
    assert file_digests([path]) != first


def test_a_memory_that_is_damaged_costs_time_only(tmp_path):
    path = aged(tmp_path / "a", "text")
    first = file_digests([path])
    memory = tmp_path / "cache" / "olmo-tango" / "fingerprints.json"
    memory.parent.mkdir(parents=True, exist_ok=True)
    for damage in ("{", "[]", '{"x": 1}'):
        memory.write_text(damage)
        assert file_digests([path]) == first


def test_a_folder_stands_by_the_files_in_it(tmp_path):
    (tmp_path / "f").mkdir()
    aged(tmp_path / "f" / "a", "text")
    before = OutsideFile(str(tmp_path / "f")).fingerprint()
    (tmp_path / "f").rename(tmp_path / "g")
    assert OutsideFile(str(tmp_path / "g")).fingerprint() == before
    aged(tmp_path / "g" / "b", "")
    assert OutsideFile(str(tmp_path / "g")).fingerprint() != before


def test_what_is_not_here_needs_a_revision_and_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match="revision is missing"):
        OutsideFile("https://example.invalid/tokenizer.json").fingerprint()
    known = {"https://example.invalid/t.json": Pin(etag='"1"')}
    assert "etag" in OutsideFile("https://example.invalid/t.json").pinned(known).fingerprint()
    with pytest.raises(ValueError, match="which does not exist"):
        OutsideFile(str(tmp_path / "nothing"))
    assert "revision v1" in OutsideFile("https://example.invalid/t.json", "v1").fingerprint()


@pytest.fixture
def server(tmp_path):
    """A file server on loopback; gives its address and what was asked of it."""
    (tmp_path / "served").mkdir()
    aged(tmp_path / "served" / "t.json", "{}")
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path / "served"))

        def log_message(self, *_):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


def test_a_file_at_a_url_is_fetched_once_and_checked(server):
    address, asked = server
    file = OutsideFile(f"{address}/t.json", "v1")
    assert file.local().read_text() == file.local().read_text() == "{}"
    assert asked == ["/t.json"]
    with pytest.raises(CorruptShard, match="SHA-256"):
        OutsideFile(f"{address}/t.json", "v1", sha256="0" * 64).local()


def test_what_cannot_be_fetched_is_named_and_leaves_nothing(server, tmp_path):
    address, _ = server
    with pytest.raises(Unavailable, match=r"missing\.json cannot be fetched"):
        OutsideFile(f"{address}/missing.json", "v1").local()
    left = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert left == []


def test_what_a_server_is_asked_beside_a_name_is_not_in_the_name_of_the_file(server):
    address, asked = server
    for query in ("?sig=" + "a" * 400, "?name=../../x", "?a=b/.."):
        file = OutsideFile(f"{address}/t.json{query}", "v1").local()
        assert (file.name, file.read_text()) == ("t.json", "{}")
    assert len(asked) == 3


def test_a_long_name_is_cut_before_its_ending(server, tmp_path):
    (tmp_path / "served" / ("n" * 240 + ".bin")).write_text("long")
    file = OutsideFile(f"{server[0]}/{'n' * 240}.bin", "v1").local()
    assert file.read_text() == "long" and file.suffix == ".bin" and len(file.name) == 100


@pytest.mark.parametrize(
    "path", ["https://h/..", "https://h/a/.?b", "s3://bucket/..", "https://h/../"]
)
def test_a_url_of_dots_is_refused(path):
    with pytest.raises(ValueError, match="which names no file"):
        OutsideFile(path, "v1")


@pytest.mark.parametrize("path", ["file:///etc/passwd", "sftp://h/x", "hdfs://h/x", "ftp://h/x"])
def test_a_url_of_a_kind_that_no_document_names_is_refused_by_name(path):
    for refused in (lambda: OutsideFile(path, "v1"), lambda: open_outside(path)):
        with pytest.raises(ValueError, match=f"path is '{path}'; a URL must be one of http, https"):
            refused()


def test_a_size_is_known_of_a_file_that_is_here_and_of_a_pinned_url(tmp_path):
    (tmp_path / "f").write_bytes(bytes(12))
    url = OutsideFile("https://host/f", revision="1")
    assert OutsideFile(str(tmp_path / "f")).num_bytes() == 12
    assert OutsideFile(str(tmp_path)).num_bytes() is None and url.num_bytes() is None
    assert url.pinned({url.path: Pin(num_bytes=12, etag="e")}).num_bytes() == 12
