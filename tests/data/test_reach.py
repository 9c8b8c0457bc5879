import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import huggingface_hub
import pytest

from pipeline.core.fingerprints import OutsideFile
from pipeline.data.sources.cut import chosen
from pipeline.data.sources.hf_dataset import HfDataset
from pipeline.data.sources.python_install import PythonInstall
from pipeline.data.sources.reach import Reach
from pipeline.data.sources.rows import Jsonl


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        status = 200 if self.path.startswith("/there") else 403
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


@pytest.fixture
def host():
    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_url_that_answers_is_in_reach_and_a_refusal_is_told(host):
    reach = Reach()
    assert reach.reason(Jsonl, {"path": [f"{host}/there.jsonl"]}, 2) is None
    assert "403" in reach.reason(Jsonl, {"path": f"{host}/other.jsonl"}, 2)
    assert reach.reason(OutsideFile, {"path": f"{host}/there.json"}, 2) is None


def test_a_host_that_does_not_answer_is_asked_once():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        reach = Reach(wait_seconds=0.2)
        first = reach.reason(Jsonl, {"path": f"http://{place}/a.jsonl"}, 2)
        assert first == f"no answer from {place} (Unavailable)"
    assert reach.reason(Jsonl, {"path": f"http://{place}/b.jsonl"}, 2) == first


def test_only_the_files_that_would_be_read_are_asked_for(host):
    paths = [f"{host}/{'there' if n in (3, 7) else 'x'}-{n}.jsonl" for n in range(8)]
    for first in range(7):
        listed = paths[first:]
        (read,) = chosen(listed, [each.rsplit("/", 1)[-1] for each in listed], 1)
        reason = Reach().reason(Jsonl, {"path": listed}, 1)
        assert (reason is None) == (read in (paths[3], paths[7]))


def test_files_of_this_machine_are_looked_for(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    reach = Reach()
    assert reach.reason(Jsonl, {"path": str(tmp_path / "*.jsonl")}, 2) is None
    assert "matches no file" in reach.reason(Jsonl, {"path": str(tmp_path / "*.gz")}, 2)
    assert reach.reason(HfDataset, {"path": str(tmp_path)}, 2) is None
    assert reach.reason(PythonInstall, {"part": "code"}, 2) is None


def test_a_gated_dataset_is_told_in_the_words_of_the_hub(monkeypatch):
    def refuse(name, repo_type):
        raise PermissionError(f"{repo_type} {name} is gated")

    def allow(name, repo_type):
        return None

    class Refused(Exception):
        response = "403"

    def gated(name, repo_type):
        raise Refused(f"{repo_type} {name} is gated")

    monkeypatch.setattr(huggingface_hub, "auth_check", gated)
    said = Reach().reason(HfDataset, {"path": "a/b"}, 2)
    assert said == "Refused: dataset a/b is gated"
    monkeypatch.setattr(huggingface_hub, "auth_check", allow)
    assert Reach().reason(HfDataset, {"path": "a/b"}, 2) is None
