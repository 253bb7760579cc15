"""As much of a Weights & Biases server as a run needs, on this machine: it remembers each run's history.

What it answers was found out by asking wandb 0.31 what it asks for.
"""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

PROJECT = {"id": "project", "name": "foreword", "entity": {"id": "entity", "name": "me"}}
VIEWER = {"id": "user", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}


class WandbServer:
    """A server that is running.

    Attributes:
        url: for WANDB_BASE_URL.
        histories: run id -> line number -> what was logged; a line that is sent again takes the place of the former.
    """

    def __init__(self) -> None:
        self.histories: dict[str, dict[int, dict[str, Any]]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections from now on."""
        self._server.shutdown()
        self._server.server_close()

    def steps(self, run_id: str) -> list[int]:
        """The "step" of each line of a run's history, in order."""
        return [line["step"] for _, line in sorted(self.histories[run_id].items())]

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of a GraphQL answer."""
        name = variables.get("name", "")
        if operation == "Viewer":
            return {"viewer": VIEWER}
        if operation == "UpsertBucket":
            self.histories.setdefault(name, {})
            bucket = {"id": "run", "name": name, "displayName": name, "config": "{}", "project": PROJECT}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if operation == "RunResumeStatus":
            return {"model": None if name not in self.histories else {**PROJECT, "bucket": self._resumed(name)}}
        if operation == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.url}/upload/{file}"} for file in variables["files"]]
            return {"createRunFiles": {"runID": "run", "uploadHeaders": [], "files": files}}
        return {}

    def stream(self, run_id: str, files: dict[str, Any]) -> None:
        """Take lines of a run's files."""
        history = files.get("wandb-history.jsonl", {"offset": 0, "content": []})
        for number, line in enumerate(history["content"], start=history["offset"]):
            self.histories[run_id][number] = json.loads(line)

    def _resumed(self, name: str) -> dict[str, Any]:
        lines = self.histories[name]
        tail = [json.dumps(lines[max(lines)])] if lines else []
        return {
            "name": name,
            "displayName": name,
            "summaryMetrics": "{}",
            "config": "{}",
            "logLineCount": 0,
            "historyLineCount": len(lines),
            "eventsLineCount": 0,
            "historyTail": json.dumps(tail),
            "eventsTail": "[]",
            "wandbConfig": '{"t": 1}',
        }


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """A server while the block runs."""
    server = WandbServer()
    try:
        yield server
    finally:
        server.stop()


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            answer: dict[str, Any] = {}
            if self.path == "/graphql":
                asked = json.loads(body)
                answer = {"data": server.answer(asked["operationName"], asked.get("variables") or {})}
            elif self.path.endswith("/file_stream"):
                server.stream(self.path.split("/")[-2], json.loads(body).get("files") or {})
            self._send(answer)

        def do_PUT(self) -> None:
            self.do_POST()

        def do_GET(self) -> None:
            self._send({})

        def _send(self, answer: dict[str, Any]) -> None:
            content = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    return Handler
