"""Split one turn into its parts: thought, tool call, answer.

A thought is never read for an answer, and neither is a tool call. An unclosed ``<think>`` swallows the rest of
the turn: what a model was still thinking when it was cut off is not an answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_TOOL_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_CALL_END = "</tool_call>"
_OPEN_TOOL_CALL = re.compile(r"<tool_call>.*?(?:</tool_call>|\Z)", re.DOTALL)
_ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TurnParts:
    """What a turn holds outside its thoughts.

    Attributes:
        tool_call: text inside the first complete tool_call tag pair, if any.
        answer: stripped text inside the last complete answer tag pair, if any and not empty.
        anomalies: what was odd (``answer-beside-tool-call``, ``several-tool-calls``, ``unclosed-thought``,
            ``empty-answer``).
    """

    tool_call: str | None
    answer: str | None
    anomalies: tuple[str, ...]


def split_turn(text: str) -> TurnParts:
    """Read one turn.

    Args:
        text: the decoded turn; where the chat template opened ``<think>``, engines let it start with that tag.
    """
    anomalies: list[str] = []
    if text.rfind("<think>") > text.rfind("</think>"):
        anomalies.append("unclosed-thought")
    # A blank takes the place of what is removed, so that what stood around it does not grow into a number or a tag.
    spoken = _THOUGHT.sub(" ", text)
    # A stray closing tag (the opening one was in the prompt) still ends a thought.
    spoken = spoken.rpartition("</think>")[2]
    # Nothing after the last closing tag can be a call; looking there costs the square of its length.
    calls = _TOOL_CALL.findall(spoken[: spoken.rfind(_CALL_END) + len(_CALL_END)] if _CALL_END in spoken else "")
    answers = _ANSWER.findall(_OPEN_TOOL_CALL.sub(" ", spoken))
    if len(calls) > 1:
        anomalies.append("several-tool-calls")
    if calls and answers:
        anomalies.append("answer-beside-tool-call")
    answer = answers[-1].strip() if answers else None
    if answer == "":
        anomalies.append("empty-answer")
        answer = None
    return TurnParts(calls[0] if calls else None, answer, tuple(anomalies))
