"""Draw nano videos and write them as H.264 mp4 files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from vital_eval.nano.world import COLOURS, FPS, SCENES, Event, NanoVideo

#: Height and width of nano videos in pixels.
FRAME_SIDE = 64
#: Steps of the up-and-down movement that every shape makes.
PHASES = 8


def draw(scene: int, event: Event | None, time: float) -> NDArray[np.uint8]:
    """Draw one frame.

    Args:
        scene: index of the plain scene.
        event: what is visible, if anything.
        time: seconds; shapes bob up and down with it.

    Returns:
        uint8, shape (FRAME_SIDE, FRAME_SIDE, 3), RGB.
    """
    if event is None:
        return np.full((FRAME_SIDE, FRAME_SIDE, 3), SCENES[scene], dtype=np.uint8)
    phase = round(time * FPS) % PHASES
    return _draw_shape(scene, event.colour, event.shape, event.size, event.side, phase)


@lru_cache(maxsize=8192)
def _draw_shape(scene: int, colour: str, shape: str, size: int, side: str, phase: int) -> NDArray[np.uint8]:
    half = size / 100 * FRAME_SIDE / 2
    centre_x = FRAME_SIDE * (0.42 if side == "left" else 0.58)
    centre_y = FRAME_SIDE * (0.5 + 0.06 * np.sin(2 * np.pi * phase / PHASES))
    y, x = np.mgrid[0:FRAME_SIDE, 0:FRAME_SIDE] + 0.5
    dx, dy = (x - centre_x) / half, (y - centre_y) / half
    inside = {
        "circle": dx**2 + dy**2 <= 1,
        "square": (abs(dx) <= 0.9) & (abs(dy) <= 0.9),
        "triangle": (dy <= 0.9) & (dy >= -0.9) & (abs(dx) <= (dy + 0.9) / 1.8),
        "cross": ((abs(dx) <= 0.3) & (abs(dy) <= 1)) | ((abs(dy) <= 0.3) & (abs(dx) <= 1)),
        "bar": (abs(dx) <= 1) & (abs(dy) <= 0.35),
    }[shape]
    frame = np.full((FRAME_SIDE, FRAME_SIDE, 3), SCENES[scene], dtype=np.uint8)
    frame[inside] = COLOURS[colour]
    frame.setflags(write=False)
    return frame


def write_mp4(video: NanoVideo, path: Path) -> None:
    """Encode a video; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.mp4")
    with av.open(str(part), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "16"})
        stream.width = stream.height = FRAME_SIDE
        stream.pix_fmt = "yuv420p"
        for time in video.frame_times:
            frame = av.VideoFrame.from_ndarray(draw(video.scene, video.event_at(time), time), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    part.replace(path)
