"""Painting decoded frames in threads of their own, while decoding goes on."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore
from types import TracebackType
from typing import TYPE_CHECKING, Self

import av

from vital_eval.errors import MediaError
from vital_eval.video.picture import Painter

if TYPE_CHECKING:
    import numpy as np
    from av.video.frame import VideoFrame
    from numpy.typing import NDArray

    from vital_eval.video.decoder import VideoInfo

#: Decoded frames for each thread that may wait for it.
_WAITING = 4


class Painters:
    """Writes frames into their places of one array. FFmpeg and Pillow let other threads run while they work.

    After the block everything is painted. No more than a few frames of full size are held at any time.

    Args:
        path: file the frames are of, for error messages.
        info: of that file.
        out: uint8, shape (n, height, width, 3) of the size wanted; overwritten.
        threads: painting at once; 1 paints in the thread that calls.

    Raises:
        MediaError: ``unreadable`` if FFmpeg cannot convert a frame; from the call or at the end of the block.
    """

    def __init__(self, path: Path, info: VideoInfo, out: NDArray[np.uint8], threads: int) -> None:
        self._path, self._info, self._out = path, info, out
        self._idle: deque[Painter] = deque()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="painter") if threads > 1 else None
        self._room = Semaphore(_WAITING * threads)
        self._painted: list[Future[None]] = []

    def paint(self, place: int, frame: VideoFrame) -> None:
        """Have a frame painted; waits while too many are waiting. Safe to call from several threads."""
        if self._pool is None:
            self._paint(place, frame)
            return
        self._room.acquire()
        self._painted.append(self._pool.submit(self._paint_and_make_room, place, frame))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for all frames."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=error is not None)
            if error is None:
                for each in self._painted:
                    each.result()

    def _paint_and_make_room(self, place: int, frame: VideoFrame) -> None:
        try:
            self._paint(place, frame)
        finally:
            self._room.release()

    def _paint(self, place: int, frame: VideoFrame) -> None:
        try:
            painter = self._idle.pop()
        except IndexError:
            painter = Painter(self._info.height, self._info.width, (self._out.shape[1], self._out.shape[2]))
        try:
            painter.paint(frame, self._out[place])
        except av.error.FFmpegError as error:
            raise MediaError("unreadable", f"{self._path.name}: a frame cannot be converted: {error}") from error
        finally:
            self._idle.append(painter)
