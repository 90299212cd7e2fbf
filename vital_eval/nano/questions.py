"""What can be asked about a nano video, and the right answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from vital_eval.nano.world import COLOURS, SHAPES, SIDES, Event, NanoVideo
from vital_eval.sample import option_letter
from vital_eval.span import Window


class Ask(StrEnum):
    """Kinds of question."""

    MOMENT = "moment"
    MOMENTS = "moments"
    SHAPE_AND_MOMENT = "shape-and-moment"
    COLOUR_BETWEEN = "colour-between"
    COLOUR_FIRST = "colour-first"
    COLOUR_AT_END = "colour-at-end"
    SIDE = "side"
    COUNT = "count"
    SIZE = "size"


@dataclass(frozen=True, slots=True)
class NanoQuestion:
    """A question with its structured answer.

    Attributes:
        ask: its kind.
        text: the words of the question (for moments: the query).
        event: the event it is about.
        windows: right spans in seconds, where the question asks for any.
        options: option texts, where it has any.
        letter: letter of the right option.
        word: the right answer as a word.
        number: the right answer as a number.
        window: the stretch of video the question itself names, in whole seconds.
    """

    ask: Ask
    text: str
    event: Event
    windows: tuple[Window, ...] = ()
    options: tuple[str, ...] = ()
    letter: str | None = None
    word: str | None = None
    number: int | None = None
    window: Window | None = None


def ask_question(ask: Ask, video: NanoVideo, rng: np.random.Generator, options: int = 0) -> NanoQuestion:
    """Draw one question of a kind.

    Args:
        ask: its kind.
        video: what it is about.
        rng: source of all choices.
        options: how many options to offer; 0 leaves a word or number to be said.
    """
    event = video.events[int(rng.integers(len(video.events)))]
    if ask is Ask.MOMENT:
        return NanoQuestion(ask, event.name, event, windows=(event.window,))
    if ask is Ask.MOMENTS:
        return NanoQuestion(ask, event.name, event, windows=video.windows_of(event.colour))
    if ask is Ask.SHAPE_AND_MOMENT:
        return _with_options(
            NanoQuestion(ask, f"Which shape is {event.colour}?", event, (event.window,), word=event.shape),
            SHAPES,
            options,
            rng,
        )
    if ask is Ask.COLOUR_BETWEEN:
        shortest = min(video.events, key=lambda event: event.end - event.start)
        event = shortest if rng.random() < 0.5 else event
        window = _window_around(event, video, rng)
        text = f"Which colour is seen from {window[0]:.0f} to {window[1]:.0f}?"
        return _with_options(
            NanoQuestion(ask, text, event, word=event.colour, window=window), tuple(COLOURS), options, rng
        )
    if ask is Ask.COLOUR_FIRST:
        event = video.events[0]
        return _with_options(
            NanoQuestion(ask, "Which colour is seen first?", event, word=event.colour), tuple(COLOURS), options, rng
        )
    if ask is Ask.COLOUR_AT_END:
        event = video.events[-1]
        question = NanoQuestion(ask, "<image 1> Which colour is in the last frame?", event, word=event.colour)
        return _with_options(question, tuple(COLOURS), options, rng)
    if ask is Ask.SIDE:
        question = NanoQuestion(ask, f"On which side is {event.colour}?", event, word=event.side)
        return _with_options(question, SIDES, options, rng)
    if ask is Ask.COUNT:
        return NanoQuestion(ask, "How many shapes are seen?", event, number=len(video.events))
    return NanoQuestion(ask, f"How large is {event.colour}?", event, number=event.size)


def _window_around(event: Event, video: NanoVideo, rng: np.random.Generator) -> Window:
    # Whole seconds, wide enough to hold the event, never reaching into a neighbour: only one colour is right.
    before = max((other.end for other in video.events if other.end <= event.start), default=0.0)
    after = min((other.start for other in video.events if other.start >= event.end), default=video.duration)
    margin = 0.04 * video.duration
    start = max(np.ceil(before), np.floor(event.start - rng.uniform(0.2, 1.0) * margin))
    end = min(np.floor(after), np.ceil(event.end + rng.uniform(0.2, 1.0) * margin))
    return (float(min(start, np.floor(event.start))), float(max(end, np.ceil(event.end))))


def _with_options(question: NanoQuestion, pool: tuple[str, ...], count: int, rng: np.random.Generator) -> NanoQuestion:
    if count == 0:
        return question
    others = [word for word in pool if word != question.word]
    chosen = [str(word) for word in rng.permutation(others)[: count - 1]]
    place = int(rng.integers(len(chosen) + 1))
    words = (*chosen[:place], str(question.word), *chosen[place:])
    return NanoQuestion(
        question.ask,
        question.text,
        question.event,
        windows=question.windows,
        options=words,
        letter=option_letter(place),
        word=question.word,
        window=question.window,
    )
