"""Which packets may be left out without any other frame changing, told from their first bytes.

FFmpeg's ``skip_frame`` does this inside its decoders, but not for AV1 packet by packet, and with threads every
packet skipped still takes a thread's turn. The rules here are stricter: in doubt a packet is decoded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from vital_eval.video.av1_headers import read_sequence, refreshes_nothing

#: H.264, table 7-1: a slice, supplemental information, a delimiter, filler. Nothing later depends on the last three.
_H264_SLICE, _H264_HARMLESS = 1, frozenset({6, 9, 12})
#: H.265, table 7-1: slices of pictures that their own sub-layer does not refer to; delimiter, filler, information.
_HEVC_UNREFERRED, _HEVC_HARMLESS = frozenset({0, 2, 4, 6, 8}), frozenset({35, 38, 39, 40})
_AV1_DECODERS = frozenset({"av1", "libdav1d", "libaom-av1"})
_START_CODE = re.compile(b"\x00\x00\x01")

DisposableTest = Callable[[memoryview], bool]


def disposable_test(codec: str, extradata: bytes | None) -> DisposableTest:
    """Return a test of the packets of one stream: True if no other frame builds on this one.

    It knows H.264 (``nal_ref_idc`` is 0), H.265 (sub-layer non-reference pictures, in streams that declare a single
    temporal layer) and AV1 (no frame in the packet refreshes a reference). VP9 is left out: its frames pass on
    probabilities and motion vectors even where they refresh no reference.

    Args:
        codec: FFmpeg's name of the codec or decoder.
        extradata: the stream's global header.
    """
    header = extradata or b""
    if codec == "h264":
        if header[:1] == b"\x01" and len(header) > 4:
            size = (header[4] & 3) + 1
            return lambda packet: _unreferred(_sized_units(packet, size), _h264_unit)
        return lambda packet: _unreferred(_marked_units(packet), _h264_unit)
    if codec == "hevc" and header[:1] == b"\x01" and len(header) > 22 and header[21] >> 3 & 7 == 1:
        size = (header[21] & 3) + 1
        return lambda packet: _unreferred(_sized_units(packet, size), _hevc_unit)
    if codec in _AV1_DECODERS and (sequence := read_sequence(header)) is not None:
        return lambda packet: refreshes_nothing(packet, sequence)
    return lambda packet: False


def _unreferred(units: Iterator[tuple[int, int]], kind: Callable[[int, int], bool | None]) -> bool:
    """Tell whether all slices of a packet are of a picture nothing refers to.

    Args:
        units: the first two bytes of each unit; a pair (-1, -1) stands for bytes that make no sense.
        kind: True for a slice that may be left out, None for a unit that does not matter, False for any other.
    """
    slices = 0
    for first, second in units:
        found = kind(first, second)
        if found is False:
            return False
        slices += found is True
    return slices > 0


def _h264_unit(first: int, second: int) -> bool | None:
    del second
    if first & 0x1F in _H264_HARMLESS and first >= 0:
        return None
    return first >> 5 == 0 and first & 0x1F == _H264_SLICE


def _hevc_unit(first: int, second: int) -> bool | None:
    layer_and_time = (first & 1) << 8 | second
    if first < 0 or layer_and_time != 1:  # layer 0, temporal layer 0 (stored plus one)
        return False
    kind = first >> 1
    return None if kind in _HEVC_HARMLESS else kind in _HEVC_UNREFERRED


def _sized_units(packet: memoryview, size: int) -> Iterator[tuple[int, int]]:
    """Give the first two bytes of units that each come after their length."""
    at, end = 0, len(packet)
    while at < end:
        length = int.from_bytes(packet[at : at + size], "big")
        at += size
        if length < 2 or at + length > end:
            yield -1, -1
            return
        yield packet[at], packet[at + 1]
        at += length


def _marked_units(packet: memoryview) -> Iterator[tuple[int, int]]:
    """Give the first two bytes of units that each come after a start code."""
    for found in _START_CODE.finditer(packet):
        at = found.end()
        if at + 1 < len(packet):
            yield packet[at], packet[at + 1]
        else:
            yield -1, -1
