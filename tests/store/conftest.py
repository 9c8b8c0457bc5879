import pytest


@pytest.fixture(scope="session")
def s3_server():
    """An S3-compatible server on the loopback, in a thread of this process."""
    pytest.importorskip("s3fs", reason="the extra s3 is not installed")
    server = pytest.importorskip("moto.server", reason="the extra cluster is not installed")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch, request):
    """URL of an empty bucket, reached as any S3-compatible store is: by the environment."""
    import fsspec

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    name = "bucket-" + str(abs(hash(request.node.nodeid)))
    fs.mkdir(name)
    yield f"s3://{name}/cache"
    fs.clear_instance_cache()


@pytest.fixture(params=["folder", "s3"])
def url(request, tmp_path):
    """A remote of each kind."""
    if request.param == "s3":
        return request.getfixturevalue("bucket")
    return f"file://{tmp_path}/remote"
