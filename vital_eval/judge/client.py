"""Asks a judge behind any server that speaks the OpenAI chat completions protocol."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol
from urllib.parse import SplitResult, urlsplit

from vital_eval.judge.errors import JudgeError, JudgeFailure
from vital_eval.judge.identity import JudgeIdentity, identify
from vital_eval.judge.prompt import Ruling, messages, read_reply, response_format
from vital_eval.judge.question import JudgeQuestion
from vital_eval.record import loads_strictly

if TYPE_CHECKING:
    import httpx2
    from tenacity import RetryCallState

#: Asked before the first real question, so that a wrong address, key or option is told apart from a bad answer.
_HARMLESS = JudgeQuestion("check", "check", "Which colour does the sky have in the video?", "blue", "It is blue.")
#: Statuses that may pass by themselves; so may every one from 500.
_PASSING = {408, 409, 425, 429}
#: Local servers take any word as a key ("none"); a text this short is no secret, and may be a word of an answer.
_SECRET = 8


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply of a judge.

    Attributes:
        model: the model's name as the server gives it.
        ruling: what it said.
        prompt_tokens: as the server counts them, 0 if it does not.
        completion_tokens: likewise.
    """

    model: str
    ruling: Ruling
    prompt_tokens: int
    completion_tokens: int


class JudgeClient(Protocol):
    """A judge that can be asked."""

    @property
    def identity(self) -> JudgeIdentity:
        """Who judges."""
        ...

    @property
    def concurrency(self) -> int:
        """Questions that may be under way at a time."""
        ...

    async def check(self) -> str:
        """Find out whether the judge can be used, and return the name it answers with.

        Raises:
            JudgeError: if it cannot be reached or refuses to work.
            JudgeFailure: if it may work again later.
        """
        ...

    async def ask(self, question: JudgeQuestion) -> Reply:
        """Have one answer judged.

        Raises:
            JudgeFailure: if no verdict came, or none that can be read.
        """
        ...

    async def close(self) -> None:
        """Close all connections; asking again opens new ones."""
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a judge; nothing here may move a verdict.

    Attributes:
        reply_seconds: for one reply.
        attempts: times that a question is sent if the server is busy, broken or silent.
        first_pause: seconds before the second attempt; doubled, with some chance, before each further one.
        longest_pause: longest pause, also one that the server asks for; beyond it the question fails.
    """

    reply_seconds: float = 60.0
    attempts: int = 5
    first_pause: float = 1.0
    longest_pause: float = 60.0


class _PassingFailure(JudgeFailure):
    """A failure worth another attempt, after ``pause`` seconds if the server named a time."""

    def __init__(self, kind: str, detail: str, pause: float | None = None) -> None:
        super().__init__(kind, detail)
        self.pause = pause


class _Refusal(JudgeFailure):
    """The server understood and said no."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"http {status}", detail)
        self.status = status


class ChatJudge:
    """A :class:`JudgeClient` for ``POST {endpoint}/chat/completions``: temperature 0, fixed seed, structured output.

    Args:
        endpoint: address up to, not including, ``/chat/completions``.
        model: the model's name there.
        api_key: sent as bearer token; kept in memory only, and cut out of whatever the server says.
        plain_json: ask for the reply's form in words instead of by ``response_format``.
        concurrency: questions under way at a time.
        patience: see :class:`Patience`.

    Raises:
        JudgeError: if the endpoint is not an address, or the key cannot be sent.
    """

    def __init__(
        self,
        endpoint: str,
        model: str,
        *,
        api_key: str | None = None,
        plain_json: bool = False,
        concurrency: int = 8,
        patience: Patience | None = None,
    ) -> None:
        address = _address(endpoint)
        self._url = endpoint.rstrip("/") + "/chat/completions"
        self._identity = identify(model, address.hostname or "", plain_json=plain_json)
        self._concurrency = concurrency
        self._patience = patience or Patience()
        self._key = _sendable(api_key)
        self._http: httpx2.AsyncClient | None = None

    @property
    def identity(self) -> JudgeIdentity:
        """Who judges."""
        return self._identity

    @property
    def concurrency(self) -> int:
        """Questions that may be under way at a time."""
        return self._concurrency

    async def check(self) -> str:
        """Ask one harmless question and return the name that the server answers with; its verdict is not kept.

        Raises:
            JudgeError: if nobody listens there, or the server refuses the question.
            JudgeFailure: if the server is busy, broken or silent in every attempt.
        """
        try:
            # Nobody listening is told at once: it is most often a wrong address.
            with contextlib.suppress(_PassingFailure):
                return _name(await self._post_once(_HARMLESS, connected=False))
            return _name(await self._post(_HARMLESS))
        except _Refusal as refusal:
            self._explain(refusal)

    async def ask(self, question: JudgeQuestion) -> Reply:
        """Have one answer judged.

        Raises:
            JudgeFailure: if no verdict came, or none that can be read. What may pass by itself (busy, broken or silent
                servers) is tried again first; a reply that cannot be read is not, for at temperature 0 it would be
                the same.
        """
        body = await self._post(question)
        prompt_tokens, completion_tokens = _usage(body)
        ruling = read_reply(self._safe(_content(body)), plain_json=self._identity.plain_json)
        return Reply(_name(body), ruling, prompt_tokens, completion_tokens)

    async def close(self) -> None:
        """Close all connections; asking again opens new ones."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def _post(self, question: JudgeQuestion) -> dict[str, Any]:
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random

        patience = self._patience
        growing = wait_exponential(multiplier=patience.first_pause, max=patience.longest_pause)
        backoff = growing + wait_random(0, patience.first_pause)

        def pause(state: RetryCallState) -> float:
            failure = state.outcome.exception() if state.outcome else None
            named = failure.pause if isinstance(failure, _PassingFailure) else None
            return backoff(state) if named is None else named

        retrying = AsyncRetrying(
            stop=stop_after_attempt(patience.attempts),
            wait=pause,
            retry=retry_if_exception_type(_PassingFailure),
            reraise=True,
        )
        return await retrying(self._post_once, question)

    async def _post_once(self, question: JudgeQuestion, *, connected: bool = True) -> dict[str, Any]:
        import httpx2

        seconds = self._patience.reply_seconds
        try:
            # httpx2's own limits are for one read each; a server that drips a byte at a time must end too.
            async with asyncio.timeout(seconds):
                response = await self._client().post(self._url, json=self._request(question))
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise _PassingFailure("timeout", f"no reply within {seconds:g} s") from error
        except httpx2.ConnectError as error:
            if not connected:
                raise JudgeError(
                    f"cannot connect to the judge at {self._url} ({self._safe(str(error))})",
                    "start the server, or check --judge-endpoint",
                ) from error
            raise _PassingFailure("no connection", self._safe(str(error))) from error
        except httpx2.RequestError as error:
            raise _PassingFailure("connection lost", self._safe(f"{type(error).__name__} {error}")) from error
        return self._read(response)

    def _client(self) -> httpx2.AsyncClient:
        import httpx2

        if self._http is None:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            # No redirects: they could carry the key elsewhere.
            self._http = httpx2.AsyncClient(
                headers=headers,
                timeout=self._patience.reply_seconds,
                limits=httpx2.Limits(max_connections=self._concurrency),
                follow_redirects=False,
            )
        return self._http

    def _request(self, question: JudgeQuestion) -> dict[str, Any]:
        identity = self._identity
        request: dict[str, Any] = {
            "model": identity.model,
            "messages": messages(question, plain_json=identity.plain_json),
            "temperature": identity.temperature,
            "seed": identity.seed,
            "max_tokens": identity.max_tokens,
        }
        return request if identity.plain_json else request | {"response_format": response_format()}

    def _read(self, response: httpx2.Response) -> dict[str, Any]:
        status = response.status_code
        if status in _PASSING or status >= 500:
            pause = _pause(response.headers.get("Retry-After"), time.time())
            if pause is not None and pause > self._patience.longest_pause:
                raise JudgeFailure(f"http {status}", f"the server asks to wait {pause:.0f} s")
            raise _PassingFailure(f"http {status}", self._said(response), pause)
        if status != 200:
            raise _Refusal(status, self._said(response))
        try:
            body = loads_strictly(response.content)
        except ValueError as error:
            raise JudgeFailure("malformed reply", f"not JSON: {self._safe(response.text)!r:.120}") from error
        if not isinstance(body, dict):
            raise JudgeFailure("malformed reply", f"not a chat completion: {self._safe(response.text)!r:.120}")
        return body

    def _said(self, response: httpx2.Response) -> str:
        """Return the server's own words about what is wrong, shortened."""
        text = response.text
        with contextlib.suppress(ValueError, KeyError, TypeError):
            error = loads_strictly(text)["error"]
            text = error["message"] if isinstance(error, dict) else str(error)
        return self._safe(" ".join(str(text).split()))[:300]

    def _safe(self, text: str) -> str:
        return text.replace(self._key, "***") if len(self._key) >= _SECRET else text

    def _explain(self, refusal: _Refusal) -> NoReturn:
        """Say what to do about a server that refuses a harmless question."""
        mend = ""
        if refusal.status in (400, 422) and not self._identity.plain_json:
            mend = "if it does not know response_format json_schema, add --judge-plain-json to ask for JSON in words"
        elif refusal.status in (401, 403):
            mend = "name the environment variable that holds a valid key with --judge-api-key-env"
        elif refusal.status in (404, 405):
            mend = "check --judge-model, and --judge-endpoint (the address before /chat/completions)"
        elif refusal.status < 400:
            mend = "give the address that it leads to as --judge-endpoint"
        said = f": {refusal.detail}" if refusal.detail else ""
        raise JudgeError(f"the judge at {self._url} refused the request (HTTP {refusal.status}{said})", mend) from None


def _address(endpoint: str) -> SplitResult:
    mend = "give the address before /chat/completions, for example http://localhost:8000/v1"
    try:
        address = urlsplit(endpoint)
        port = address.port
    except ValueError as error:
        raise JudgeError(f"{endpoint!r:.200} is not an address: {error}", mend) from error
    if address.username is not None or address.password is not None:
        raise JudgeError("the address of the judge holds a user name or password", "use --judge-api-key-env")
    if address.scheme not in ("http", "https") or not address.hostname or port == 0:
        raise JudgeError(f"{endpoint!r:.200} is not the address of a judge", mend)
    if address.query or address.fragment or address.path.rstrip("/").endswith("/chat/completions"):
        raise JudgeError(f"{endpoint!r:.200} is not the base address of a judge", mend)
    return address


def _sendable(key: str | None) -> str:
    text = (key or "").strip()
    if not text.isascii() or not text.isprintable():
        raise JudgeError("the judge's key holds characters that cannot be sent", "check the variable that holds it")
    return text


def _name(body: dict[str, Any]) -> str:
    name = body.get("model")
    if not isinstance(name, str) or not name or len(name) > 500:
        raise JudgeFailure("malformed reply", "it does not name the model that answered")
    return name


def _content(body: dict[str, Any]) -> str:
    try:
        choice = body["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        content, refusal = message.get("content"), message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise JudgeFailure("malformed reply", "not a chat completion") from error
    if refusal:
        raise JudgeFailure("judge declined", f"{refusal!r:.120}")
    if finish in ("length", "content_filter"):
        raise JudgeFailure("cut reply", f"it ended by {finish}")
    if not isinstance(content, str):
        raise JudgeFailure("malformed reply", "it holds no text")
    return content


def _usage(body: dict[str, Any]) -> tuple[int, int]:
    usage = body.get("usage")
    counts = [usage.get(name) if isinstance(usage, dict) else 0 for name in ("prompt_tokens", "completion_tokens")]
    prompt, completion = (count if isinstance(count, int) and count > 0 else 0 for count in counts)
    return prompt, completion


def _pause(header: str | None, now: float) -> float | None:
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
