"""A server that gives the files of a folder as Google Cloud Storage gives its objects."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Objects(BaseHTTPRequestHandler):
    """`/storage/v1/b/<bucket>/o/<name>` tells of an object, the same below `/download` gives it."""

    folder = None

    def do_GET(self):
        below, _, name = unquote(urlsplit(self.path).path).partition("/o/")
        path = self.folder / name
        if not name or not path.is_file():
            self.answer(404, b"{}")
        elif below.startswith("/download/"):
            self.give(path.read_bytes())
        else:
            told = {"bucket": below.rsplit("/", 1)[-1], "name": name, "generation": "1"}
            size = str(path.stat().st_size)
            self.answer(200, json.dumps({**told, "size": size}).encode())

    def give(self, data):
        if "Range" not in self.headers:
            return self.answer(200, data)
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        part = data[int(first) : int(last) + 1 if last else None]
        if not part:
            return self.answer(416, b"")
        end = int(first) + len(part) - 1
        self.answer(206, part, {"Content-Range": f"bytes {first}-{end}/{len(data)}"})

    def answer(self, status, body, more=()):
        self.send_response(status)
        for name, value in {**dict(more), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def serving(folder):
    """The address of a server of a folder's files, in whatever bucket."""
    handler = type("Served", (Objects,), {"folder": folder})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
