"""A server on loopback that speaks the chat completions protocol and answers by a script."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: Takes a request's body and how many came before it; gives status and body.
Script = Callable[[dict[str, Any], int], tuple[int, dict[str, Any]]]


@contextmanager
def fake_server(
    script: Script, models: tuple[str | dict[str, Any], ...] = ("m",)
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve, and give the base address and the bodies that came."""
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            named = ({"id": model, "owned_by": "fake"} if isinstance(model, str) else model for model in models)
            self.reply(200, {"data": list(named)})

        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.reply(*script(bodies[-1], len(bodies) - 1))

        def reply(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.server_port}/v1", bodies
    finally:
        listener.shutdown()
        listener.server_close()
