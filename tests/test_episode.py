"""The episode loop against a scripted engine and footage made of plain arrays."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vital_eval.clip import Clip
from vital_eval.conversation import AssistantTurn, Message, TextPart, VideoPart
from vital_eval.engine import ContextOverflowError, GenerationRequest
from vital_eval.engines.scripted import Reply, ScriptedEngine, turns
from vital_eval.episode import MAX_TURN_CHARACTERS, Attempt, Footage, run_episode
from vital_eval.errors import EngineError, MediaError
from vital_eval.generation import FinishReason, Generation
from vital_eval.presets import preset
from vital_eval.protocol import Mode, Protocol, View
from vital_eval.sample import Sample, Target
from vital_eval.span import Span
from vital_eval.subtitles import SubtitleError, SubtitleLine
from vital_eval.task import AnswerKind
from vital_eval.toolbox import GetVideoClipFrame
from vital_eval.trajectory import StopReason, Trajectory

DURATION = 20.0
CALL = '<tool_call>{"name": "get_video_clip_frame", "arguments": {"start_time": 2, "end_time": 6}}</tool_call>'
ANSWER = "<think>seen</think><answer>2.00 to 6.00</answer>"
SAMPLE = Sample("q1", "nano", "v.mp4", DURATION, "a red circle", Target(windows=((2.0, 6.0),)), cluster="v.mp4")


class FakeFootage:
    """Frames made of zeros; remembers what was read."""

    def __init__(self, duration: float = DURATION, fails: Callable[[Span | None], MediaError | None] | None = None):
        self.duration = duration
        self.reads: list[tuple[Span | None, View]] = []
        self._fails = fails or (lambda _: None)

    async def open(self) -> Footage:
        """Return what the episode looks at."""
        return Footage(self.duration, self.duration - 0.5, self.read)

    async def read(self, span: Span | None, view: View) -> Clip:
        """Return two frames a second, or fail as told."""
        self.reads.append((span, view))
        error = self._fails(span)
        if error is not None:
            raise error
        shown = span or Span(0.0, self.duration)
        times = tuple(np.arange(shown.start, shown.end, 0.5).tolist())
        return Clip(np.zeros((len(times), 32, 32, 3), np.uint8), times, shown)


def attempt(mode: Mode = Mode.TOOL, sample: Sample = SAMPLE, **changes: object) -> Attempt:
    protocol = preset("vital", mode, "nano")
    protocol = dataclasses.replace(protocol, **changes)  # type: ignore[arg-type]
    tools = {"get_video_clip_frame": GetVideoClipFrame()} if mode is Mode.TOOL else {}
    return Attempt(sample, AnswerKind.SPAN, protocol, tools)


def play(
    reply: Reply | str,
    mode: Mode = Mode.TOOL,
    footage: FakeFootage | None = None,
    sample: Sample = SAMPLE,
    engine: ScriptedEngine | None = None,
    **changes: object,
) -> tuple[Trajectory, ScriptedEngine]:
    engine = engine or ScriptedEngine(turns(reply) if isinstance(reply, str) else reply)
    footage = footage or FakeFootage()
    job = attempt(mode, sample, **changes)
    trajectory = asyncio.run(run_episode(job, engine, footage.open))
    assert engine.released == [job.episode]
    return trajectory, engine


def test_a_whole_tool_dialogue() -> None:
    footage = FakeFootage()
    trajectory, engine = play(turns(f"<think>look</think>{CALL}", ANSWER), footage=footage)
    assert trajectory.stop is StopReason.ANSWERED
    assert trajectory.answer_text == "2.00 to 6.00"
    assert len(trajectory.turns) == 2
    (call,) = trajectory.tool_calls
    assert call.succeeded
    assert call.span == (2.0, 6.0)
    assert call.frame_times[0] == 2.0
    assert call.name == "get_video_clip_frame"
    protocol = attempt().protocol
    assert footage.reads == [(None, protocol.view), (Span(2.0, 6.0), protocol.clip_view)]
    first, second = (request.conversation for request in engine.requests)
    assert second[: len(first)] == first
    assert isinstance(second[-2], AssistantTurn)
    reply = second[-1]
    assert isinstance(reply, Message)
    assert reply.role == "tool"
    assert isinstance(reply.parts[0], VideoPart)
    assert isinstance(reply.parts[1], TextPart)
    assert "2.00" in reply.parts[1].text
    assert trajectory.frame_times == tuple(np.arange(0, DURATION, 0.5).tolist())


def test_the_question_message_is_video_then_text() -> None:
    _, engine = play(ANSWER, Mode.COT)
    system, user = engine.requests[0].conversation
    assert isinstance(system, Message)
    assert system.role == "system"
    assert isinstance(user, Message)
    assert [type(part) for part in user.parts] == [VideoPart, TextPart]
    assert isinstance(user.parts[1], TextPart)
    assert "20.00 seconds" in user.parts[1].text


def test_no_system_message_without_text() -> None:
    prompt = dataclasses.replace(attempt(Mode.COT).protocol.prompt, system="")
    _, engine = play(ANSWER, Mode.COT, prompt=prompt)
    assert len(engine.requests[0].conversation) == 1


@pytest.mark.parametrize("mode", [Mode.BLIND, Mode.DIRECT, Mode.COT])
def test_a_call_without_tools_is_not_carried_out(mode: Mode) -> None:
    footage = FakeFootage()
    trajectory, engine = play(CALL, mode, footage)
    assert trajectory.stop is StopReason.NO_ANSWER
    assert trajectory.turns[0].anomalies == ("call-without-tools",)
    assert not trajectory.tool_calls
    assert len(footage.reads) == (0 if mode is Mode.BLIND else 1)
    assert engine.requests[0].stop == ("</answer>",)


def test_over_budget_call_is_told_and_not_carried_out() -> None:
    footage = FakeFootage()
    trajectory, engine = play(turns(CALL, CALL, ANSWER), footage=footage, max_tool_calls=1, max_turns=3)
    assert trajectory.stop is StopReason.ANSWERED
    assert [call.error for call in trajectory.tool_calls] == ["", "over-budget"]
    assert len(footage.reads) == 2
    told = engine.requests[2].conversation[-1]
    assert isinstance(told, Message)
    assert isinstance(told.parts[0], TextPart)
    assert "no calls left" in told.parts[0].text


def test_calls_to_the_end_stop_at_max_turns() -> None:
    trajectory, engine = play(CALL, max_tool_calls=2, max_turns=3)
    assert trajectory.stop is StopReason.MAX_TURNS
    assert len(engine.requests) == 3
    assert [call.error for call in trajectory.tool_calls] == ["", "", "over-budget"]


def test_a_call_in_the_last_turn_is_not_carried_out() -> None:
    footage = FakeFootage()
    trajectory, _ = play(CALL, footage=footage, max_tool_calls=5, max_turns=2)
    assert [call.error for call in trajectory.tool_calls] == ["", "no-turn-left"]
    assert len(footage.reads) == 2
    assert trajectory.stop is StopReason.MAX_TURNS


def test_the_final_turn_is_always_parsed() -> None:
    trajectory, _ = play(turns(CALL, CALL, ANSWER), max_tool_calls=2, max_turns=3)
    assert trajectory.answer_text == "2.00 to 6.00"


def test_a_call_wins_over_an_answer_beside_it() -> None:
    class NoStop(ScriptedEngine):
        async def generate(self, request: GenerationRequest) -> Generation:
            return await super().generate(dataclasses.replace(request, stop=()))

    both = CALL + "<answer>9 to 10</answer>"
    trajectory, _ = play("", engine=NoStop(turns(both, ANSWER)))
    assert trajectory.answer_text == "2.00 to 6.00"
    assert trajectory.turns[0].anomalies == ("answer-beside-tool-call",)
    trajectory, _ = play("", engine=NoStop(turns(CALL, CALL, both)), max_tool_calls=2, max_turns=3)
    assert trajectory.answer_text == "9 to 10"


def test_length_without_an_answer_is_max_tokens() -> None:
    trajectory, _ = play("<think>and again " * 10_000)
    assert trajectory.stop is StopReason.MAX_TOKENS
    assert trajectory.turns[0].finish is FinishReason.LENGTH
    assert trajectory.answer_text is None


def test_an_answer_at_the_token_limit_counts() -> None:
    trajectory, _ = play(ANSWER + " " * 5_000)
    assert trajectory.stop is StopReason.ANSWERED


def test_text_without_tags_is_no_answer() -> None:
    trajectory, _ = play("it happens from 2 to 6")
    assert trajectory.stop is StopReason.NO_ANSWER
    assert len(trajectory.turns) == 1


def test_a_megabyte_of_text_is_bounded() -> None:
    engine = ScriptedEngine(lambda _: "x" * 1_000_000 + ANSWER, obeys_limit=False)
    trajectory, _ = play("", engine=engine)
    assert trajectory.stop is StopReason.MAX_TOKENS
    assert len(trajectory.turns[0].text) == MAX_TURN_CHARACTERS
    assert "text-cut" in trajectory.turns[0].anomalies


def test_a_huge_call_is_bounded() -> None:
    huge = '<tool_call>{"name": "' + "n" * 50_000 + '", "arguments": {}}</tool_call>'
    engine = ScriptedEngine(turns(huge, ANSWER), obeys_limit=False)
    trajectory, _ = play("", engine=engine)
    (call,) = trajectory.tool_calls
    assert call.error == "unknown-tool"
    assert call.name == ""
    assert len(call.raw) <= 2_000


def test_a_bad_call_is_answered_with_its_error() -> None:
    trajectory, engine = play(turns("<tool_call>{not json}</tool_call>", ANSWER))
    assert trajectory.tool_calls[0].error == "bad-json"
    told = engine.requests[1].conversation[-1]
    assert isinstance(told, Message)
    assert [type(part) for part in told.parts] == [TextPart]
    assert trajectory.stop is StopReason.ANSWERED


def test_unreadable_video_is_media_failed() -> None:
    footage = FakeFootage(fails=lambda _: MediaError("truncated", "v.mp4 ends early"))
    trajectory, engine = play(ANSWER, footage=footage)
    assert trajectory.stop is StopReason.MEDIA_FAILED
    assert trajectory.error == "truncated: v.mp4 ends early"
    assert not engine.requests


def test_unreadable_clip_is_a_tool_error_the_model_reads() -> None:
    footage = FakeFootage(fails=lambda span: MediaError("truncated", "bad") if span else None)
    trajectory, _ = play(turns(CALL, ANSWER), footage=footage)
    assert trajectory.stop is StopReason.ANSWERED
    assert trajectory.tool_calls[0].error == "media-truncated"


def test_missing_question_image_is_media_failed() -> None:
    late = FakeFootage()

    async def open_late() -> Footage:
        return Footage(DURATION, DURATION, late.read)

    sample = dataclasses.replace(SAMPLE, ends_with_question_image=True)
    late.open = open_late  # type: ignore[method-assign]
    trajectory, _ = play(ANSWER, footage=late, sample=sample)
    assert trajectory.stop is StopReason.MEDIA_FAILED
    trajectory, _ = play(ANSWER, footage=FakeFootage(), sample=sample)
    assert trajectory.stop is StopReason.ANSWERED


def test_engine_failure_keeps_the_turns_before_it() -> None:
    def reply(request: GenerationRequest) -> str:
        if len(request.conversation) > 2:
            raise EngineError("device lost\n\x1b[31m", "restart")
        return CALL

    trajectory, _ = play(reply)
    assert trajectory.stop is StopReason.ENGINE_FAILED
    assert trajectory.error.startswith("device lost")
    assert "\n" not in trajectory.error
    assert len(trajectory.turns) == 1


def test_full_context_is_an_outcome() -> None:
    def reply(request: GenerationRequest) -> str:
        if len(request.conversation) > 2:
            raise ContextOverflowError("9000 tokens, 8192 fit")
        return CALL

    trajectory, _ = play(reply)
    assert trajectory.stop is StopReason.CONTEXT_OVERFLOW
    assert len(trajectory.tool_calls) == 1


class Hangs(ScriptedEngine):
    """Writes one turn and no other."""

    async def generate(self, request: GenerationRequest) -> Generation:
        """Hang in the second."""
        if any(isinstance(entry, AssistantTurn) for entry in request.conversation):
            await asyncio.Event().wait()
        return await super().generate(request)


def test_the_time_limit_ends_a_hanging_engine() -> None:
    trajectory, _ = play("", engine=Hangs(turns(CALL)), max_seconds=0.5)
    assert trajectory.stop is StopReason.TIMEOUT
    assert len(trajectory.turns) == 1
    assert "0.5" in trajectory.error
    began = trajectory.unfinished_turn_began
    assert began is not None
    assert trajectory.turns[0].seconds < began < trajectory.seconds


def test_decoding_does_not_use_up_the_models_time() -> None:
    class Slow(FakeFootage):
        async def read(self, span: Span | None, view: View) -> Clip:
            await asyncio.sleep(0.15)
            return await super().read(span, view)

    trajectory, _ = play(turns(CALL, ANSWER), footage=Slow(), max_seconds=0.1)
    assert trajectory.stop is StopReason.ANSWERED


def test_an_engines_own_timeout_is_not_the_models() -> None:
    def reply(request: GenerationRequest) -> str:
        raise TimeoutError("socket")

    with pytest.raises(TimeoutError, match="socket"):
        asyncio.run(run_episode(attempt(), ScriptedEngine(reply), FakeFootage().open))


class Hours:
    """A clock that goes on only when it is told to, and a video and an engine that take time on it."""

    def __init__(self, *texts: str, fails: Callable[[Span | None], MediaError | None] | None = None) -> None:
        self.now = 1e6
        self.footage = FakeFootage(fails=fails)
        self.says = turns(*texts)

    async def open(self) -> Footage:
        """Take 1 second."""
        self.now += 1
        return Footage(DURATION, DURATION - 0.5, self.read)

    async def read(self, span: Span | None, view: View) -> Clip:
        """Take 2 seconds for the whole video, 4 for a clip."""
        self.now += 2 if span is None else 4
        return await self.footage.read(span, view)

    def reply(self, request: GenerationRequest) -> str:
        """Take 8 seconds for the first turn, 16 for the second; a lost device is noticed after that."""
        self.now += 8 if len(request.conversation) == 2 else 16
        text = self.says(request)
        if text == "lost":
            raise EngineError("device lost")
        return text

    def play(self, **changes: object) -> Trajectory:
        """Return the episode, which began at midnight."""
        job, engine = attempt(**changes), Parted(self.reply)
        return asyncio.run(
            run_episode(job, engine, self.open, clock=lambda: self.now, wall_clock=lambda: 1_767_225_600.123_456)
        )


class Parted(ScriptedEngine):
    """Knows what it spent a turn on, and thinks that it took ever so long."""

    async def generate(self, request: GenerationRequest) -> Generation:
        """Say so."""
        said = await super().generate(request)
        return dataclasses.replace(said, seconds=1e9, queue_seconds=2.000_04, prefill_seconds=3.000_06)


def test_times_tell_what_an_episode_was_spent_on() -> None:
    trajectory = Hours(CALL, ANSWER).play()
    assert trajectory.stop is StopReason.ANSWERED
    assert trajectory.began == 1_767_225_600.1235
    assert (trajectory.open_seconds, trajectory.decode_seconds, trajectory.unfinished_turn_began) == (1, 2, None)
    first, second = trajectory.turns
    assert (first.began, first.seconds, second.began, second.seconds) == (3, 8, 15, 16)
    assert (first.queue_seconds, first.prefill_seconds, first.writing_seconds) == (2.0, 3.0001, pytest.approx(2.9999))
    assert first.tool_call is not None
    assert first.tool_call.seconds == 4
    assert trajectory.seconds == 31


def test_a_call_that_is_not_carried_out_takes_no_time() -> None:
    first, second, third = Hours(CALL, CALL, ANSWER).play(max_tool_calls=1, max_turns=3).turns
    calls = [turn.tool_call for turn in (first, second)]
    assert [(call.error, call.seconds) for call in calls if call] == [("", 4), ("over-budget", 0)]
    assert (third.began, third.seconds) == (31, 16)


def test_an_engine_that_knows_no_parts_leaves_them_open() -> None:
    (turn,) = play(ANSWER)[0].turns
    assert (turn.queue_seconds, turn.prefill_seconds, turn.writing_seconds) == (None, None, None)


def test_the_turn_under_way_when_an_episode_fails_is_told() -> None:
    trajectory = Hours(CALL, "lost").play()
    assert trajectory.stop is StopReason.ENGINE_FAILED
    assert len(trajectory.turns) == 1
    assert (trajectory.unfinished_turn_began, trajectory.seconds) == (15, 31)


def test_a_video_that_fails_took_its_time() -> None:
    unreadable = MediaError("unreadable", "v.mp4 is no video")
    trajectory = Hours(ANSWER, fails=lambda _: unreadable).play()
    assert trajectory.stop is StopReason.MEDIA_FAILED
    assert (trajectory.open_seconds, trajectory.decode_seconds, trajectory.seconds) == (1, 2, 3)
    assert trajectory.unfinished_turn_began is None

    class Gone(Hours):
        async def open(self) -> Footage:
            await super().open()
            raise unreadable

    trajectory = Gone(ANSWER).play()
    assert (trajectory.open_seconds, trajectory.decode_seconds, trajectory.seconds) == (1, 0, 1)


def test_times_are_kept_to_a_tenth_of_a_millisecond() -> None:
    trajectory, _ = play(turns(CALL, ANSWER))
    times = [trajectory.seconds, trajectory.began, *(turn.seconds for turn in trajectory.turns)]
    assert times == [round(time, 4) for time in times if time is not None]


def test_time_moves_no_answer() -> None:
    quick, _ = play(turns(CALL, ANSWER))
    assert Hours(CALL, ANSWER).play() == quick
    assert Hours(CALL, f"{ANSWER} ").play().turns != play(turns(CALL, ANSWER.upper()))[0].turns


def test_duration_is_probed_when_the_annotation_has_none() -> None:
    sample = dataclasses.replace(SAMPLE, duration=None)
    trajectory, engine = play(ANSWER, footage=FakeFootage(12.0), sample=sample)
    assert trajectory.duration == 12.0
    user = engine.requests[0].conversation[-1]
    assert isinstance(user, Message)
    assert isinstance(user.parts[1], TextPart)
    assert "12.00 seconds" in user.parts[1].text


def test_the_tool_is_bounded_by_the_real_file() -> None:
    footage = FakeFootage(5.0)
    trajectory, _ = play(turns(CALL, ANSWER), footage=footage)
    assert trajectory.duration == DURATION
    (call,) = trajectory.tool_calls
    assert call.span == (2.0, 5.0)
    assert call.notes == ("clamped-end",)
    assert "end moved" in call.message


def test_seeds_differ_by_turn_and_attempt_and_repeat() -> None:
    _, engine = play(turns(CALL, ANSWER))
    seeds = [request.seed for request in engine.requests]
    again = [request.seed for request in play(turns(CALL, ANSWER))[1].requests]
    assert seeds == again
    assert len(set(seeds)) == 2
    one = attempt()
    assert one.seed(0) != dataclasses.replace(one, number=1).seed(0)
    assert all(0 <= seed < 2**63 for seed in seeds)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.text(max_size=60)
        | st.sampled_from([CALL, ANSWER, "<answer>", "</script>", "\x00\x1b[2J", "<think>", "\ud800", "<tool_call>[]"]),
        min_size=1,
        max_size=4,
    )
)
def test_no_text_breaks_an_episode(texts: list[str]) -> None:
    trajectory, engine = play(turns(*texts))
    protocol: Protocol = attempt().protocol
    assert 1 <= len(trajectory.turns) <= protocol.max_turns
    assert (trajectory.answer_text is not None) == (trajectory.stop is StopReason.ANSWERED)
    assert sum(call.succeeded for call in trajectory.tool_calls) <= protocol.max_tool_calls
    for shorter, longer in zip(engine.requests, engine.requests[1:], strict=False):
        assert longer.conversation[: len(shorter.conversation)] == shorter.conversation


@pytest.mark.parametrize("tag", ["<tool_call>", "<answer>", "<think>", "</think>", "<think></think>", "</tool_call>"])
def test_a_repeated_tag_takes_no_time(tag: str) -> None:
    started = time.perf_counter()
    play("", engine=ScriptedEngine(turns(tag * 20_000), obeys_limit=False))
    assert time.perf_counter() - started < 1.0


def user_parts(engine: ScriptedEngine) -> tuple[TextPart | VideoPart, ...]:
    user = engine.requests[0].conversation[-1]
    assert isinstance(user, Message)
    return user.parts


async def refuse_to_open() -> Footage:
    raise MediaError("missing", "no video at all")


def test_blind_asks_the_direct_question_and_opens_no_video() -> None:
    footage = FakeFootage()
    footage.open = refuse_to_open  # type: ignore[method-assign]
    trajectory, engine = play(ANSWER, Mode.BLIND, footage)
    assert trajectory.stop is StopReason.ANSWERED
    assert trajectory.frame_times == ()
    assert trajectory.duration == DURATION
    (asked,) = user_parts(engine)
    _, direct = play(ANSWER, Mode.DIRECT)
    assert asked == user_parts(direct)[1]
    assert engine.requests[0].conversation[0].parts == direct.requests[0].conversation[0].parts  # type: ignore[union-attr]
    assert trajectory.turns[0].visual_tokens == 0
    # The control: the same missing video fails a run that shows it.
    assert play(ANSWER, Mode.DIRECT, footage)[0].stop is StopReason.MEDIA_FAILED


def test_blind_opens_a_video_of_unknown_length_but_decodes_nothing() -> None:
    sample = dataclasses.replace(SAMPLE, duration=None)
    footage = FakeFootage(12.0)
    trajectory, engine = play(ANSWER, Mode.BLIND, footage, sample)
    assert trajectory.duration == 12.0
    assert footage.reads == []
    (asked,) = user_parts(engine)
    assert isinstance(asked, TextPart)
    assert "12.00 seconds" in asked.text
    footage.open = refuse_to_open  # type: ignore[method-assign]
    assert play(ANSWER, Mode.BLIND, footage, sample)[0].stop is StopReason.MEDIA_FAILED


def test_blind_keeps_the_image_that_belongs_to_the_question() -> None:
    sample = dataclasses.replace(SAMPLE, ends_with_question_image=True)
    footage = FakeFootage()
    trajectory, engine = play(ANSWER, Mode.BLIND, footage, sample)
    assert trajectory.stop is StopReason.ANSWERED
    assert trajectory.frame_times == (DURATION - 0.5,)
    image, asked = user_parts(engine)
    assert isinstance(image, VideoPart)
    assert image.clip.timestamps == (DURATION - 0.5,)
    assert isinstance(asked, TextPart)
    assert [view for _, view in footage.reads] == [attempt(Mode.BLIND).protocol.view]


def test_blind_without_the_questions_image_is_media_failed() -> None:
    footage = FakeFootage()

    async def open_late() -> Footage:
        async def read(span: Span | None, view: View) -> Clip:
            return await footage.read(Span(1.0, 2.0), view)

        return Footage(DURATION, DURATION, read)

    footage.open = open_late  # type: ignore[method-assign]
    sample = dataclasses.replace(SAMPLE, ends_with_question_image=True)
    assert play(ANSWER, Mode.BLIND, footage, sample)[0].stop is StopReason.MEDIA_FAILED


LINES = (
    SubtitleLine(0.1, 0.4, "between two frames"),
    SubtitleLine(1.0, 2.5, "it begins"),
    SubtitleLine(19.4, 25.0, "it ends"),
    SubtitleLine(30.0, 31.0, "after the video"),
)


def play_with_subtitles(
    read: Callable[[], tuple[SubtitleLine, ...]] | None, mode: Mode = Mode.COT, *, wanted: bool = True
) -> tuple[Trajectory, str]:
    engine = ScriptedEngine(turns(ANSWER))
    job = dataclasses.replace(attempt(mode, subtitles=wanted), subtitles=read)
    trajectory = asyncio.run(run_episode(job, engine, FakeFootage().open))
    text = user_parts(engine)[-1]
    assert isinstance(text, TextPart)
    return trajectory, text.text


def test_subtitles_on_screen_in_the_frames_shown_stand_before_the_question() -> None:
    trajectory, text = play_with_subtitles(lambda: LINES)
    assert "[1.0 to 2.5] it begins\n[19.4 to 25.0] it ends\n" in text
    assert "between two frames" not in text
    assert "after the video" not in text
    assert text.index("it ends") < text.index("a red circle")
    assert trajectory.turns[0].anomalies == ()
    # What follows the subtitles is the prompt of a run without.
    _, plain = play_with_subtitles(lambda: LINES, wanted=False)
    assert text.endswith(plain)
    assert "subtitle" not in plain.lower()


def test_no_subtitle_on_screen_means_no_word_of_subtitles() -> None:
    trajectory, text = play_with_subtitles(lambda: LINES[:1])
    assert "subtitle" not in text.lower()
    assert trajectory.turns[0].anomalies == ()


@pytest.mark.parametrize("code", ["subtitles-missing", "subtitles-unreadable"])
def test_unusable_subtitles_are_counted_and_the_question_is_asked(code: str) -> None:
    def fail() -> tuple[SubtitleLine, ...]:
        raise SubtitleError(code)

    trajectory, text = play_with_subtitles(fail)
    assert trajectory.stop is StopReason.ANSWERED
    assert trajectory.turns[0].anomalies == (code,)
    assert "subtitle" not in text.lower()
    assert play_with_subtitles(None)[0].turns[0].anomalies == ("subtitles-missing",)


def test_too_many_subtitles_are_cut_and_counted() -> None:
    flood = tuple(SubtitleLine(0.0, 20.0, f"{index} " + "x" * 400) for index in range(1_000))
    trajectory, text = play_with_subtitles(lambda: flood)
    assert trajectory.turns[0].anomalies == ("subtitles-cut",)
    assert len(text) < 102_000
