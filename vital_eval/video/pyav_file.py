"""Opening a video file with FFmpeg's libraries, so that it can lead to no other file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av

from vital_eval.errors import MediaError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Only plain files in formats that cannot point at other files: FFmpeg also reads play lists (HLS, concat, DASH),
# and a "video" that is one could read any file of the machine or call the network.
_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif",
}


@contextmanager
def opened(path: Path, threads: int) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and its video stream.

    Args:
        path: the file.
        threads: decoding threads of FFmpeg.

    Yields:
        The container and its first stream of moving pictures.

    Raises:
        MediaError: ``missing``, ``no-video-stream``, or ``unreadable`` for whatever FFmpeg objects to, here or in
            the block.
    """
    if not path.is_file():
        kind = "unreadable" if path.exists() else "missing"
        raise MediaError(kind, f"{path} is not a file")
    try:
        with av.open(str(path), options=_OPTIONS, metadata_errors="replace") as container:
            stream = next((s for s in container.streams.video if not _is_cover(s)), None)
            if stream is None:
                raise MediaError("no-video-stream", f"{path.name} holds no video, only {_kinds(container)}")
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = threads
            yield container, stream
    except av.error.FFmpegError as error:
        raise MediaError("unreadable", f"{path.name}: {error}", "check that the file is a whole video") from error


def time_base(stream: VideoStream, path: Path) -> Fraction:
    """Return the stream's unit of time in seconds.

    Raises:
        MediaError: ``unreadable`` if it has none.
    """
    if not stream.time_base:
        raise MediaError("unreadable", f"{path.name}: its stream has no unit of time")
    return Fraction(stream.time_base)


def _is_cover(stream: VideoStream) -> bool:
    """Tell a still picture (album art) that is stored as if it were a video stream."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _kinds(container: InputContainer) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
