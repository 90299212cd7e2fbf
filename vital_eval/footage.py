"""Opens the videos of a task for its episodes, and decodes what several episodes look at only once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from vital_eval.clip import Clip
from vital_eval.episode import Footage
from vital_eval.errors import MediaError
from vital_eval.protocol import View
from vital_eval.span import Span
from vital_eval.video.clip_cache import ClipCache, ClipKey
from vital_eval.video.worker import ClipReader, DecodeWorkers, Ticket

if TYPE_CHECKING:
    from vital_eval.video.frame_store import StoreSettings
    from vital_eval.video.video_reader import Extent

#: Clips kept for the next episode that looks at the same video, where nobody says how many bytes of them.
CACHE_BYTES = 256 * 2**20


class Shelf:
    """The videos below one folder, read through one decoder. For one event loop.

    Args:
        reader: reads them; its processes are not ended here.
        cache: keeps their clips, perhaps beside those of other shelves.
        spatial_factor: what the engine asks of frame sizes.
    """

    def __init__(self, reader: ClipReader, cache: ClipCache, spatial_factor: int) -> None:
        self._reader = reader
        self._cache = cache
        self._spatial_factor = spatial_factor
        self._extents: dict[str, asyncio.Task[Extent]] = {}

    async def open(self, video: str) -> Footage:
        """Probe a video; a held one is probed once.

        Raises:
            MediaError: if it is missing, refused or unreadable.
        """
        extent = await self._extent(video)
        return Footage(extent.duration, extent.last_frame, partial(self.read, video))

    async def read(self, video: str, span: Span | None, view: View) -> Clip:
        """Read a clip, or share the one that others read. Its frames are read-only.

        Args:
            video: name below the folder.
            span: seconds of it; ``None`` is the whole video.
            view: how many frames, how large.

        Raises:
            MediaError: if the video is missing, refused or unreadable.
        """
        return await self._get(video, span, view, urgent=True)

    async def weigh(self, video: str, view: View) -> int:
        """Return the bytes of the whole-video clip under a view, from the index of the video; nothing is decoded.

        Raises:
            MediaError: if the video is missing, refused or unreadable.
        """
        return await self._reader.weigh(video, view, self._spatial_factor)

    async def prefetch(self, video: str, view: View) -> int:
        """Decode the whole video under a view while no episode waits for it; reads of episodes go first.

        The clip stays for certain only if the video is held.

        Returns:
            Its bytes; 0 if it cannot be read, which is for the episode that looks at it to find out.
        """
        try:
            return (await self._get(video, None, view, urgent=False)).frames.nbytes
        except MediaError:
            return 0

    def hold(self, video: str) -> None:
        """Say that episodes to come look at a video: all its clips, also those of tool calls, stay until it is dropped.

        Clips of tool calls may go earlier where the cache has no room for them.
        """
        self._cache.hold((self, video))

    def drop(self, video: str) -> None:
        """Take one :meth:`hold` back. With the last one the video's clips are forgotten at once.

        A clip that an episode still uses lives as long as that episode. Nothing happens if the video is not held.
        """
        self._cache.drop((self, video))
        if not self._cache.is_held((self, video)):
            self._extents.pop(video, None)

    async def _get(self, video: str, span: Span | None, view: View, *, urgent: bool) -> Clip:
        def decode(ticket: Ticket) -> Awaitable[Clip]:
            return self._reader.read(video, span, view, self._spatial_factor, ticket)

        return await self._cache.get(ClipKey((self, video), span, view), decode, urgent=urgent)

    async def _extent(self, video: str) -> Extent:
        task = self._extents.get(video)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.create_task(self._reader.extent(video))
            task.add_done_callback(_hear)
            if self._cache.is_held((self, video)):
                self._extents[video] = task
        return await asyncio.shield(task)


def _hear(task: asyncio.Task[Extent]) -> None:
    """Take note of an error: whoever waits is told, and if nobody waits any more (Ctrl-C) it is nobody's."""
    if not task.cancelled():
        task.exception()


class _Owner:
    """Has decoding processes and a cache of clips, and ends them; an async context manager."""

    _workers: DecodeWorkers
    _cache: ClipCache

    async def close(self) -> None:
        """Forget the clips and end the decoding processes. Closing twice is fine."""
        await self._cache.close()
        # In a thread: with a frame store, the processes first finish what they are writing.
        await asyncio.to_thread(self._workers.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()


class Library(_Owner):
    """The videos of a whole run: one set of decoding processes and one cache of clips.

    An async context manager, for one event loop.

    Args:
        workers: decoding processes; they are closed with the library.
        spatial_factor: what the engine asks of frame sizes.
        cache_bytes: clips that are kept, see :class:`~vital_eval.video.clip_cache.ClipCache`.
    """

    def __init__(self, workers: DecodeWorkers, spatial_factor: int, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._workers = workers
        self._cache = ClipCache(cache_bytes)
        self._spatial_factor = spatial_factor
        self._shelves: dict[tuple[Path, str], Shelf] = {}

    def shelf(self, folder: Path, decoder: str) -> Shelf:
        """Return the videos below a folder, read through a decoder; the same shelf for the same two.

        Args:
            folder: nothing outside it is ever opened; links are followed to see which folders are the same.
            decoder: registry name.

        Raises:
            UnknownNameError: if there is no such decoder.
        """
        key = (folder.resolve(), decoder)
        if key not in self._shelves:
            self._shelves[key] = Shelf(self._workers.reader(folder, decoder), self._cache, self._spatial_factor)
        return self._shelves[key]

    @property
    def live_bytes(self) -> int:
        """Bytes of the clips that are in memory, kept here or still used by an episode."""
        return self._cache.live_bytes


class Videos(Shelf, _Owner):
    """The videos below one folder with decoding processes and a cache of their own; an async context manager.

    Args:
        folder: the task's ``videos/`` folder; nothing outside it is ever opened.
        decoder: registry name.
        workers: decoding processes, which start on first use.
        timeout_s: longest time one read may take.
        spatial_factor: what the engine asks of frame sizes.
        plugins: plugin files the decoder may come from.
        cache_bytes: clips that are kept, see :class:`~vital_eval.video.clip_cache.ClipCache`.
        store: where decoded frames are kept on disk, ``None`` keeps none.
    """

    def __init__(
        self,
        folder: Path,
        decoder: str,
        workers: int,
        timeout_s: float,
        spatial_factor: int,
        plugins: tuple[Path, ...] = (),
        *,
        cache_bytes: int = CACHE_BYTES,
        store: StoreSettings | None = None,
    ) -> None:
        self._workers = DecodeWorkers(workers, timeout_s, plugins, store)
        super().__init__(self._workers.reader(folder, decoder), ClipCache(cache_bytes), spatial_factor)
