"""Asks a judge behind any server that speaks the OpenAI chat completions protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn, Protocol
from urllib.parse import SplitResult

from vital_eval.chat_server import (
    ChatServer,
    NoConnection,
    PassingFailure,
    Patience,
    Refusal,
    RequestFailure,
    check_address,
)
from vital_eval.judge.errors import JudgeError, JudgeFailure
from vital_eval.judge.identity import JudgeIdentity, identify
from vital_eval.judge.prompt import Ruling, messages, read_reply, response_format
from vital_eval.judge.question import JudgeQuestion

#: Asked before the first real question, so that a wrong address, key or option is told apart from a bad answer.
_HARMLESS = JudgeQuestion("check", "check", "Which colour does the sky have in the video?", "blue", "It is blue.")
_PATH = "/chat/completions"


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
        self._url = endpoint.rstrip("/") + _PATH
        self._identity = identify(model, address.hostname or "", plain_json=plain_json)
        self._concurrency = concurrency
        try:
            self._server = ChatServer(endpoint, api_key, concurrency, patience or Patience())
        except ValueError as error:
            raise JudgeError(f"the judge cannot be asked: {error}", "check the variable that holds the key") from error

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
        request = self._request(_HARMLESS)
        try:
            try:
                return _name(await self._server.send_once(_PATH, request))
            except NoConnection as failure:
                # Nobody listening is told at once: it is most often a wrong address.
                raise JudgeError(
                    f"cannot connect to the judge at {self._url} ({failure.detail})",
                    "start the server, or check --judge-endpoint",
                ) from failure
            except PassingFailure:
                return _name(await self._server.send(_PATH, request))
        except Refusal as refusal:
            self._explain(refusal)
        except RequestFailure as failure:
            raise JudgeFailure(failure.kind, failure.detail) from failure

    async def ask(self, question: JudgeQuestion) -> Reply:
        """Have one answer judged.

        Raises:
            JudgeFailure: if no verdict came, or none that can be read. What may pass by itself (busy, broken or silent
                servers) is tried again first; a reply that cannot be read is not, for at temperature 0 it would be
                the same.
        """
        try:
            body = await self._server.send(_PATH, self._request(question))
        except RequestFailure as failure:
            raise JudgeFailure(failure.kind, failure.detail) from failure
        prompt_tokens, completion_tokens = _usage(body)
        ruling = read_reply(self._server.safe(_content(body)), plain_json=self._identity.plain_json)
        return Reply(_name(body), ruling, prompt_tokens, completion_tokens)

    async def close(self) -> None:
        """Close all connections; asking again opens new ones."""
        await self._server.close()

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

    def _explain(self, refusal: Refusal) -> NoReturn:
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
    try:
        return check_address(endpoint, "judge")
    except ValueError as error:
        mend = "give the address before /chat/completions, for example http://localhost:8000/v1"
        raise JudgeError(str(error), "use --judge-api-key-env" if "password" in str(error) else mend) from error


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
