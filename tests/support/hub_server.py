"""A dataset hub on this machine: as much of the Hugging Face hub's interface as listing and reading files needs."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """One dataset of that name with those files (name -> content); Parquet files are large ones, whose hash it tells.

    Attributes:
        url: for HF_ENDPOINT.
        downloads: (file, first byte, last byte) of every read.
    """

    def __init__(self, name, files):
        self.name, self.files, self.downloads = name, files, []

    def entry(self, name):
        content = self.files[name]
        entry = {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        if name.endswith(".parquet"):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return entry

    def tree(self, directory, recursive):
        prefix = f"{directory}/" if directory else ""
        entries = {}
        for name in sorted(self.files):
            first, _, rest = name.removeprefix(prefix).partition("/")
            if not name.startswith(prefix):
                continue
            if rest and not recursive:
                entries[first] = {"type": "directory", "path": prefix + first, "size": 0, "oid": "0" * 40}
            else:
                entries[name] = self.entry(name)
        return list(entries.values())

    def answer(self, method, path, query, headers, body):
        """(status, headers, content)."""
        api = f"/api/datasets/{self.name}"
        if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in self.files]
            return 200, {}, json.dumps({"id": self.name, "sha": COMMIT, "siblings": siblings, "tags": []}).encode()
        if path.startswith(f"{api}/revision/"):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if path.startswith(f"{api}/tree/"):
            directory = path.removeprefix(f"{api}/tree/").partition("/")[2]
            entries = self.tree(directory, query.get("recursive", ["false"])[0].lower() == "true")
            return (200, {}, json.dumps(entries).encode()) if entries else (404, {"X-Error-Code": "EntryNotFound"}, b"")
        if path.startswith(f"{api}/paths-info/"):
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
            return 200, {}, json.dumps([self.entry(name) for name in wanted if name in self.files]).encode()
        file = re.fullmatch(rf"/datasets/{self.name}/resolve/([^/]+)/(.+)", path)
        if file and file[1] not in ("main", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if file and file[2] in self.files:
            return self.download(method, file[2], headers.get("Range"))
        return 404, {"X-Error-Code": "EntryNotFound" if file else "RepoNotFound", "X-Repo-Commit": COMMIT}, b""

    def download(self, method, name, wanted):
        content = self.files[name]
        told = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        if method == "HEAD":
            return 200, told, content
        first, last = 0, len(content) - 1
        if wanted:
            first, last = (int(n) if n else last for n in re.fullmatch(r"bytes=(\d+)-(\d*)", wanted).groups())
            last = min(last, len(content) - 1)
            told["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self.downloads.append((name, first, last))
        return 206 if wanted else 200, told, content[first : last + 1]


@contextmanager
def running(hub):
    """Serve the hub on a free port of the loopback; sets `hub.url`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def respond(self):
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, content = hub.answer(
                self.command, unquote(url.path), parse_qs(url.query), self.headers, body
            )
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_HEAD = do_GET = do_POST = respond

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
