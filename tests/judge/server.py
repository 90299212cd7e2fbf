"""A small server on loopback that speaks the chat completions protocol and answers by a script."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "judge-1-2026-01-01"


@dataclass
class Answered:
    """What the server does with one request: waits so many seconds, and after every byte ``drip`` more."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    drip: float = 0.0


@dataclass
class Call:
    """One request as it came in."""

    path: str
    headers: dict[str, str]
    request: dict[str, Any]

    @property
    def fields(self) -> dict[str, str]:
        """The three fields of the user message."""
        return json.loads(self.request["messages"][-1]["content"])


Script = Callable[[Call, int], Answered]


def completion(content: str, model: str = MODEL, **choice: Any) -> Answered:
    body = {
        "id": "x",
        "object": "chat.completion",
        "model": model,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"} | choice
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }
    return Answered(body=json.dumps(body))


def verdict(correct: bool, extracted: str = "x", model: str = MODEL) -> Answered:
    return completion(json.dumps({"extracted_answer": extracted, "correct": correct}), model)


def by_word(call: Call, number: int) -> Answered:
    """Call right what holds the word "right"."""
    return verdict("right" in call.fields["answer"])


@dataclass
class Server:
    """Address, calls so far, and the script, which may be changed at any time."""

    url: str
    script: Script
    calls: list[Call]

    @property
    def real(self) -> list[Call]:
        """The calls about real answers, without the harmless question."""
        return [call for call in self.calls if call.fields["answer"] != "It is blue."]


@contextmanager
def serve(script: Script = by_word) -> Iterator[Server]:
    calls: list[Call] = []
    lock = threading.Lock()
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            call = Call(self.path, dict(self.headers), json.loads(data))
            with lock:
                calls.append(call)
                number = len(server.real)
            answered = server.script(call, number)
            if answered.seconds:
                stop.wait(answered.seconds)
            text = answered.body.encode()
            try:
                self.send_response(answered.status)
                for name, value in answered.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                for part in (text[at : at + 1] for at in range(len(text))) if answered.drip else (text,):
                    self.wfile.write(part)
                    stop.wait(answered.drip)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    server = Server(f"http://127.0.0.1:{listener.server_port}/v1", script, calls)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        stop.set()
        listener.shutdown()
        listener.server_close()
