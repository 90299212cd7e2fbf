"""Dialogues that teach vital-nano: what can be seen in the view, said in the words of the protocol.

Every time in a thought can be copied from a time the model is shown. A moment is thought as the bracket that the view
proves: the time of the last frame pair before it and of the first one after it. In a sparse view that bracket is wide,
in a tool's clip it is tight, and it is the right span to look at again. What is answered is the truth in whole seconds,
as annotators give it, somewhere within that bracket; or, in the share of hasty answers, the first bracket that was
thought, as if nothing had been looked at since.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vital_eval.clip import Clip
from vital_eval.conversation import AssistantTurn, Conversation, Message, TextPart, VideoPart
from vital_eval.engines.pixels import patch_times
from vital_eval.generation import FinishReason, Generation
from vital_eval.nano.questions import Ask, NanoQuestion
from vital_eval.nano.render import draw
from vital_eval.nano.world import COLOURS, SHAPES, SIDES, Event, NanoVideo
from vital_eval.prompts import render_system, render_tool_result, render_user
from vital_eval.protocol import Mode, Protocol, View
from vital_eval.sample import Sample, Target, option_letter
from vital_eval.span import Span, Window
from vital_eval.task import AnswerKind
from vital_eval.toolbox import GetVideoClipFrame
from vital_eval.video.resize import resize_frames
from vital_eval.video.sampling import choose_frames

#: Says text as the model: tokenises it and ends the turn.
Speaker = Callable[[str], tuple[int, ...]]


class NotVisibleError(Exception):
    """The view does not show what the question is about; draw another question."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """An event as a view shows it.

    Attributes:
        event: what is visible.
        start: label of the last frame pair before it, whole seconds.
        end: label of the first frame pair after it.
    """

    event: Event
    start: int
    end: int

    @property
    def span(self) -> str:
        """The bracket as answers state it."""
        return f"{self.start} to {self.end}"


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A video as shown through one view.

    Attributes:
        clip: the frames.
        labels: whole seconds of each frame pair's time as the prompt prints it.
        shown: events visible in each frame pair.
    """

    clip: Clip
    labels: tuple[int, ...]
    shown: tuple[frozenset[Event], ...]

    def timeline(self) -> tuple[Sighting, ...]:
        """Return every visible event, in order of time, with the labels just outside the pairs that show it.

        Raises:
            NotVisibleError: if two labels fall on the same second.
        """
        found = []
        for event in sorted({event for events in self.shown for event in events}):
            pairs = [index for index, events in enumerate(self.shown) if event in events]
            start = self.labels[max(pairs[0] - 1, 0)]
            end = self.labels[min(pairs[-1] + 1, len(self.labels) - 1)]
            if start >= end:
                raise NotVisibleError
            found.append(Sighting(event, start, end))
        return tuple(found)

    def sightings(self, colour: str) -> tuple[Sighting, ...]:
        """Return the visible events of one colour.

        Raises:
            NotVisibleError: if there are none.
        """
        found = tuple(sighting for sighting in self.timeline() if sighting.event.colour == colour)
        if not found:
            raise NotVisibleError
        return found


def look(video: NanoVideo, span: Span | None, view: View, noise: np.random.Generator | None) -> Scene:
    """Show a video through a view, as the decoder would from its mp4 file.

    Args:
        video: what happens.
        span: seconds to show; ``None`` is the whole video.
        view: sampling and size.
        noise: adds what compression does to pixels; ``None`` leaves them clean.
    """
    side = round(view.max_pixels**0.5)
    times = video.frame_times
    chosen = [times[index] for index in choose_frames(times, span, view)]
    frames = np.stack([_frame(video.scene, video.event_at(time), time, side) for time in chosen])
    if noise is not None:
        shift = noise.normal(0, 3, size=(len(frames), 1, 1, 3)) + noise.normal(0, 3, size=frames.shape)
        frames = np.clip(frames + shift, 0, 255).astype(np.uint8)
    clip = Clip(frames, tuple(chosen), span or Span(0.0, video.duration))
    labels = tuple(int(f"{time:.1f}".partition(".")[0]) for time in patch_times(clip, 2))
    events = [video.event_at(time) for time in chosen]
    shown = tuple(frozenset(event for event in events[i : i + 2] if event) for i in range(0, len(events), 2))
    return Scene(clip, labels, shown)


def _frame(scene: int, event: Event | None, time: float, side: int) -> NDArray[np.uint8]:
    return _small(draw(scene, event, time).tobytes(), side)


@lru_cache(maxsize=8192)
def _small(pixels: bytes, side: int) -> NDArray[np.uint8]:
    size = round((len(pixels) / 3) ** 0.5)
    frame = np.frombuffer(pixels, dtype=np.uint8).reshape(1, size, size, 3)
    small: NDArray[np.uint8] = resize_frames(frame, (side, side))[0]
    return small


_KINDS = {
    Ask.MOMENT: AnswerKind.SPAN,
    Ask.MOMENTS: AnswerKind.SPANS,
    Ask.SHAPE_AND_MOMENT: AnswerKind.OPTION_AND_SPAN,
    Ask.COUNT: AnswerKind.NUMBER,
    Ask.SIZE: AnswerKind.NUMBER,
}


@dataclass(frozen=True, slots=True)
class Teacher:
    """Writes dialogues under one protocol.

    Attributes:
        protocol: mode, texts and views; the same one that evaluation uses.
        speak: see :data:`Speaker`.
        hasty: share of answers that repeat the bracket of the first thought instead of stating the truth.
    """

    protocol: Protocol
    speak: Speaker
    hasty: float = 0.0

    def dialogue(self, video: NanoVideo, question: NanoQuestion, rng: np.random.Generator) -> Conversation:
        """Write the whole dialogue for one question.

        Raises:
            NotVisibleError: if the view does not show what would have to be said.
        """
        if self.protocol.mode is Mode.BLIND:
            return (*self._opening(video, question, None), self._turn(f"<answer>{_guess(question)}</answer>"))
        wide = look(video, None, self.protocol.view, rng)
        opening = self._opening(video, question, wide)
        if self.protocol.mode is Mode.TOOL:
            return self._with_call(video, question, rng, opening, wide)
        thought, answer = _conclude(question, wide, hasty=bool(rng.random() < self.hasty))
        said = f"<answer>{answer}</answer>"
        if self.protocol.mode is not Mode.DIRECT:
            said = f"<think>{thought}</think>{said}"
        return (*opening, self._turn(said))

    def report(self, video: NanoVideo, question: NanoQuestion, rng: np.random.Generator) -> Conversation:
        """Say at length what the answer follows from, in no protocol's form.

        Raises:
            NotVisibleError: if the view does not show what would have to be said.
        """
        wide = look(video, None, self.protocol.view, rng)
        _, asked = self._opening(video, question, wide)
        return (
            Message("system", (TextPart("report"),)),
            asked,
            self._turn(". ".join(_conclude(question, wide, hasty=False))),
        )

    def caption(self, video: NanoVideo, rng: np.random.Generator, pairs: int) -> Conversation:
        """Say for each frame pair of a short view what is visible: time, then names."""
        view = View(fps=4.0, max_frames=2 * pairs, min_pixels=1, max_pixels=self.protocol.view.max_pixels, clock=False)
        start = float(rng.uniform(0, 0.5) * video.duration)
        span = Span(start, float(rng.uniform(start + 0.3 * video.duration, video.duration)))
        scene = look(video, span, view, rng)
        lines = []
        for label, events in zip(scene.labels, scene.shown, strict=True):
            names = " ".join(event.name for event in sorted(events))
            lines.append(f" {label} {names or 'nothing'}")
        return (*self._message(video, "Describe.", scene), self._turn(",".join(lines)))

    def timeline(self, video: NanoVideo, rng: np.random.Generator) -> Conversation:
        """List every visible event with its bracket, of the whole video or of a clip around an event."""
        span = None
        if rng.random() < 0.4:
            event = video.events[int(rng.integers(len(video.events)))]
            margin = rng.uniform(0.03, 0.2, size=2) * video.duration
            span = Span(max(0.0, event.start - margin[0]), min(video.duration, event.end + margin[1]))
        scene = look(video, span, self.protocol.view, rng)
        return (*self._message(video, "List.", scene), self._turn(_list(scene, Ask.MOMENT)))

    def choice(self, rng: np.random.Generator) -> Conversation:
        """Weigh options without a video: the message itself names what was seen."""
        pool = (tuple(COLOURS), SHAPES, SIDES)[int(rng.choice(3, p=[0.5, 0.4, 0.1]))]
        words = tuple(str(word) for word in rng.permutation(pool)[: int(rng.integers(2, 9))])
        place = int(rng.integers(len(words)))
        lines = "".join(f"\n{option_letter(index)}. {word}" for index, word in enumerate(words))
        text = TextPart(f"Choose: {words[place]}{lines}")
        opening = (Message("system", (TextPart("answer"),)), Message("user", (text,)))
        return (*opening, self._turn(weigh(words, place)))

    def find(self, video: NanoVideo, rng: np.random.Generator) -> Conversation:
        """Find an event in a written timeline: nothing is shown."""
        event = video.events[int(rng.integers(len(video.events)))]
        lines = ",".join(f" {event.name} {whole_seconds([event.window])}" for event in video.events)
        opening = (
            Message("system", (TextPart("answer"),)),
            Message("user", (TextPart(f"Find: {event.name}\n{lines}"),)),
        )
        return (*opening, self._turn(f" {event.name} {whole_seconds([event.window])}"))

    def _message(self, video: NanoVideo, text: str, scene: Scene) -> tuple[Message, ...]:
        parts = (VideoPart(scene.clip), TextPart(f"{video.duration:.2f} s. {text}"))
        return (Message("system", (TextPart("answer"),)), Message("user", parts))

    def _opening(self, video: NanoVideo, question: NanoQuestion, scene: Scene | None) -> tuple[Message, Message]:
        texts = self.protocol.prompt
        schemas = (json.dumps(GetVideoClipFrame().schema()),) if self.protocol.tools else ()
        sample = Sample("", "", "", video.duration, question.text, Target(), "", question.options)
        kind = _KINDS.get(question.ask, AnswerKind.OPTION if question.options else AnswerKind.OPEN)
        text = render_user(texts, sample, kind, video.duration, self.protocol.max_tool_calls)
        return (
            Message("system", (TextPart(render_system(texts, schemas)),)),
            Message("user", (*((VideoPart(scene.clip),) if scene else ()), TextPart(text))),
        )

    def _with_call(
        self,
        video: NanoVideo,
        question: NanoQuestion,
        rng: np.random.Generator,
        opening: tuple[Message, ...],
        wide: Scene,
    ) -> Conversation:
        thought, window = _where_to_look(question, wide)
        arguments = {"start_time": window[0], "end_time": window[1]}
        call = json.dumps({"name": GetVideoClipFrame.name, "arguments": arguments})
        span = Span(float(window[0]), min(float(window[1]), video.duration))
        close = look(video, span, self.protocol.clip_view, rng)
        result = render_tool_result(self.protocol.prompt, span.start, span.end, "")
        closer, answer = _conclude(question, close, hasty=False)
        if rng.random() < self.hasty and wide.sightings(question.event.colour):
            _, answer = _conclude(question, wide, hasty=True)
        return (
            *opening,
            self._turn(f"<think>{thought}</think><tool_call>{call}</tool_call>"),
            Message("tool", (VideoPart(close.clip), TextPart(result))),
            self._turn(f"<think>{closer}</think><answer>{answer}</answer>"),
        )

    def _turn(self, text: str) -> AssistantTurn:
        ids = self.speak(text)
        return AssistantTurn(Generation(ids, text, FinishReason.END_OF_TURN, prompt_tokens=0))


def _where_to_look(question: NanoQuestion, wide: Scene) -> tuple[str, tuple[int, int]]:
    """Return the first thought and the window to look at closely.

    Raises:
        NotVisibleError: if the wide view does not show where to look.
    """
    if question.window is not None:
        start, end = int(question.window[0]), int(question.window[1])
        return f" {start} to {end}", (start, end)
    listed = _list(wide, question.ask)
    if question.ask is Ask.COUNT:
        end = math.floor(wide.clip.span.end)
        return f"{listed}. 0 to {end}", (0, end)
    found = wide.sightings(question.event.colour)
    start, end = found[0].start, found[-1].end
    return f"{listed}. {_name(found[0].event, question.ask)} {start} to {end}", (start, end)


def _conclude(question: NanoQuestion, scene: Scene, *, hasty: bool) -> tuple[str, str]:
    """Return the last thought that ``scene`` supports, and the answer; a hasty one repeats the thought's spans."""
    event, ask = question.event, question.ask
    choice = question.letter or str(question.word)
    weighed = ""
    if question.letter is not None:
        weighed = "." + weigh(question.options, question.options.index(str(question.word)))
    listed = _list(scene, ask)
    if ask in {Ask.MOMENT, Ask.MOMENTS, Ask.SHAPE_AND_MOMENT}:
        found = scene.sightings(event.colour)
        seen_spans = ", ".join(sighting.span for sighting in found)
        thought = f"{listed}. {_name(event, ask)} {seen_spans}{weighed}"
        spans = seen_spans if hasty else whole_seconds(sighting.event.window for sighting in found)
        return thought, f"{choice}, {spans}" if ask is Ask.SHAPE_AND_MOMENT else spans
    seen = [sighting.event for sighting in scene.timeline()]
    if ask is Ask.COLOUR_BETWEEN:
        return f"{listed}. {event.colour}{weighed}" if event in seen else f"{listed}. nothing", choice
    if event not in seen or (ask is Ask.COUNT and len(seen) != question.number):
        raise NotVisibleError
    if ask is Ask.COUNT or ask is Ask.SIZE:
        return f"{listed}. {'count' if ask is Ask.COUNT else _name(event, ask)} {question.number}", str(question.number)
    return f"{listed}. {_name(event, ask)}{weighed}", choice


def _guess(question: NanoQuestion) -> str:
    """Return the answer of one who has seen nothing: the truth, from which only what is usual can be learned."""
    choice = question.letter or question.word or ("" if question.number is None else str(question.number))
    return ", ".join(part for part in (choice, whole_seconds(question.windows)) if part)


def whole_seconds(windows: Iterable[Window]) -> str:
    """Write true spans as answers state them, to the nearest second.

    A view bounds the truth and no more. A model that imitates these answers is left with a spread over what the view
    leaves open; to say the best of it is what reinforcement can teach.
    """
    return ", ".join(f"{math.floor(start + 0.5)} to {math.floor(end + 0.5)}" for start, end in windows)


def weigh(options: Sequence[str], right: int) -> str:
    """Write how options are gone through, up to the right one.

    Each option is put beside the word that was seen. A tiny model cannot find the letter that stands before a word in
    one look, but it can copy the list, tell two neighbouring words apart, and repeat the letter it has just said.
    """
    entries = [
        f" {option_letter(place)} {option} {options[right]} {'yes' if place == right else 'no'}"
        for place, option in enumerate(options[: right + 1])
    ]
    return ",".join(entries)


def _list(scene: Scene, ask: Ask) -> str:
    """Write the timeline that a view shows."""
    entries = [f" {_name(sighting.event, ask)} {sighting.span}" for sighting in scene.timeline()]
    return ",".join(entries) or " nothing"


def _name(event: Event, ask: Ask) -> str:
    """Name an event by its colour and by what the question is about."""
    return f"{event.colour} {event.side if ask is Ask.SIDE else event.size if ask is Ask.SIZE else event.shape}"
