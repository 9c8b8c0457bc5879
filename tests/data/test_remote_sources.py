"""Every source of files reads URLs as it reads files, held to what is pinned of them."""

import gzip
import hashlib
import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import CorruptShard, MissingDependency, Unavailable
from pipeline.core.pins import Pin
from pipeline.data.ingest import ingest_documents
from pipeline.data.sources.pages import HtmlFiles, TextFiles, WarcFiles
from pipeline.data.sources.rows import Jsonl, ParquetFiles
from tests.data.conftest import column
from tests.data.google_storage import serving
from tests.data.test_pages import ARTICLE, answer, record

ROWS = [{"id": "a", "text": "one é"}, {"id": "b", "text": "two"}]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def host(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    server = HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def write_files(folder):
    """A file for each source, with its class."""
    lines = b'{"id": "a", "text": "one \xc3\xa9"}\n{"id": "b", "text": "two"}\n'
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (folder / "plain.jsonl").write_bytes(lines)
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "a.parquet")
    (folder / "a.txt.gz").write_bytes(gzip.compress("one é".encode()))
    (folder / "a.html").write_text(ARTICLE)
    records = [record(n, answer(ARTICLE)) for n in (1, 2)]
    (folder / "a.warc.gz").write_bytes(b"".join(map(gzip.compress, records)))
    return {
        "a.jsonl.gz": Jsonl,
        "plain.jsonl": Jsonl,
        "a.parquet": ParquetFiles,
        "a.txt.gz": TextFiles,
        "a.html": HtmlFiles,
        "a.warc.gz": WarcFiles,
    }


def require_same(folder, address, out):
    """Each file below an address gives what it gives here, and is held to what is pinned."""
    for name, kind in write_files(folder).items():
        url, own = f"{address}/{name}", kind(str(folder / name), "web")
        here = ingest_documents(own, out=out / f"{name}-1")
        assert here.num_documents > 0
        far = ingest_documents(kind(url, "web", revision="1"), out=out / f"{name}-2")
        assert far.content == here.content and column(far, "id") == column(here, "id")
        good = Pin(sha256=hashlib.sha256((folder / name).read_bytes()).hexdigest())
        pinned = kind(url, "web", revision="1", pins={url: good})
        assert ingest_documents(pinned, out=out / f"{name}-3").content == here.content
        assert pinned.fingerprint() == own.fingerprint()
        bad = kind(url, "web", revision="1", pins={url: Pin(sha256="0" * 64)})
        with pytest.raises(CorruptShard, match="its SHA-256 is"):
            ingest_documents(bad, out=out / f"{name}-4")


def test_a_url_gives_what_the_file_gives_and_a_pin_holds_it(host, tmp_path):
    pytest.importorskip("trafilatura")
    require_same(*host, tmp_path)


def test_how_a_url_is_compressed_is_told_by_its_name_and_not_by_what_is_asked(host, tmp_path):
    folder, address = host
    write_files(folder)
    url = f"{address}/a.jsonl.gz?X-Signature={'a' * 400}"
    made = ingest_documents(Jsonl(url, "web", revision="1"), out=tmp_path / "out")
    assert column(made, "id") == ["a", "b"]


def test_an_object_in_s3_gives_what_the_file_gives(tmp_path, monkeypatch):
    pytest.importorskip("trafilatura")
    boto3 = pytest.importorskip("boto3", reason="the extra s3 is not installed")
    moto = pytest.importorskip("moto.server", reason="the extra cluster is not installed")
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        client, folder = boto3.client("s3"), tmp_path / "served"
        client.create_bucket(Bucket="sources")
        folder.mkdir()
        for name in write_files(folder):
            client.upload_file(str(folder / name), "sources", name)
        require_same(folder, "s3://sources", tmp_path)
    finally:
        running.stop()


def test_an_object_in_google_storage_gives_what_the_file_gives(tmp_path, monkeypatch):
    pytest.importorskip("trafilatura")
    pytest.importorskip("google.cloud.storage", reason="the extra gs is not installed")
    folder = tmp_path / "served"
    folder.mkdir()
    with serving(folder) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        require_same(folder, "gs://sources", tmp_path)
        missing = Jsonl("gs://sources/none.jsonl.gz", "web", revision="1")
        with pytest.raises(Unavailable, match=r"gs://sources/none\.jsonl\.gz cannot be read \(404"):
            ingest_documents(missing, out=tmp_path / "none")


def test_what_a_host_does_not_give_is_unavailable_and_what_it_gives_damaged_is_corrupt(
    host, tmp_path
):
    folder, address = host
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"id": "a", "text": "x"}')[:-3])
    for url, kind, words in (
        (f"{address}/none.jsonl", Unavailable, "none.jsonl cannot be read .*404"),
        ("http://127.0.0.1:1/x.jsonl", Unavailable, "127.0.0.1:1/x.jsonl cannot be read"),
        (f"{address}/cut.jsonl.gz", CorruptShard, "cut.jsonl.gz: not readable"),
    ):
        with pytest.raises(kind, match=words):
            ingest_documents(Jsonl(url, "web", revision="1"), out=tmp_path / "out")


def test_credentials_that_are_missing_are_told_with_the_url(tmp_path, monkeypatch):
    pytest.importorskip("boto3", reason="the extra s3 is not installed")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    for name, kind in (("a.jsonl", Jsonl), ("a.parquet", ParquetFiles), ("a.txt", TextFiles)):
        files = kind(f"s3://bucket/{name}", "web", revision="1")
        with pytest.raises(Unavailable, match=f"s3://bucket/{name} cannot be .*credentials"):
            ingest_documents(files, out=tmp_path / name)


@pytest.mark.parametrize("kind", [Jsonl, ParquetFiles])
def test_a_package_that_a_url_needs_is_named(tmp_path, monkeypatch, kind):
    import smart_open

    def missing(*args, **kwargs):
        raise ImportError("pip install smart_open[s3]")

    monkeypatch.setattr(smart_open, "open", missing)
    with pytest.raises(MissingDependency, match=r"s3://b/x needs the package olmo-tango\[s3\]"):
        ingest_documents(kind("s3://b/x", "web", revision="1"), out=tmp_path / "out")


def test_a_url_with_a_pattern_is_refused():
    for url in ("https://a.org/x-*.jsonl", "s3://bucket/*/x.jsonl"):
        with pytest.raises(ValueError, match="a URL is of one file"):
            Jsonl(url, "web", revision="1")
    Jsonl("https://a.org/x.jsonl?ask=*", "web", revision="1")
