"""The hf engine behind the OpenAI chat completions protocol: small, for one machine, exact.

Requests that arrive together run as one batch. Frames come inside the request only; no address in it is ever opened.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket
from typing import Any

from vital_eval.conversation import AssistantTurn, Conversation
from vital_eval.engine import ContextOverflowError
from vital_eval.engines.background_loop import BackgroundLoop
from vital_eval.engines.hf import HFEngine
from vital_eval.engines.openai_server_memory import ClipMemory, TurnMemory, digest
from vital_eval.engines.openai_server_request import Asked, BadRequestError, completion, read_request, told_text
from vital_eval.engines.tokens import BANNED_TOKENS
from vital_eval.errors import EngineError
from vital_eval.generation import Generation
from vital_eval.record import loads_strictly

#: Half an hour of frames fits; what is longer is refused before it is read.
_MOST_BYTES = 1 << 30
#: Clips that clients may name instead of sending them again.
_CLIP_BYTES = 2 << 30
#: Tokens at the end of a prompt in which a template may have opened a thought.
_TAIL = 6
_THINK = "<think>"


class OpenAIServer:
    """Serves an engine until it is closed.

    Args:
        engine: answers; it is closed with the server.
        host: address to listen at. There is no password: whoever reaches it may use it.
        port: 0 takes a free one.
        clip_bytes: memory for clips that clients have named, see
            :class:`~vital_eval.engines.openai_server_memory.ClipMemory`; 0 remembers none.

    Raises:
        OSError: if the address is taken.
    """

    def __init__(
        self, engine: HFEngine, host: str = "127.0.0.1", port: int = 8000, clip_bytes: int = _CLIP_BYTES
    ) -> None:
        self._engine = engine
        self._http = _Listener((host, port), engine, clip_bytes)
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        """Return the base address for clients."""
        host, port = self._http.server_address[:2]
        return f"http://{host!s}:{port}/v1"

    def serve(self) -> None:
        """Answer requests until another thread closes the server, or an exception such as Ctrl-C comes."""
        self._http.serve_forever(poll_interval=0.1)

    def start(self) -> None:
        """Serve in a thread of its own."""
        self._thread = threading.Thread(target=self.serve, name="openai-server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, give up what is being written, and free the model."""
        if self._thread is not None:
            self._http.shutdown()
            self._thread.join()
        self._http.server_close()
        self._http.loop.submit(self._engine.close()).result()
        self._http.loop.stop()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    #: Episodes connect together; the default of five would turn some away.
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], engine: HFEngine, clip_bytes: int) -> None:
        super().__init__(address, _Handler)
        self.clips = ClipMemory(clip_bytes)
        self.turns = TurnMemory()
        self.engine = engine
        self.loop = BackgroundLoop("openai-server-engine")
        self.numbers = itertools.count(1)

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: object) -> None:
        """Say nothing of clients that went away; anything else is a bug, and shown."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

    def do_GET(self) -> None:
        """Answer ``/health`` and ``/v1/models``."""
        if self.path == "/health":
            self._reply(200, {"status": "ok"})
        elif self.path == "/v1/models":
            self._reply(200, {"object": "list", "data": [_model_card(self.server.engine)]})
        else:
            self._complain(404, f"nothing is at {self.path!r:.100}")

    def do_POST(self) -> None:
        """Answer ``/v1/chat/completions``."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _MOST_BYTES:
            # The body stays unread, so the connection cannot go on.
            self.close_connection = True
            self._complain(413 if length.isdecimal() else 411, f"a body of at most {_MOST_BYTES} bytes is needed")
            return
        data = self.rfile.read(int(length))
        if self.path != "/v1/chat/completions":
            self._complain(404, f"nothing is at {self.path!r:.100}")
            return
        try:
            self._reply(200, self._complete(data))
        except BadRequestError as error:
            self._complain(400, str(error))
        except ContextOverflowError as error:
            self._complain(400, f"the prompt is longer than the model's context length: {error}")
        except EngineError as error:
            self._complain(500, str(error))

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of single requests."""

    def _complete(self, data: bytes) -> dict[str, Any]:
        engine, loop = self.server.engine, self.server.loop
        try:
            body = loads_strictly(data)
        except ValueError as error:
            raise BadRequestError("the body is not JSON") from error
        number = f"request-{next(self.server.numbers)}"
        asked = read_request(body, engine.info, number, self._tokenise, self.server.clips, BANNED_TOKENS)
        # Whoever goes on with a conversation finds its keys and values under the digest of all that was said in it.
        engine.rename(asked.spoken, number)
        try:
            generation = loop.submit(engine.generate(asked.turn)).result()
            self._remember(asked, generation)
        finally:
            engine.release(number)
        return completion(asked, generation, engine.info)

    def _remember(self, asked: Asked, generation: Generation) -> None:
        text, _ = told_text(asked, generation)
        self.server.turns.put(asked.digest, text, generation.token_ids)
        self.server.engine.rename(asked.turn.episode, digest(asked.digest, AssistantTurn(generation)))

    def _tokenise(self, before: Conversation, said: str, text: str) -> tuple[int, ...]:
        sampled = self.server.turns.get(said, text)
        if sampled is not None:
            return sampled
        parts = self.server.engine.parts
        # Where the template has opened the thought, the turn's own tag would be a second one.
        opening = parts.vocabulary.decode(parts.encoder.prompt(before).ids[-_TAIL:])
        if opening.rstrip().endswith(_THINK):
            text = text.removeprefix(_THINK)
        return tuple(parts.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _complain(self, status: int, text: str) -> None:
        self._reply(status, {"error": {"message": text, "type": "invalid_request_error", "code": status}})

    def _reply(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _model_card(engine: HFEngine) -> dict[str, Any]:
    """Return what clients are told of the model; the last three fields are for our own."""
    info = engine.info
    return {
        "id": info.model,
        "object": "model",
        "created": 0,
        "owned_by": "vital-eval",
        "fingerprint": info.fingerprint,
        "spatial_factor": info.geometry.spatial_factor,
        "temporal_patch": info.geometry.temporal_patch,
    }
