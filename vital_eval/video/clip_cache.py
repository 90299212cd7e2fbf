"""Clips that several episodes look at: decoded once, kept while they are wanted, never more bytes than allowed."""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vital_eval.clip import Clip
from vital_eval.protocol import View
from vital_eval.span import Span
from vital_eval.video.worker import Ticket

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ClipKey:
    """What a clip shows.

    Attributes:
        video: identifies the video and how it is read; what is held and dropped.
        span: seconds of it, ``None`` for the whole video.
        view: how many frames, how large.
    """

    video: Hashable
    span: Span | None
    view: View


class ClipCache:
    """Decodes each clip once for all who ask while it is there. For one event loop.

    The clips of a held video stay until it is dropped as often as it was held, and go at that moment. Where room is
    needed, clips of videos that nobody holds are forgotten, those asked for longest ago first, then clips of spans of
    held videos. Whole videos that are held are never forgotten: who holds them sees to it that they fit. A clip that
    is forgotten but still used by an episode is found again: no memory was won by forgetting it.

    Args:
        most_bytes: what may be kept, held whole videos apart.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._entries: dict[ClipKey, _Entry] = {}
        self._holds: Counter[Hashable] = Counter()
        self._clock = itertools.count()

    async def get(self, key: ClipKey, decode: Callable[[Ticket], Awaitable[Clip]], *, urgent: bool = True) -> Clip:
        """Return a clip, decoding it unless it is there or under way.

        Args:
            key: what it shows.
            decode: makes it; a failure is everyone's who waits, and the next one tries again.
            urgent: whether an episode waits; it hurries a decode that is under way, too.
        """
        entry = self._entries.get(key)
        if entry is not None:
            entry.used = next(self._clock)
            clip = entry.find()
            if clip is not None:
                self._keep(entry, clip)
                return clip
        if entry is None or entry.task is None:
            entry = self._entries[key] = _Entry(Ticket(urgent), next(self._clock))
            entry.task = asyncio.create_task(self._decode(key, entry, decode))
        entry.stays = True
        entry.ticket.urgent |= urgent
        # Shielded: an episode that gives up must not take the clip from the others that wait for it.
        return await asyncio.shield(entry.task)

    def hold(self, video: Hashable) -> None:
        """Keep the clips of a video, those that are there and those to come."""
        self._holds[video] += 1

    def drop(self, video: Hashable) -> None:
        """Undo one :meth:`hold`; the last one forgets the video's clips. Nothing happens if it is not held."""
        if not self.is_held(video):
            return
        self._holds[video] -= 1
        if self._holds[video]:
            return
        del self._holds[video]
        for key, entry in self._entries.items():
            if key.video == video:
                entry.kept, entry.stays = None, False
        self._leave_out_gone()

    def is_held(self, video: Hashable) -> bool:
        """Tell whether a video is held."""
        return self._holds[video] > 0

    @property
    def kept_bytes(self) -> int:
        """Bytes of the clips that are kept here."""
        return sum(entry.nbytes for entry in self._entries.values() if entry.kept is not None)

    @property
    def live_bytes(self) -> int:
        """Bytes of the clips that are in memory, kept here or still used by an episode."""
        return sum(entry.nbytes for entry in self._entries.values() if entry.find() is not None)

    async def close(self) -> None:
        """Cancel what is under way and forget everything."""
        running = [entry.task for entry in self._entries.values() if entry.task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._entries.clear()
        self._holds.clear()

    async def _decode(self, key: ClipKey, entry: _Entry, decode: Callable[[Ticket], Awaitable[Clip]]) -> Clip:
        try:
            clip = await decode(entry.ticket)
        except BaseException:
            if self._entries.get(key) is entry:
                del self._entries[key]
            raise
        entry.task = None
        entry.remember(clip)
        if entry.stays:
            self._keep(entry, clip)
        return clip

    def _keep(self, entry: _Entry, clip: Clip) -> None:
        if entry.kept is None:
            entry.kept = clip
            self._make_room()

    def _make_room(self) -> None:
        self._leave_out_gone()
        over = self.kept_bytes - self._most_bytes
        if over <= 0:
            return
        free = [
            (self.is_held(key.video), entry.used, entry)
            for key, entry in self._entries.items()
            if entry.kept is not None and (key.span is not None or not self.is_held(key.video))
        ]
        for _, _, entry in sorted(free, key=lambda each: each[:2]):
            if over <= 0:
                break
            entry.kept = None
            over -= entry.nbytes

    def _leave_out_gone(self) -> None:
        """Leave out the clips that are neither kept nor used any more."""
        gone = [key for key, entry in self._entries.items() if entry.task is None and entry.find() is None]
        for key in gone:
            del self._entries[key]


@dataclass(slots=True, eq=False)
class _Entry:
    """One clip: under way, kept, or only known of.

    Attributes:
        ticket: of the decode.
        used: when it was asked for last.
        task: the decode while it is under way.
        stays: whether it is to be kept when the decode ends.
        kept: the clip, unless it was forgotten.
        frames: leads to the frames for as long as anyone uses them.
    """

    ticket: Ticket
    used: int
    task: asyncio.Task[Clip] | None = None
    stays: bool = True
    kept: Clip | None = None
    frames: weakref.ref[NDArray[np.uint8]] | None = None
    timestamps: tuple[float, ...] = ()
    span: Span | None = None
    nbytes: int = 0

    def remember(self, clip: Clip) -> None:
        """Know of a clip without keeping it."""
        self.frames = weakref.ref(clip.frames)
        self.timestamps, self.span, self.nbytes = clip.timestamps, clip.span, clip.frames.nbytes

    def find(self) -> Clip | None:
        """Return the clip if it is still in memory."""
        if self.kept is not None:
            return self.kept
        frames = self.frames() if self.frames is not None else None
        return None if frames is None or self.span is None else Clip(frames, self.timestamps, self.span)
