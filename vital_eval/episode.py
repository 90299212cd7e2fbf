"""The episode loop: one attempt at one sample.

    question + whole video -> turn -> tool call? -> clip -> turn -> ... -> answer

Rules that decide a score, all of them deliberate:

* The final turn is always parsed, whatever ended it.
* A tool call wins over an answer in the same turn, except in the last turn that the protocol allows: no call can
  be carried out there, so an answer beside it counts. Either way it is recorded as an anomaly.
* A call beyond the budget gets an error message while turns remain, and is never carried out.
* A turn with neither a call nor an answer ends the episode; nothing is generated twice.
* The model is told the annotated duration where there is one (the probed one otherwise); what the tool can reach
  is bounded by the probed duration of the real file.
* The time limit is a guard against engines that hang. It counts the model's turns only (decoding has a limit of its
  own), and running into it is a failure of the machine, so that a busy one cannot turn into a wrong answer: what a
  model may write is bounded by tokens and turns.
* In the blind mode the question comes without the video. The file is opened only where the annotation has no duration
  (to state it) or the question's own image is the last frame (to show that one frame).
* A bad video, a dead engine, a full context and a spent time limit are outcomes with a name, never exceptions.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from vital_eval.clip import Clip
from vital_eval.conversation import AssistantTurn, Conversation, Message, TextPart, VideoPart
from vital_eval.engine import ContextOverflowError, Engine, GenerationRequest
from vital_eval.errors import EngineError, MediaError
from vital_eval.generation import FinishReason, Generation
from vital_eval.parsing.turn import TurnParts, split_turn
from vital_eval.prompts import render_subtitles, render_system, render_tool_error, render_tool_result, render_user
from vital_eval.protocol import Mode, Protocol, View
from vital_eval.sample import Sample
from vital_eval.span import Span
from vital_eval.subtitles import SubtitleError, SubtitleLine, on_screen, write_lines
from vital_eval.task import AnswerKind
from vital_eval.toolbox import Tool, ToolError, ToolLimits, ToolResult, called_name, run_call
from vital_eval.trajectory import StopReason, ToolCall, Trajectory, Turn

#: More text than this in one turn is cut (an engine that ignores its token limit must not fill the disk).
MAX_TURN_CHARACTERS = 65_536
#: How much of a tool call's text the record keeps beside the turn.
MAX_CALL_CHARACTERS = 2_000

#: Times are kept to a tenth of a millisecond: more would be noise, and fill the log.
_TIME_DIGITS = 4

#: Frames must end on the question's image to the millisecond.
_SAME_FRAME_SECONDS = 1e-3

_NOTE_TEXTS = {
    "clamped-start": "start moved to the start of the video",
    "clamped-end": "end moved to the end of the video",
    "ignored-arguments": "unknown arguments ignored",
}


@dataclass(frozen=True, slots=True)
class Footage:
    """The sample's own video, opened: the only thing an episode can look at.

    Attributes:
        duration: length of the file in seconds, as probed.
        last_frame: time of the last frame of the file in seconds.
        read: decodes a span (``None``: the whole video) under a view.
    """

    duration: float
    last_frame: float
    read: Callable[[Span | None, View], Awaitable[Clip]]


#: Resolves and probes the sample's video. Raises MediaError.
OpenFootage = Callable[[], Awaitable[Footage]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What is to be attempted.

    Attributes:
        sample: the question.
        kind: what its answer field must hold.
        protocol: how it is attempted.
        tools: the protocol's tools by name; empty unless its mode is ``tool``.
        number: which of several attempts at this sample; it moves the seeds.
        subtitles: reads the subtitles of the video; ``None`` if there are none to give. Raises SubtitleError.
    """

    sample: Sample
    kind: AnswerKind
    protocol: Protocol
    tools: Mapping[str, Tool] = field(default_factory=dict)
    number: int = 0
    subtitles: Callable[[], tuple[SubtitleLine, ...]] | None = None

    @property
    def episode(self) -> str:
        """Identity of the episode, unique within a run."""
        return f"{self.sample.task}/{self.protocol.hash}/{self.sample.id}/{self.number}"

    def seed(self, turn: int) -> int:
        """Return the seed of one turn: it depends on nothing that a batch, a resume or another sample can move."""
        text = json.dumps([self.protocol.sampling.seed, self.sample.id, self.number, turn])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end a turn."""
        return ("</tool_call>", "</answer>") if self.protocol.mode is Mode.TOOL else ("</answer>",)


async def run_episode(
    attempt: Attempt,
    engine: Engine,
    open_footage: OpenFootage,
    *,
    clock: Callable[[], float] = time.monotonic,
    wall_clock: Callable[[], float] = time.time,
) -> Trajectory:
    """Play one episode to its end.

    Args:
        attempt: sample, protocol and tools.
        engine: runs the model; it is told to release the episode at the end, whatever happened.
        open_footage: resolves and probes the sample's video.
        clock: measures seconds; tests bring their own.
        wall_clock: tells UNIX time.

    Returns:
        The trajectory. Failures of media, engine, context and time are stop reasons in it.
    """
    began = wall_clock()
    loop = _Loop(attempt, engine, _Stopwatch(clock))
    error = ""
    try:
        stop = await loop.play(open_footage)
    except _OutOfTimeError:
        stop, error = StopReason.TIMEOUT, f"stopped after {attempt.protocol.max_seconds:g} s"
    except MediaError as problem:
        stop, error = StopReason.MEDIA_FAILED, f"{problem.kind}: {problem}"
    except EngineError as problem:
        stop, error = StopReason.ENGINE_FAILED, str(problem)
    except ContextOverflowError as problem:
        stop, error = StopReason.CONTEXT_OVERFLOW, str(problem)
    finally:
        engine.release(attempt.episode)
    seconds = loop.watch.seconds()
    opened = seconds if loop.opened is None else loop.opened
    shown = seconds if loop.shown is None else loop.shown
    return Trajectory(
        turns=tuple(loop.turns),
        stop=stop,
        answer_text=loop.answer if stop is StopReason.ANSWERED else None,
        frame_times=loop.frame_times,
        duration=loop.duration,
        error=_one_line(error),
        seconds=_rounded(seconds),
        began=_rounded(began),
        open_seconds=_rounded(opened),
        decode_seconds=_rounded(shown - opened),
        unfinished_turn_began=_rounded_time(loop.asked),
        file_duration=loop.file_duration,
    )


async def open_video(attempt: Attempt, open_footage: OpenFootage) -> Footage | None:
    """Open the sample's video, unless the model is to see nothing of it and its length is known.

    Raises:
        MediaError: if it has to be opened and cannot be.
    """
    sample = attempt.sample
    blind = attempt.protocol.mode is Mode.BLIND
    if blind and sample.duration is not None and not sample.ends_with_question_image:
        return None
    return await open_footage()


def told_duration(sample: Sample, footage: Footage | None) -> float:
    """Return the length in seconds that the model is told: the annotated one where there is one, else the file's."""
    if sample.duration is None and footage is not None:
        return footage.duration
    return sample.duration or 0.0


async def frames_to_show(attempt: Attempt, footage: Footage | None) -> Clip | None:
    """Decode what is shown with the question.

    Returns:
        The whole video under the protocol's view; in the blind mode the question's own image where the sample has one,
        else ``None``.

    Raises:
        MediaError: if frames cannot be read, or the last frame is not among them although the question needs it.
    """
    sample, view = attempt.sample, attempt.protocol.view
    blind = attempt.protocol.mode is Mode.BLIND
    if footage is None or (blind and not sample.ends_with_question_image):
        return None
    last = footage.last_frame
    clip = await footage.read(Span(last, last + _SAME_FRAME_SECONDS) if blind else None, view)
    if sample.ends_with_question_image and abs(clip.timestamps[-1] - last) > _SAME_FRAME_SECONDS:
        raise MediaError("unreadable", f"the last frame of {sample.video}, which holds the question, was not decoded")
    return clip


async def subtitles_to_show(attempt: Attempt, clip: Clip | None) -> tuple[str, tuple[str, ...]]:
    """Read the subtitles that are on screen in the frames shown.

    Returns:
        Their lines as text, ``""`` without any, and what was odd: ``subtitles-missing``, ``subtitles-unreadable`` (the
        sample is asked without) or ``subtitles-cut``.
    """
    if not attempt.protocol.subtitles or clip is None:
        return "", ()
    if attempt.subtitles is None:
        return "", ("subtitles-missing",)
    try:
        lines = await asyncio.to_thread(attempt.subtitles)
    except SubtitleError as error:
        return "", (error.code,)
    text, whole = write_lines(on_screen(lines, clip.timestamps))
    return text, () if whole else ("subtitles-cut",)


def opening(attempt: Attempt, clip: Clip | None, duration: float, subtitles: str = "") -> Conversation:
    """Return what the model is told first: instructions, what it is shown, the question.

    Args:
        attempt: sample, protocol and tools.
        clip: the whole video under the protocol's view; ``None`` shows nothing (see :func:`frames_to_show`).
        duration: length of the video in seconds, as the model is told.
        subtitles: lines that are on screen in the clip, ``""`` without any.
    """
    protocol = attempt.protocol
    schemas = tuple(json.dumps(tool.schema()) for tool in attempt.tools.values())
    system = render_system(protocol.prompt, schemas)
    user = render_user(protocol.prompt, attempt.sample, attempt.kind, duration, protocol.max_tool_calls)
    if subtitles:
        user = render_subtitles(subtitles) + user
    question = Message("user", (TextPart(user),) if clip is None else (VideoPart(clip), TextPart(user)))
    if not system:
        return (question,)
    return (Message("system", (TextPart(system),)), question)


class _Stopwatch:
    """Counts the seconds since an episode began."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = clock()

    def seconds(self) -> float:
        return self._clock() - self._started


@dataclass(frozen=True, slots=True)
class _Written:
    """A turn as the engine gave it, when it was asked for and how long it took, as seen from here."""

    generation: Generation
    began: float
    seconds: float


class _Loop:
    """The state of one episode while it runs; what is in it when an error comes is kept.

    ``opened`` and ``shown`` are when the video was probed and its frames were there, ``asked`` when the turn was handed
    over that is with the engine; all in seconds since the episode began.
    """

    def __init__(self, attempt: Attempt, engine: Engine, watch: _Stopwatch) -> None:
        self.attempt = attempt
        self.engine = engine
        self.watch = watch
        self.opened: float | None = None
        self.shown: float | None = None
        self.asked: float | None = None
        self.turns: list[Turn] = []
        self.answer: str | None = None
        self.frame_times: tuple[float, ...] = ()
        self.duration = attempt.sample.duration or 0.0
        self.file_duration: float | None = None
        self.odd: tuple[str, ...] = ()
        self.seconds_left = attempt.protocol.max_seconds

    async def play(self, open_footage: OpenFootage) -> StopReason:
        """Run turns until one of them ends the episode."""
        protocol = self.attempt.protocol
        footage = await open_video(self.attempt, open_footage)
        self.opened = self.watch.seconds()
        self.duration = told_duration(self.attempt.sample, footage)
        self.file_duration = None if footage is None else footage.duration
        clip = await frames_to_show(self.attempt, footage)
        self.shown = self.watch.seconds()
        self.frame_times = () if clip is None else clip.timestamps
        subtitles, self.odd = await subtitles_to_show(self.attempt, clip)
        conversation = opening(self.attempt, clip, self.duration, subtitles)
        for turn in range(protocol.max_turns):
            last = turn == protocol.max_turns - 1
            written = await self._generate(conversation, turn)
            generation = written.generation
            parts, anomalies = self._read(generation)
            call_text, answered = parts.tool_call, last and parts.answer is not None
            if call_text is None or footage is None or not self.attempt.tools or answered:
                self._keep(written, None, anomalies)
                return self._finish(parts, generation)
            call, result = await self._timed_call(call_text, footage, last=last)
            self._keep(written, call, anomalies)
            conversation += (AssistantTurn(generation), self._reply(call, result))
        return StopReason.MAX_TURNS

    async def _generate(self, conversation: Conversation, turn: int) -> _Written:
        attempt = self.attempt
        more = turn + 1 < attempt.protocol.max_turns
        request = GenerationRequest(
            conversation, attempt.protocol.sampling, attempt.stop, attempt.seed(turn), attempt.episode, more
        )
        now = asyncio.get_running_loop().time
        started = now()
        began = self.asked = self.watch.seconds()
        try:
            async with asyncio.timeout(self.seconds_left) as limit:
                generation = await self.engine.generate(request)
        except TimeoutError:
            if limit.expired():
                raise _OutOfTimeError from None
            raise
        self.seconds_left -= now() - started
        self.asked = None
        return _Written(generation, began, self.watch.seconds() - began)

    def _read(self, generation: Generation) -> tuple[TurnParts, tuple[str, ...]]:
        parts = split_turn(generation.text[:MAX_TURN_CHARACTERS])
        anomalies = [*(self.odd if not self.turns else ()), *parts.anomalies]
        if len(generation.text) > MAX_TURN_CHARACTERS:
            anomalies.append("text-cut")
        if parts.tool_call is not None and not self.attempt.tools:
            anomalies.append("call-without-tools")
        return parts, tuple(anomalies)

    def _keep(self, written: _Written, call: ToolCall | None, anomalies: tuple[str, ...]) -> None:
        generation = written.generation
        self.turns.append(
            Turn(
                text=generation.text[:MAX_TURN_CHARACTERS],
                finish=generation.finish,
                prompt_tokens=generation.prompt_tokens,
                cached_tokens=generation.cached_tokens,
                visual_tokens=generation.visual_tokens,
                new_tokens=len(generation.token_ids),
                seconds=_rounded(written.seconds),
                tool_call=call,
                anomalies=anomalies,
                began=_rounded(written.began),
                queue_seconds=_rounded_time(generation.queue_seconds),
                prefill_seconds=_rounded_time(generation.prefill_seconds),
            )
        )

    def _finish(self, parts: TurnParts, generation: Generation) -> StopReason:
        self.answer = parts.answer
        if parts.answer is not None:
            return StopReason.ANSWERED
        if generation.finish is FinishReason.LENGTH or len(generation.text) > MAX_TURN_CHARACTERS:
            return StopReason.MAX_TOKENS
        return StopReason.NO_ANSWER

    async def _timed_call(self, raw: str, footage: Footage, *, last: bool) -> tuple[ToolCall, ToolResult | None]:
        started = self.watch.seconds()
        call, result = await self._call(raw, footage, last=last)
        return replace(call, seconds=_rounded(self.watch.seconds() - started)), result

    async def _call(self, raw: str, footage: Footage, *, last: bool) -> tuple[ToolCall, ToolResult | None]:
        attempt, protocol = self.attempt, self.attempt.protocol
        kept, name = raw.strip()[:MAX_CALL_CHARACTERS], called_name(raw, attempt.tools)
        made = sum(turn.tool_call is not None for turn in self.turns)
        if made >= protocol.max_tool_calls:
            return ToolCall(kept, name, "over-budget", "no calls left, answer now"), None
        if last:
            return ToolCall(kept, name, "no-turn-left", "no turn left to answer in"), None
        limits = ToolLimits(footage.duration, protocol.overrun_seconds, protocol.min_clip_seconds)
        try:
            result = await run_call(raw, attempt.tools, limits, lambda span: footage.read(span, protocol.clip_view))
        except ToolError as error:
            return ToolCall(kept, name, error.code, error.message), None
        span = result.clip.span
        message = render_tool_result(protocol.prompt, span.start, span.end, render_notes(result.notes))
        return ToolCall(kept, name, "", message, span.as_window(), result.notes, result.clip.timestamps), result

    def _reply(self, call: ToolCall, result: ToolResult | None) -> Message:
        if result is None:
            return Message("tool", (TextPart(render_tool_error(self.attempt.protocol.prompt, call.message)),))
        return Message("tool", (VideoPart(result.clip), TextPart(call.message)))


class _OutOfTimeError(Exception):
    """The model took longer than the protocol allows."""


def render_notes(notes: tuple[str, ...]) -> str:
    """Write what was clamped or odd in a tool call as the model is told, ``""`` if nothing was."""
    texts = [_NOTE_TEXTS[note] for note in notes if note in _NOTE_TEXTS]
    return f" ({', '.join(texts)})" if texts else ""


def _rounded(seconds: float) -> float:
    return round(seconds, _TIME_DIGITS)


def _rounded_time(seconds: float | None) -> float | None:
    return None if seconds is None else _rounded(seconds)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]
