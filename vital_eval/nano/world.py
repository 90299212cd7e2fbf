"""What happens in a nano video.

A video is a plain scene in which coloured shapes appear one after another; each colour appears once (VUE-TR videos
repeat one). Lengths scale with the video, so that a view of 24 frames sees every event but only roughly when, and can
miss a flash altogether. Everything follows from a seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from vital_eval.span import Window

#: Colour names and their RGB values.
COLOURS = {
    "red": (225, 35, 35),
    "green": (30, 170, 40),
    "blue": (45, 70, 235),
    "yellow": (240, 225, 40),
    "purple": (160, 40, 190),
    "cyan": (50, 215, 225),
    "white": (245, 245, 245),
    "orange": (250, 140, 20),
}
SHAPES = ("circle", "square", "triangle", "cross", "bar")
#: Sizes in percent of the frame's height; the number is what size questions ask for.
SIZES = (40, 60, 80)
SIDES = ("left", "right")
#: Grey levels of the plain scenes.
SCENES = (16, 60, 104)
#: Frames per second of nano videos; every event starts and ends on a frame.
FPS = 4


class World(StrEnum):
    """Train and test worlds draw from different seeds, always."""

    TRAIN = "train"
    TEST = "test"


@dataclass(frozen=True, slots=True, order=True)
class Event:
    """A shape that is visible from ``start`` (inclusive) to ``end`` (exclusive), in seconds."""

    start: float
    end: float
    colour: str
    shape: str
    size: int
    side: str

    @property
    def window(self) -> Window:
        """Start and end in seconds."""
        return (self.start, self.end)

    @property
    def name(self) -> str:
        """How questions call it."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class NanoVideo:
    """One synthetic video.

    Attributes:
        duration: seconds, a multiple of 1 / FPS.
        scene: index into :data:`SCENES`.
        events: in order of time, never overlapping.
    """

    duration: float
    scene: int
    events: tuple[Event, ...]

    @property
    def frame_times(self) -> tuple[float, ...]:
        """Presentation time of every frame in seconds."""
        return tuple(index / FPS for index in range(round(self.duration * FPS)))

    def event_at(self, time: float) -> Event | None:
        """Return what is visible at ``time`` seconds."""
        return next((event for event in self.events if event.start <= time < event.end), None)

    def windows_of(self, colour: str) -> tuple[Window, ...]:
        """Return every span in which ``colour`` is visible."""
        return tuple(event.window for event in self.events if event.colour == colour)


@dataclass(frozen=True, slots=True)
class VideoPlan:
    """What kind of video to make.

    Attributes:
        shortest: least duration in seconds.
        longest: greatest duration in seconds.
        tiled: events follow each other without gaps (chapters).
        repeated: one colour appears twice (several spans fit one query).
        flash: one event is so short that a sparse view can miss it.
        ends_visible: an event lasts to the end (the last frame shows it).
    """

    shortest: float
    longest: float
    tiled: bool = False
    repeated: bool = False
    flash: bool = False
    ends_visible: bool = False


def generator(world: World, seed: int, *key: int) -> np.random.Generator:
    """Return a random generator for one thing of one world; the worlds' streams never meet."""
    return np.random.default_rng([0 if world is World.TRAIN else 1, seed, *key])


def make_video(plan: VideoPlan, rng: np.random.Generator) -> NanoVideo:
    """Draw a video."""
    duration = _on_frame(rng.uniform(plan.shortest, plan.longest))
    count = int(rng.integers(3, 6))
    lengths = rng.uniform(0.06, 0.16, size=count) * duration
    flash = int(rng.integers(count)) if plan.flash else -1
    if plan.flash:
        lengths[flash] = max(1.0, rng.uniform(0.02, 0.05) * duration)
    gaps = rng.uniform(0.3, 1.0, size=count + 1)
    if plan.tiled:
        gaps[:] = 0
        lengths *= duration / lengths.sum()
    else:
        if plan.ends_visible:
            gaps[-1] = 0
        # Gaps share what the events leave, at least a fifth of the video.
        gaps *= (duration - lengths.sum()) / gaps.sum()
    colours = [str(name) for name in rng.permutation(list(COLOURS))[:count]]
    if plan.repeated:
        first, second = sorted(rng.choice(count, size=2, replace=False))
        colours[second] = colours[first]
    events: list[Event] = []
    time = 0.0
    for index in range(count):
        start = _on_frame(time + gaps[index])
        time = time + gaps[index] + lengths[index]
        end = duration if plan.tiled and index == count - 1 else _on_frame(time)
        twin = next((event for event in events if event.colour == colours[index]), None)
        events.append(
            Event(
                start,
                min(end, duration),
                colours[index],
                twin.shape if twin else str(rng.choice(SHAPES)),
                int(rng.choice(SIZES)),
                str(rng.choice(SIDES)),
            )
        )
    return NanoVideo(duration, int(rng.integers(len(SCENES))), tuple(events))


def _on_frame(seconds: float) -> float:
    return round(float(seconds) * FPS) / FPS
