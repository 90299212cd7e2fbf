"""Videos are decoded once for everyone who looks at them, and an episode in trouble disturbs no other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.toy_world import SECONDS, TASK, write_data_root
from vital_eval import footage
from vital_eval.clip import Clip
from vital_eval.errors import MediaError
from vital_eval.footage import Videos
from vital_eval.protocol import View
from vital_eval.span import Span

VIEW = View(fps=2.0, max_frames=8, min_pixels=784, max_pixels=4096, clock=False)


class FakeWorkers:
    """Stands in for the decoding processes; remembers what was decoded."""

    def __init__(self, *_: object) -> None:
        self.reads: list[tuple[str, Span | None]] = []
        self.fails = False
        self.closed = 0

    async def read(self, video: str, span: Span | None, view: View, factor: int) -> Clip:
        """Take a moment, then return one frame."""
        self.reads.append((video, span))
        await asyncio.sleep(0.02)
        if self.fails:
            raise MediaError("truncated", "ends early")
        return Clip(np.zeros((1, 32, 32, 3), np.uint8), (0.0,), span or Span(0, 1))

    def close(self) -> None:
        """Count."""
        self.closed += 1


def play(
    body: Callable[[Videos, FakeWorkers], Awaitable[None]], monkeypatch: pytest.MonkeyPatch, cache: int = 2**20
) -> FakeWorkers:
    workers = FakeWorkers()
    monkeypatch.setattr(footage, "DecodeWorkers", lambda *_: workers)
    monkeypatch.setattr(footage, "CACHE_BYTES", cache)

    async def go() -> None:
        async with Videos(Path(), "pyav", 1, 1.0, 32) as videos:
            await body(videos, workers)

    asyncio.run(go())
    assert workers.closed == 1
    return workers


def test_a_whole_video_is_decoded_once_for_three_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(videos: Videos, workers: FakeWorkers) -> None:
        first, second = await asyncio.gather(videos._read("v", None, VIEW), videos._read("v", None, VIEW))
        assert first is second is await videos._read("v", None, VIEW)

    assert play(body, monkeypatch).reads == [("v", None)]


def test_clips_of_calls_and_other_views_are_decoded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(videos: Videos, workers: FakeWorkers) -> None:
        await videos._read("v", Span(0, 1), VIEW)
        await videos._read("v", Span(0, 1), VIEW)
        await videos._read("v", None, VIEW)
        await videos._read("v", None, View(1.0, 8, 784, 4096, False))

    assert len(play(body, monkeypatch).reads) == 4


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(videos: Videos, workers: FakeWorkers) -> None:
        for name in ("a", "b", "c", "c", "a"):
            await videos._read(name, None, VIEW)

    workers = play(body, monkeypatch, cache=2 * 32 * 32 * 3)
    assert [video for video, _ in workers.reads] == ["a", "b", "c", "a"]


def test_a_failure_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(videos: Videos, workers: FakeWorkers) -> None:
        workers.fails = True
        results: Any = await asyncio.gather(
            videos._read("v", None, VIEW), videos._read("v", None, VIEW), return_exceptions=True
        )
        assert all(isinstance(result, MediaError) for result in results)
        workers.fails = False
        await videos._read("v", None, VIEW)

    assert len(play(body, monkeypatch).reads) == 2


def test_one_who_gives_up_does_not_take_the_clip_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(videos: Videos, workers: FakeWorkers) -> None:
        hasty = asyncio.create_task(videos._read("v", None, VIEW))
        patient = asyncio.create_task(videos._read("v", None, VIEW))
        await asyncio.sleep(0)
        hasty.cancel()
        clip = await patient
        assert clip.count == 1

    assert len(play(body, monkeypatch).reads) == 1


def test_a_real_video(tmp_path: Path) -> None:
    folder = write_data_root(tmp_path, videos=1) / TASK / "videos"

    async def go() -> None:
        async with Videos(folder, "pyav", 1, 30.0, 32) as videos:
            opened = await videos.open("V0.mp4")
            assert opened.duration == pytest.approx(SECONDS)
            clip = await opened.read(Span(1.0, 3.0), VIEW)
            assert clip.timestamps[0] == pytest.approx(1.0)
            assert (await opened.read(None, VIEW)).timestamps[-1] <= opened.last_frame
            with pytest.raises(MediaError, match="no video at"):
                await videos.open("none.mp4")

    asyncio.run(go())
