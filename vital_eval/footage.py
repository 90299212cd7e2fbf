"""Opens the videos of a task for its episodes, and decodes what several episodes look at only once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from vital_eval.clip import Clip
from vital_eval.episode import Footage
from vital_eval.protocol import View
from vital_eval.span import Span
from vital_eval.video.worker import DecodeWorkers

#: Whole-video clips kept for the next protocol that looks at the same video.
CACHE_BYTES = 256 * 2**20


class Videos:
    """The videos below one folder, read through one decoder in worker processes, which start on first use.

    Args:
        folder: the task's ``videos/`` folder; nothing outside it is ever opened.
        decoder: registry name.
        workers: decoding processes.
        timeout_s: longest time one read may take.
        spatial_factor: what the engine asks of frame sizes.
        plugins: plugin files the decoder may come from.
    """

    def __init__(
        self,
        folder: Path,
        decoder: str,
        workers: int,
        timeout_s: float,
        spatial_factor: int,
        plugins: tuple[Path, ...] = (),
    ) -> None:
        self._workers = DecodeWorkers(folder, decoder, workers, timeout_s, plugins)
        self._spatial_factor = spatial_factor
        self._whole: OrderedDict[tuple[str, View], asyncio.Task[Clip]] = OrderedDict()

    async def open(self, video: str) -> Footage:
        """Probe a video.

        Raises:
            MediaError: if it is missing, refused or unreadable.
        """
        info = await self._workers.probe(video)
        return Footage(info.duration, info.frame_times[-1], partial(self._read, video))

    async def _read(self, video: str, span: Span | None, view: View) -> Clip:
        if span is not None:
            return await self._workers.read(video, span, view, self._spatial_factor)
        key = (video, view)
        task = self._whole.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.create_task(self._workers.read(video, None, view, self._spatial_factor))
            self._whole[key] = task
        self._whole.move_to_end(key)
        # Shielded: an episode that runs out of time must not take the clip from the others that wait for it.
        clip = await asyncio.shield(task)
        self._shrink()
        return clip

    def _shrink(self) -> None:
        finished = [
            (key, task.result().frames.nbytes)
            for key, task in self._whole.items()
            if task.done() and not task.cancelled() and task.exception() is None
        ]
        size = sum(nbytes for _, nbytes in finished)
        for key, nbytes in finished:
            if size <= CACHE_BYTES:
                break
            del self._whole[key]
            size -= nbytes

    async def close(self) -> None:
        """Stop the decoding processes and forget the clips. Closing twice is fine."""
        running = [task for task in self._whole.values() if not task.done()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._whole.clear()
        self._workers.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()
