"""The client against a real server on loopback."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import json
import socket
from typing import Any

import pytest

from vital_eval.chat_server import Patience, named_pause
from vital_eval.judge.client import ChatJudge, Reply
from vital_eval.judge.errors import JudgeError, JudgeFailure
from vital_eval.judge.question import JudgeQuestion

from .server import MODEL, Answered, Call, Server, completion, verdict

QUICK = Patience(reply_seconds=10, attempts=3, first_pause=0.01, longest_pause=0.05)
KEY = "sk-secret-4711"
QUESTION = JudgeQuestion("mmvu", "a", "Which shot?", "Pan shot", "a right pan")


def ask(url: str, question: JudgeQuestion = QUESTION, patience: Patience = QUICK, **options: Any) -> Reply:
    async def session() -> Reply:
        judge = ChatJudge(url, "judge-1", patience=patience, **options)
        try:
            return await judge.ask(question)
        finally:
            await judge.close()

    return asyncio.run(session())


def check(url: str, patience: Patience = QUICK, **options: Any) -> str:
    async def session() -> str:
        judge = ChatJudge(url, "judge-1", patience=patience, **options)
        try:
            return await judge.check()
        finally:
            await judge.close()

    return asyncio.run(session())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_what_is_sent(server: Server) -> None:
    reply = ask(server.url + "/", api_key=KEY)
    assert (reply.model, reply.ruling.correct, reply.prompt_tokens, reply.completion_tokens) == (MODEL, True, 100, 10)
    (call,) = server.calls
    assert call.path == "/v1/chat/completions"
    assert call.headers["Authorization"] == f"Bearer {KEY}"
    request = call.request
    assert set(request) == {"model", "messages", "temperature", "seed", "max_tokens", "response_format"}
    assert (request["model"], request["temperature"], request["seed"]) == ("judge-1", 0, 0)
    form = request["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["strict"] is True
    schema = form["json_schema"]["schema"]
    assert schema["properties"] == {"extracted_answer": {"type": "string"}, "correct": {"type": "boolean"}}
    assert set(schema["required"]) == {"extracted_answer", "correct"}
    assert schema["additionalProperties"] is False
    assert call.fields == {"question": "Which shot?", "reference_answer": "Pan shot", "answer": "a right pan"}


def test_without_a_key_none_is_sent(server: Server) -> None:
    ask(server.url)
    assert "Authorization" not in server.calls[0].headers


def test_plain_json_is_asked_for_in_words(server: Server) -> None:
    server.script = lambda call, number: completion('```json\n{"extracted_answer": "pan", "correct": true}\n```')
    assert ask(server.url, plain_json=True).ruling.correct
    request = server.calls[0].request
    assert "response_format" not in request
    assert '{"extracted_answer"' in request["messages"][0]["content"]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_what_may_pass_is_tried_again(server: Server, status: int) -> None:
    server.script = lambda call, number: Answered(status) if number < 3 else verdict(True)
    assert ask(server.url).ruling.correct
    assert len(server.calls) == 3


def test_retry_after_is_honoured(server: Server) -> None:
    server.script = lambda call, number: Answered(429, headers={"Retry-After": "0"}) if number < 3 else verdict(True)
    # With these pauses of its own it would take minutes.
    assert ask(server.url, patience=Patience(first_pause=100, longest_pause=1000)).ruling.correct
    assert len(server.calls) == 3


def test_a_wait_beyond_patience_is_a_failure_at_once(server: Server) -> None:
    server.script = lambda call, number: Answered(429, headers={"Retry-After": "7200"})
    with pytest.raises(JudgeFailure, match="http 429: the server asks to wait 7200 s"):
        ask(server.url)
    assert len(server.calls) == 1


def test_retry_after_is_seconds_or_a_date() -> None:
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    later = email.utils.format_datetime(now + datetime.timedelta(seconds=30), usegmt=True)
    assert named_pause("17", now.timestamp()) == 17
    assert named_pause(later, now.timestamp()) == 30
    assert named_pause(later, now.timestamp() + 100) == 0
    assert named_pause("soon", now.timestamp()) is None
    assert named_pause(None, now.timestamp()) is None


def test_broken_for_good_is_a_failure_after_all_attempts(server: Server) -> None:
    server.script = lambda call, number: Answered(500, '{"error": {"message": "out of memory"}}')
    with pytest.raises(JudgeFailure) as failure:
        ask(server.url)
    assert (failure.value.kind, failure.value.detail) == ("http 500", "out of memory")
    assert len(server.calls) == 3


def test_a_silent_server_times_out(server: Server) -> None:
    server.script = lambda call, number: Answered(200, "{}", seconds=20)
    with pytest.raises(JudgeFailure, match=r"timeout: no reply within 0\.4 s"):
        ask(server.url, patience=Patience(reply_seconds=0.4, attempts=2, first_pause=0.01))
    assert len(server.calls) == 2


def test_a_dripping_server_times_out(server: Server) -> None:
    server.script = lambda call, number: Answered(200, " " * 1000, drip=0.1)
    with pytest.raises(JudgeFailure, match="timeout"):
        ask(server.url, patience=Patience(reply_seconds=0.4, attempts=1))


@pytest.mark.parametrize(
    ("answered", "words"),
    [
        (Answered(200, "<html>"), "malformed reply: not JSON"),
        (Answered(200, "[]"), "malformed reply: not a chat completion"),
        (Answered(200, "{}"), "malformed reply"),
        (Answered(200, json.dumps({"model": MODEL, "choices": []})), "malformed reply: not a chat completion"),
        (Answered(200, json.dumps({"choices": [{"message": {"content": "{}"}}]})), "malformed reply"),
        (completion("I think it is right."), "malformed reply"),
        (completion('{"extracted_answer": "x", "cor', finish_reason="length"), "cut reply: it ended by length"),
        (completion("", message={"content": None, "refusal": "I cannot"}), "judge declined"),
        (completion("", message={"content": None}), "malformed reply: it holds no text"),
        (Answered(400, '{"error": {"message": "content filter"}}'), "http 400: content filter"),
    ],
)
def test_what_cannot_be_read_is_a_failure_without_another_attempt(
    server: Server, answered: Answered, words: str
) -> None:
    server.script = lambda call, number: answered
    with pytest.raises(JudgeFailure, match=words):
        ask(server.url)
    assert len(server.calls) == 1


def test_the_check_names_the_model_and_sends_nothing_real(server: Server) -> None:
    assert check(server.url) == MODEL
    assert server.real == []


@pytest.mark.parametrize(
    ("status", "mend"),
    [
        (400, "add --judge-plain-json"),
        (422, "add --judge-plain-json"),
        (401, "--judge-api-key-env"),
        (404, "check --judge-model, and --judge-endpoint"),
        (307, "give the address that it leads to"),
    ],
)
def test_a_refusing_server_is_one_line_with_its_words(server: Server, status: int, mend: str) -> None:
    answered = Answered(
        status, json.dumps({"error": {"message": f"no\n good {KEY}"}}), {"Location": "http://127.0.0.1:1/"}
    )
    server.script = lambda call, number: answered
    with pytest.raises(JudgeError) as error:
        check(server.url, api_key=KEY)
    assert f"HTTP {status}: no good ***" in str(error.value)
    assert mend in str(error.value)
    assert KEY not in str(error.value)
    assert len(server.calls) == 1


def test_plain_json_is_not_offered_twice(server: Server) -> None:
    server.script = lambda call, number: Answered(400, "bad")
    with pytest.raises(JudgeError) as error:
        check(server.url, plain_json=True)
    assert "plain-json" not in str(error.value)


def test_nobody_there_is_told_at_once() -> None:
    with pytest.raises(JudgeError, match=r"cannot connect to the judge at http://127\.0\.0\.1.*start the server"):
        check(f"http://127.0.0.1:{free_port()}/v1", patience=Patience(first_pause=100))


def test_a_busy_server_passes_the_check_later(server: Server) -> None:
    def script(call: Call, number: int) -> Answered:
        return Answered(503) if len(server.calls) < 3 else verdict(True)

    server.script = script
    assert check(server.url) == MODEL


@pytest.mark.parametrize(
    "endpoint",
    [
        "localhost:8000/v1",
        "ftp://x/v1",
        "http://",
        "http://x:99999/v1",
        "http://x/v1?key=1",
        "http://u:p@x/v1",
        "http://x/v1/chat/completions",
        "",
    ],
)
def test_wrong_addresses_are_refused(endpoint: str) -> None:
    with pytest.raises(JudgeError) as error:
        ChatJudge(endpoint, "m")
    assert "u:p" not in str(error.value)


def test_keys_that_cannot_be_sent_are_refused_unseen() -> None:
    with pytest.raises(JudgeError) as error:
        ChatJudge("http://x/v1", "m", api_key=f"{KEY}\r\nX: y")
    assert KEY not in str(error.value)


def test_at_most_so_many_at_a_time(server: Server) -> None:
    import threading

    now, most = [0], [0]
    lock = threading.Lock()

    def script(call: Call, number: int) -> Answered:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        threading.Event().wait(0.03)
        with lock:
            now[0] -= 1
        return verdict(True)

    server.script = script

    async def session() -> None:
        judge = ChatJudge(server.url, "judge-1", patience=QUICK, concurrency=2)
        await asyncio.gather(*(judge.ask(QUESTION) for _ in range(6)))
        await judge.close()

    asyncio.run(session())
    assert most == [2]
