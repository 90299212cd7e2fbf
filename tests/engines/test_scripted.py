"""The scripted engine behaves as a real one does where episodes can tell."""

from __future__ import annotations

import asyncio

import numpy as np

from vital_eval.clip import Clip
from vital_eval.conversation import AssistantTurn, Conversation, Message, TextPart, VideoPart
from vital_eval.engine import GenerationRequest
from vital_eval.engines.scripted import ScriptedEngine, question_of, turns
from vital_eval.generation import FinishReason, Generation
from vital_eval.protocol import Sampling
from vital_eval.span import Span

CLIP = Clip(np.zeros((3, 32, 32, 3), np.uint8), (0.0, 0.5, 1.0), Span(0, 1.5))
OPENING: Conversation = (
    Message("system", (TextPart("sys"),)),
    Message("user", (VideoPart(CLIP), TextPart("when?"))),
)


def ask(engine: ScriptedEngine, conversation: Conversation = OPENING, limit: int = 100) -> Generation:
    request = GenerationRequest(conversation, Sampling(max_new_tokens=limit), ("</answer>", "</tool_call>"), 1, "e")
    return asyncio.run(engine.generate(request))


def test_it_cuts_at_the_first_stop_string_and_keeps_it() -> None:
    generation = ask(ScriptedEngine(turns("<tool_call>x</tool_call><answer>y</answer>")))
    assert generation.text == "<tool_call>x</tool_call>"
    assert generation.finish is FinishReason.STOP_STRING
    assert bytes(generation.token_ids).decode() == generation.text


def test_it_ends_a_turn_without_a_stop_string() -> None:
    assert ask(ScriptedEngine(turns("hello"))).finish is FinishReason.END_OF_TURN


def test_it_obeys_the_token_limit() -> None:
    generation = ask(ScriptedEngine(turns("hello world")), limit=5)
    assert (generation.text, generation.finish, len(generation.token_ids)) == ("hello", FinishReason.LENGTH, 5)
    assert ask(ScriptedEngine(turns("hello world"), obeys_limit=False), limit=5).text == "hello world"


def test_it_counts_frames_and_text() -> None:
    generation = ask(ScriptedEngine(turns("x")))
    assert generation.visual_tokens == 3
    assert generation.prompt_tokens == 3 + len("sys") + len("when?")


def test_turns_follow_the_conversation_not_the_clock() -> None:
    engine = ScriptedEngine(turns("one", "two"))
    first = ask(engine)
    later = (*OPENING, AssistantTurn(first), Message("tool", (TextPart("t"),)))
    assert [ask(engine, later).text, ask(engine).text, ask(engine, later).text] == ["two", "one", "two"]
    assert question_of(later) == "when?"
    assert question_of(()) == ""


def test_it_remembers_what_happened() -> None:
    engine = ScriptedEngine(turns("x"))
    ask(engine)
    engine.release("e")
    asyncio.run(engine.close())
    assert len(engine.requests) == 1
    assert engine.released == ["e"]
    assert engine.closed
