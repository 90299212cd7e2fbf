"""Requests to a server that speaks the OpenAI protocol: retries with growing pauses, limits, no key in a message."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import SplitResult, urlsplit

from vital_eval.record import loads_strictly

if TYPE_CHECKING:
    import httpx2
    from tenacity import RetryCallState

#: Statuses that may pass by themselves; so may every one from 500.
_PASSING = {408, 409, 425, 429}
#: Local servers take any word as a key ("none"); a text this short is no secret, and may be a word of an answer.
_SECRET = 8


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a server; nothing here may move a verdict or a score.

    Attributes:
        reply_seconds: for one reply.
        attempts: times that a request is sent if the server is busy, broken or silent.
        first_pause: seconds before the second attempt; doubled, with some chance, before each further one.
        longest_pause: longest pause, also one that the server asks for; beyond it the request fails.
    """

    reply_seconds: float = 60.0
    attempts: int = 5
    first_pause: float = 1.0
    longest_pause: float = 60.0


class RequestFailure(Exception):  # noqa: N818 - its users say what it is to them
    """One request got no reply that can be used.

    Args:
        kind: short word (``http 500``, ``timeout``, ``malformed reply`` ...).
        detail: what happened, one sentence.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail

    def __str__(self) -> str:
        """Return kind and detail."""
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


class PassingFailure(RequestFailure):
    """A failure worth another attempt, after ``pause`` seconds if the server named a time."""

    def __init__(self, kind: str, detail: str, pause: float | None = None) -> None:
        super().__init__(kind, detail)
        self.pause = pause


class NoConnection(PassingFailure):
    """Nobody listens there."""


class Refusal(RequestFailure):
    """The server understood and said no."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"http {status}", detail)
        self.status = status


class ChatServer:
    """A server under one base address.

    Args:
        endpoint: address up to, not including, ``/chat/completions``; see :func:`check_address`.
        api_key: sent as bearer token; kept in memory only, and cut out of whatever the server says.
        connections: most of them open at a time.
        patience: see :class:`Patience`.

    Attributes:
        troubles: requests so far that the server could not be reached for, or was too busy or broken to answer.

    Raises:
        ValueError: if the key cannot be sent.
    """

    def __init__(self, endpoint: str, api_key: str | None, connections: int, patience: Patience) -> None:
        self._base = endpoint.rstrip("/")
        self._key = _sendable(api_key)
        self._connections = connections
        self._patience = patience
        self._http: httpx2.AsyncClient | None = None
        self.troubles = 0

    async def send(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a request, again if the server is busy, broken or silent.

        Args:
            path: below the base address, with its slash.
            body: posted as JSON; ``None`` asks with GET.

        Returns:
            The JSON object of the reply.

        Raises:
            RequestFailure: if no reply came that can be used.
        """
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random

        patience = self._patience
        growing = wait_exponential(multiplier=patience.first_pause, max=patience.longest_pause)
        backoff = growing + wait_random(0, patience.first_pause)

        def pause(state: RetryCallState) -> float:
            failure = state.outcome.exception() if state.outcome else None
            named = failure.pause if isinstance(failure, PassingFailure) else None
            return backoff(state) if named is None else named

        retrying = AsyncRetrying(
            stop=stop_after_attempt(patience.attempts),
            wait=pause,
            retry=retry_if_exception_type(PassingFailure),
            reraise=True,
        )
        return await retrying(self.send_once, path, body)

    async def send_once(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a request once; otherwise as :meth:`send`."""
        try:
            return await self._send(path, body)
        except PassingFailure:
            self.troubles += 1
            raise

    async def _send(self, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        import httpx2

        seconds = self._patience.reply_seconds
        method: Literal["GET", "POST"] = "GET" if body is None else "POST"
        try:
            # httpx2's own limits are for one read each; a server that drips a byte at a time must end too.
            async with asyncio.timeout(seconds):
                response = await self._client().request(method, self._base + path, json=body)
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise PassingFailure("timeout", f"no reply within {seconds:g} s") from error
        except httpx2.ConnectError as error:
            raise NoConnection("no connection", self.safe(str(error))) from error
        except httpx2.RequestError as error:
            raise PassingFailure("connection lost", self.safe(f"{type(error).__name__} {error}")) from error
        return self._read(response)

    def safe(self, text: str) -> str:
        """Return a text of the server's without the key."""
        return text.replace(self._key, "***") if len(self._key) >= _SECRET else text

    async def close(self) -> None:
        """Close all connections; sending again opens new ones."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    def _client(self) -> httpx2.AsyncClient:
        import httpx2

        if self._http is None:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            # No redirects: they could carry the key elsewhere.
            self._http = httpx2.AsyncClient(
                headers=headers,
                timeout=self._patience.reply_seconds,
                limits=httpx2.Limits(max_connections=self._connections),
                follow_redirects=False,
            )
        return self._http

    def _read(self, response: httpx2.Response) -> dict[str, Any]:
        status = response.status_code
        if status in _PASSING or status >= 500:
            pause = named_pause(response.headers.get("Retry-After"), time.time())
            if pause is not None and pause > self._patience.longest_pause:
                raise RequestFailure(f"http {status}", f"the server asks to wait {pause:.0f} s")
            raise PassingFailure(f"http {status}", self._said(response), pause)
        if status != 200:
            raise Refusal(status, self._said(response))
        try:
            body = loads_strictly(response.content)
        except ValueError as error:
            raise RequestFailure("malformed reply", f"not JSON: {self.safe(response.text)!r:.120}") from error
        if not isinstance(body, dict):
            raise RequestFailure("malformed reply", f"not a chat completion: {self.safe(response.text)!r:.120}")
        return body

    def _said(self, response: httpx2.Response) -> str:
        """Return the server's own words about what is wrong, shortened."""
        text = response.text
        with contextlib.suppress(ValueError, KeyError, TypeError):
            error = loads_strictly(text)["error"]
            text = error["message"] if isinstance(error, dict) else str(error)
        return self.safe(" ".join(str(text).split()))[:300]


def check_address(endpoint: str, what: str) -> SplitResult:
    """Take the base address of a server apart.

    Args:
        endpoint: address up to, not including, ``/chat/completions``.
        what: what the server is to its user, for messages.

    Raises:
        ValueError: if it is none, holds a user name or password, or goes on after the base; says what is wrong.
    """
    try:
        address = urlsplit(endpoint)
        port = address.port
    except ValueError as error:
        raise ValueError(f"{endpoint!r:.200} is not an address: {error}") from error
    if address.username is not None or address.password is not None:
        raise ValueError(f"the address of the {what} holds a user name or password")
    if address.scheme not in ("http", "https") or not address.hostname or port == 0:
        raise ValueError(f"{endpoint!r:.200} is not the address of a {what}")
    if address.query or address.fragment or address.path.rstrip("/").endswith("/chat/completions"):
        raise ValueError(f"{endpoint!r:.200} is not the base address of a {what}")
    return address


def _sendable(key: str | None) -> str:
    text = (key or "").strip()
    if not text.isascii() or not text.isprintable():
        raise ValueError("the key holds characters that cannot be sent")
    return text


def named_pause(header: str | None, now: float) -> float | None:
    """Read ``Retry-After``: seconds, or a date (RFC 9110, section 10.2.3)."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None
