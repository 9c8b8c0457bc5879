import os

import pyarrow as pa
import pytest

from pipeline.core.artifacts import (
    Checkpoint,
    Checkpoints,
    Documents,
    MixPart,
    SourceCount,
    TokenMix,
    Tokens,
    checkpoint_name,
)
from pipeline.core.files import StoredFile, write_json
from pipeline.core.shards import write_shard
from pipeline.data.document import DOCUMENT_SCHEMA
from pipeline.store.checkpoints import CheckpointRecord, write_record
from pipeline.store.results import Results, result_id
from pipeline.tokens.format import TokenShardWriter

WEIGHTS = "c" * 64


class Maker:
    """Results of every shape, made by hand under keys of their own."""

    def __init__(self, root):
        self.results = Results(root)

    def key(self, step, number=0, inputs=()):
        args = {"number": number, "inputs": [{"step": each} for each in inputs]}
        return {"step": step, "version": "001", "args": args}

    def id(self, step, number=0, inputs=()):
        return result_id(self.key(step, number, inputs))

    def commit(self, step, write, number=0, inputs=(), content_key=None):
        key = self.key(step, number, inputs)
        id = result_id(key)
        write(self.results.work(id))
        record = {"started": 1_700_000_000.0, "seconds": 2.5}
        self.results.commit(id, key, content_key or id[-32:] * 2, record)
        return id

    def documents(self, number=0, texts=("one", "two"), inputs=(), step="Make", **more):
        def write(work):
            rows = {
                name: [f"{name}-{i}" for i in range(len(texts))] for name in DOCUMENT_SCHEMA.names
            }
            rows["text"] = list(texts)
            shard = write_shard(work, "00000.parquet", rows, DOCUMENT_SCHEMA)
            counts = [SourceCount("s", "MIT", "here", len(texts), 1)]
            Documents.of(
                work,
                num_documents=len(texts),
                num_text_bytes=1,
                sources=counts,
                shards=[shard],
            )

        return self.commit(step, write, number, inputs, **more)

    def tokens(self, number=0, inputs=()):
        def write(work):
            with TokenShardWriter(work, 0, "uint16") as writer:
                writer.write(["s"], [f"d{number}"], [[number, 2, 3, 0]])
            Tokens.of(
                work,
                tokenizer="t",
                dtype="uint16",
                vocab_size=9,
                end_id=0,
                num_tokens=4,
                num_documents=1,
                sources={"s": 4},
                shards=[writer.shard],
            )

        return self.commit("Tokenize", write, number, inputs)

    def mix(self, tokens, number=0):
        def write(work):
            part = self.results.load(tokens)
            TokenMix.of(
                work,
                sequence_length=2,
                tokenizer="t",
                dtype="uint16",
                vocab_size=9,
                end_id=0,
                parts=[MixPart("a", part.content, 2, 2)],
                locations=[os.path.relpath(part.root, work)],
            )

        return self.commit("Mix", write, number, [tokens])

    def checkpoints(self, number=0, inputs=(), series="a" * 64, steps=(2, 4), weights=None):
        id = self.id("Train", number, inputs)
        folder = self.results.series(series, user=id)
        for step in steps:
            place = folder / checkpoint_name(step)
            place.mkdir()
            files = {}
            for name in ("model.safetensors", "optimizer.safetensors"):
                data = weights if weights and name.startswith("model") else None
                (place / name).write_bytes(data or f"{name} {step}".encode() * 50)
                files[name] = StoredFile.of(place, name).sha256
            write_record(place, CheckpointRecord(step, step, step, WEIGHTS, files))

        def write(work):
            schema = pa.schema([("step", pa.int64()), ("loss", pa.float64())])
            rows = {"step": [1, 2, 3, 4], "loss": [4.0, 3.0, 2.0, 1.0]}
            shard = write_shard(work, "history.parquet", rows, schema)
            Checkpoints.of(
                work,
                series=series,
                model={},
                tokenizer="t",
                objective="next_token",
                steps=[Checkpoint(checkpoint_name(s), s, s, s, WEIGHTS) for s in steps],
                history=StoredFile(shard.path, shard.num_bytes, shard.content, shard.sha256),
            )

        return self.commit("Train", write, number, inputs)

    def run(self, name, **steps):
        write_json(self.results.root / "runs" / name / "steps.json", steps)


@pytest.fixture
def maker(tmp_path):
    return Maker(tmp_path / "workspace")


def flip(path, place=None):
    """Change one byte of a file in its place, as a fault would."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 1
    path.write_bytes(bytes(data))


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
