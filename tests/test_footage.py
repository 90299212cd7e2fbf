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
from vital_eval.errors import MediaError, UnknownNameError
from vital_eval.footage import Library, Videos
from vital_eval.protocol import View
from vital_eval.span import Span
from vital_eval.video.video_reader import Extent
from vital_eval.video.worker import DecodeWorkers, Ticket

VIEW = View(fps=2.0, max_frames=8, min_pixels=784, max_pixels=4096, clock=False)
BYTES = 32 * 32 * 3


class FakeWorkers:
    """Stands in for the decoding processes and their readers; remembers what was decoded."""

    def __init__(self, *_: object) -> None:
        self.reads: list[tuple[str, Span | None]] = []
        self.probes: list[str] = []
        self.tickets: list[Ticket] = []
        self.fails = False
        self.closed = 0

    def reader(self, *_: object) -> FakeWorkers:
        """Read by itself."""
        return self

    async def extent(self, video: str) -> Extent:
        """Take a moment."""
        self.probes.append(video)
        await asyncio.sleep(0.02)
        if self.fails:
            raise MediaError("truncated", "ends early")
        return Extent(1.0, 0.9)

    async def read(self, video: str, span: Span | None, view: View, factor: int, ticket: Ticket) -> Clip:
        """Take a moment, then return one frame."""
        self.reads.append((video, span))
        self.tickets.append(ticket)
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

    async def go() -> None:
        async with Videos(Path(), "pyav", 1, 1.0, 32, cache_bytes=cache) as videos:
            await body(videos, workers)

    asyncio.run(go())
    assert workers.closed == 1
    return workers


def test_a_clip_is_decoded_once_for_all_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(videos: Videos, workers: FakeWorkers) -> None:
        for span in (None, Span(0, 1)):
            first, second = await asyncio.gather(videos.read("v", span, VIEW), videos.read("v", span, VIEW))
            assert first is second is await videos.read("v", span, VIEW)

    assert play(body, monkeypatch).reads == [("v", None), ("v", Span(0, 1))]


def test_other_spans_and_views_are_other_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(videos: Videos, workers: FakeWorkers) -> None:
        await videos.read("v", Span(0, 1), VIEW)
        await videos.read("v", Span(0, 2), VIEW)
        await videos.read("v", None, VIEW)
        await videos.read("v", None, View(1.0, 8, 784, 4096, False))
        await videos.read("w", None, VIEW)

    assert len(play(body, monkeypatch).reads) == 5


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(videos: Videos, workers: FakeWorkers) -> None:
        for name in ("a", "b", "c", "c", "a"):
            await videos.read(name, None, VIEW)

    workers = play(body, monkeypatch, cache=2 * BYTES)
    assert [video for video, _ in workers.reads] == ["a", "b", "c", "a"]


def test_what_is_held_stays_and_goes_when_it_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(videos: Videos, workers: FakeWorkers) -> None:
        videos.hold("a")
        videos.hold("a")
        assert await videos.prefetch("a", VIEW) == BYTES
        await videos.read("b", None, VIEW)
        await videos.read("a", None, VIEW)
        videos.drop("a")
        await videos.read("a", None, VIEW)
        assert videos._cache.kept_bytes == BYTES
        await asyncio.sleep(0)
        videos.drop("a")
        assert videos._cache.kept_bytes == videos._cache.live_bytes == 0
        videos.drop("a")  # nothing to drop
        await videos.read("a", None, VIEW)

    workers = play(body, monkeypatch, cache=1)
    assert [video for video, _ in workers.reads] == ["a", "b", "a"]


def test_clips_of_tool_calls_are_kept_while_the_video_is_held_and_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body(videos: Videos, workers: FakeWorkers) -> None:
        videos.hold("a")
        for span in (None, one, one, two, None, two, one):
            await videos.read("a", span, VIEW)
        assert videos._cache.kept_bytes == 2 * BYTES

    one, two = Span(0, 1), Span(0, 2)
    reads = play(body, monkeypatch, cache=2 * BYTES).reads
    assert [span for _, span in reads] == [None, one, two, one]


def test_a_clip_that_an_episode_still_uses_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(videos: Videos, workers: FakeWorkers) -> None:
        clip = await videos.read("a", None, VIEW)
        assert videos._cache.kept_bytes == 0
        assert videos._cache.live_bytes == BYTES
        again = await videos.read("a", None, VIEW)
        assert again.frames is clip.frames
        assert (again.timestamps, again.span) == (clip.timestamps, clip.span)
        del clip, again
        await asyncio.sleep(0)  # a task holds what it waited for until it waits again
        assert videos._cache.live_bytes == 0
        await videos.read("a", None, VIEW)

    assert len(play(body, monkeypatch, cache=1).reads) == 2


def test_a_clip_that_is_dropped_while_it_decodes_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(videos: Videos, workers: FakeWorkers) -> None:
        videos.hold("a")
        ahead = asyncio.create_task(videos.prefetch("a", VIEW))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        videos.drop("a")
        assert await ahead == BYTES
        assert videos._cache.kept_bytes == 0

    assert len(play(body, monkeypatch).reads) == 1


def test_an_episode_hurries_what_is_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(videos: Videos, workers: FakeWorkers) -> None:
        ahead = asyncio.create_task(videos.prefetch("a", VIEW))
        await asyncio.sleep(0.01)
        assert [ticket.urgent for ticket in workers.tickets] == [False]
        await videos.read("a", None, VIEW)
        assert [ticket.urgent for ticket in workers.tickets] == [True]
        await ahead

    play(body, monkeypatch)


def test_reading_ahead_leaves_the_failure_to_the_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(videos: Videos, workers: FakeWorkers) -> None:
        workers.fails = True
        assert await videos.prefetch("v", VIEW) == 0
        with pytest.raises(MediaError):
            await videos.read("v", None, VIEW)

    assert len(play(body, monkeypatch).reads) == 2


def test_a_held_video_is_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(videos: Videos, workers: FakeWorkers) -> None:
        videos.hold("v")
        await asyncio.gather(videos.open("v"), videos.open("v"))
        await videos.open("v")
        await videos.open("other")
        await videos.open("other")
        videos.drop("v")
        await videos.open("v")
        videos.hold("bad")
        for workers.fails in (True, False):
            await asyncio.gather(videos.open("bad"), return_exceptions=True)

    assert play(body, monkeypatch).probes == ["v", "other", "other", "v", "bad", "bad"]


def test_a_failure_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(videos: Videos, workers: FakeWorkers) -> None:
        workers.fails = True
        results: Any = await asyncio.gather(
            videos.read("v", None, VIEW), videos.read("v", None, VIEW), return_exceptions=True
        )
        assert all(isinstance(result, MediaError) for result in results)
        workers.fails = False
        await videos.read("v", None, VIEW)

    assert len(play(body, monkeypatch).reads) == 2


def test_one_who_gives_up_does_not_take_the_clip_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(videos: Videos, workers: FakeWorkers) -> None:
        hasty = asyncio.create_task(videos.read("v", None, VIEW))
        patient = asyncio.create_task(videos.read("v", None, VIEW))
        await asyncio.sleep(0)
        hasty.cancel()
        clip = await patient
        assert clip.count == 1

    assert len(play(body, monkeypatch).reads) == 1


def test_tasks_with_the_same_folder_share_clips_and_processes(tmp_path: Path) -> None:
    folder = write_data_root(tmp_path, videos=1) / TASK / "videos"
    link = tmp_path / "link"
    link.symlink_to(folder)

    async def go() -> None:
        async with Library(DecodeWorkers(1, 60.0), 32) as library:
            shelf = library.shelf(folder, "pyav")
            assert library.shelf(link, "pyav") is shelf
            clip = await shelf.read("V0.mp4", None, VIEW)
            assert library.live_bytes == clip.frames.nbytes == await shelf.weigh("V0.mp4", VIEW)
            with pytest.raises(UnknownNameError):
                library.shelf(folder, "none")

    asyncio.run(go())


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
