"""Decoded frames of a stream, without any that may be wrong, and without work for frames nobody wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from typing import TYPE_CHECKING

import av

from vital_eval.video.disposable import disposable_test

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


class SoundFrames:
    """Frames from where the container stands, in presentation order, without any that may be wrong.

    Damaged frames are left out, and so is everything after them up to the next keyframe, which may build on them.

    Where only some frames are wanted, packets of others are left out if no frame builds on them, and decoding ends
    with the last one wanted instead of filling the decoder's queue with what follows. The frames wanted are the
    same, bit for bit; others may be missing.

    Args:
        container: where to read on.
        stream: the video.
        wanted: stamps of the frames wanted, if each packet bears the stamp of its frame; ``None`` decodes everything.
        is_start: tells the stamps of keyframes, for a container that was sought in. What comes before the next keyframe
            is left out, for not every decoder knows that it misses what a frame builds on; and if that one bears
            another stamp, FFmpeg guesses stamps, and nothing is given.

    Attributes:
        damage_seen: whether anything was left out because of damage so far.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        wanted: Set[int] | None = None,
        *,
        is_start: Callable[[int], bool] | None = None,
    ) -> None:
        self._container = container
        self._stream = stream
        self._wanted = wanted
        self._is_start = is_start
        self.damage_seen = False

    def __iter__(self) -> Iterator[VideoFrame]:
        """Decode on."""
        damaged = False
        # Decoders report a broken packet ahead of sound frames they still hold, a keyframe among them. It does not
        # mend what comes after the break: only a keyframe that was handed to the decoder since then does.
        mending: set[int | None] | None = None
        for packet in self._packets():
            if mending is not None and packet is not None and packet.is_keyframe and packet.pts is not None:
                mending.add(packet.pts)
            try:
                frames = self._stream.codec_context.decode(packet)
            except av.error.FFmpegError:
                damaged = self.damage_seen = True
                mending = set()
                continue
            for frame in frames:
                if frame.is_corrupt:
                    damaged = self.damage_seen = True
                elif frame.key_frame and (mending is None or frame.pts in mending):
                    damaged = False
                    mending = None
                if not damaged:
                    yield frame

    def _packets(self) -> Iterator[av.Packet | None]:
        """Give the packets to decode; ``None`` makes the decoder hand out what it still holds."""
        source = packets(self._container, self._stream)
        if self._is_start is not None:
            source = _from_keyframe(source, self._is_start)
        if self._wanted is None:
            yield from source
            return
        codec = self._stream.codec_context
        disposable = disposable_test(codec.name, codec.extradata)
        missing = set(self._wanted)
        for packet in source:
            if packet.pts in missing and not (packet.size and is_hidden(packet, self._stream)):
                missing.remove(packet.pts)
            elif packet.size and disposable(memoryview(packet)):
                continue
            yield packet
            if not missing:
                yield None
                return


def _from_keyframe(source: Iterator[av.Packet], is_start: Callable[[int], bool]) -> Iterator[av.Packet]:
    for packet in source:
        if packet.is_keyframe:
            if packet.pts is not None and is_start(packet.pts):
                yield packet
                yield from source
            return


def packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """Read packets up to the end of the file or the place where it is broken; the last one is empty."""
    demuxed = container.demux(stream)
    while True:
        try:
            packet = next(demuxed, None)
        except av.error.FFmpegError:
            return
        if packet is None:
            return
        yield packet


def is_hidden(packet: av.Packet, stream: VideoStream) -> bool:
    """Tell a VP8 packet that only prepares later frames: bit 4 of its first byte is show_frame (RFC 6386, 9.1)."""
    return stream.codec_context.name == "vp8" and not memoryview(packet)[0] & 0x10
