"""Every word said to the model that is not the sample's own, in one place.

The contract is the published one (think / tool_call / answer tags, the duration stated, the tool schema in the
system block); the words are ours. A protocol file can bring others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vital_eval.sample import Sample
    from vital_eval.task import AnswerKind


@dataclass(frozen=True, slots=True)
class PromptTexts:
    """Prompt templates. Fields in braces are filled by plain replacement of the named fields only.

    Attributes:
        system: system message; ``{tools}`` becomes one JSON schema a line.
        user: user message after the video; ``{duration}``, ``{question}``, ``{answer_form}``, ``{max_tool_calls}``.
        options: how options follow the question; ``{options}`` becomes one ``A. text`` a line.
        moment: question form for grounding; ``{query}``.
        moments: question form for grounding with several spans; ``{query}``.
        form_span: request for the answer's form, by kind of answer ...
        form_spans: ... several spans
        form_option: ... a letter
        form_option_and_span: ... a letter and the span that shows it
        form_number: ... a number
        form_open: ... a short text
        tool_result: text beside a tool's clip; ``{start}``, ``{end}`` with two decimals, ``{note}``.
        tool_error: text of a failed call; ``{error}``.
    """

    system: str
    user: str
    options: str
    moment: str
    moments: str
    form_span: str
    form_spans: str
    form_option: str
    form_option_and_span: str
    form_number: str
    form_open: str
    tool_result: str
    tool_error: str


def render_user(texts: PromptTexts, sample: Sample, kind: AnswerKind, duration: float, max_tool_calls: int) -> str:
    """Write the user message for one sample.

    Args:
        texts: the protocol's templates.
        sample: the question; only ``question`` and ``options`` are shown.
        kind: what the answer must hold.
        duration: length of the video in seconds, shown with two decimals.
        max_tool_calls: the same number that the loop enforces.
    """
    form = {
        "span": texts.form_span,
        "spans": texts.form_spans,
        "option": texts.form_option,
        "option-and-span": texts.form_option_and_span,
        "number": texts.form_number,
        "open": texts.form_open,
    }[kind.value]
    question = sample.question
    if kind.value == "span":
        question = _fill(texts.moment, query=question)
    elif kind.value == "spans":
        question = _fill(texts.moments, query=question)
    if sample.options:
        lines = "\n".join(
            f"{letter}. {text}" for letter, text in zip(sample.option_letters(), sample.options, strict=True)
        )
        question += _fill(texts.options, options=lines)
    return _fill(
        texts.user,
        duration=f"{duration:.2f}",
        max_tool_calls=str(max_tool_calls),
        answer_form=form,
        question=question,
    )


#: Stands before the user message of a protocol with subtitles, and only there. It is not one of the texts above: these
#: are hashed with every protocol, and runs without subtitles must keep their hashes.
_SUBTITLES = "These subtitles are on screen in the frames, each with its seconds:\n{lines}\n\n"


def render_subtitles(lines: str) -> str:
    """Write what stands before the user message where subtitles are given.

    Args:
        lines: the subtitles, one a line.
    """
    return _fill(_SUBTITLES, lines=lines)


def render_system(texts: PromptTexts, schemas: tuple[str, ...]) -> str:
    """Write the system message; ``schemas`` are the offered tools' JSON schemas, one line each."""
    return _fill(texts.system, tools="\n".join(schemas))


def render_tool_result(texts: PromptTexts, start: float, end: float, note: str) -> str:
    """Write the text that stands beside a tool's clip."""
    return _fill(texts.tool_result, start=f"{start:.2f}", end=f"{end:.2f}", note=note)


def render_tool_error(texts: PromptTexts, error: str) -> str:
    """Write the text that answers a failed tool call."""
    return _fill(texts.tool_error, error=error)


def _fill(template: str, **values: str) -> str:
    # One pass over the template only: str.format would choke on braces in JSON schemas, and replacing one
    # field after another would also replace braces that came in with a question.
    out, rest = [], template
    while rest:
        opening = rest.find("{")
        closing = rest.find("}", opening)
        name = rest[opening + 1 : closing]
        if opening < 0 or closing < 0:
            break
        if name in values:
            out += [rest[:opening], values[name]]
            rest = rest[closing + 1 :]
        else:
            out.append(rest[: opening + 1])
            rest = rest[opening + 1 :]
    return "".join(out) + rest


_FORMS = {
    "options": "\nOptions:\n{options}",
    "moment": "Find the moment of the video that this sentence describes: {query}",
    "moments": "Find every moment of the video that fits this description: {query}",
    "form_span": "In the answer, state the start and the end in seconds, for example: 12.50 to 20.00",
    "form_spans": (
        "In the answer, state start and end of each moment in seconds, for example: 12.50 to 20.00, 31.00 to 40.25"
    ),
    "form_option": "In the answer, state only the letter of the right option.",
    "form_option_and_span": (
        "In the answer, state the letter of the right option and then the start and the end, in seconds, of the "
        "moment that shows it, for example: B, 12.50 to 20.00"
    ),
    "form_number": "In the answer, state only a number.",
    "form_open": "In the answer, state only the answer itself, in a few words.",
    "tool_result": "These are the frames from {start} to {end} seconds.{note}",
    "tool_error": "The tool call failed: {error}",
}

_OPENING = "The video is {duration} seconds long.\n"

#: Answer at once, without reasoning in the open.
DIRECT_TEXTS = PromptTexts(
    system="You are a helpful assistant.",
    user=_OPENING
    + "Answer the question about the video. Every question has an answer. Write nothing but the answer, as "
    "<answer> ... </answer>. {answer_form}\n\nQuestion:\n{question}",
    **_FORMS,
)

#: Think in text, then answer.
COT_TEXTS = PromptTexts(
    system="You are a helpful assistant.",
    user=_OPENING + "Reason about the question step by step, then answer it. Every question has an answer. Write your "
    "reasoning inside <think> </think> and the answer inside <answer> </answer>: <think> ... </think>"
    "<answer> ... </answer>. {answer_form}\n\nQuestion:\n{question}",
    **_FORMS,
)

_TOOL_SYSTEM = """You are a helpful assistant.

# Tools

You can call the functions described here, one JSON schema a line:
<tools>
{tools}
</tools>

To call one, write a JSON object with its name and arguments inside <tool_call> </tool_call>:
<tool_call>
{"name": "function name", "arguments": {"argument name": 1.0}}
</tool_call>"""

#: Think, look closer through a tool, think again, answer.
TOOL_TEXTS = PromptTexts(
    system=_TOOL_SYSTEM,
    user=_OPENING + "Reason about the question step by step, then answer it. Every question has an answer.\n"
    "1. Write your reasoning inside <think> </think> and the answer inside <answer> </answer>.\n"
    "2. If you need to see more, call a tool inside <tool_call> </tool_call>, at most {max_tool_calls} time(s).\n"
    "3. When new frames arrive, combine them with your earlier reasoning, think again and answer.\n"
    "Form: <think> ... </think><tool_call> ... </tool_call>, then <think> ... </think><answer> ... </answer>. "
    "{answer_form}\n\nQuestion:\n{question}",
    **_FORMS,
)

_NANO_FORMS = {
    "options": "\n{options}",
    "moment": "When: {query}",
    "moments": "When, all: {query}",
    "form_span": "span",
    "form_spans": "spans",
    "form_option": "letter",
    "form_option_and_span": "letter, span",
    "form_number": "number",
    "form_open": "word",
    "tool_result": "{start} to {end}{note}",
    "tool_error": "failed: {error}",
}

#: The same contract in a few tokens, for vital-nano: a 1.5 M-parameter model on a CPU pays for every word.
NANO_DIRECT_TEXTS = PromptTexts(system="answer", user="{duration} s. {answer_form}\n{question}", **_NANO_FORMS)
NANO_COT_TEXTS = PromptTexts(system="think, answer", user="{duration} s. {answer_form}\n{question}", **_NANO_FORMS)
NANO_TOOL_TEXTS = PromptTexts(
    system="{tools}\nthink, call, think, answer", user="{duration} s. {answer_form}\n{question}", **_NANO_FORMS
)
