"""As much of AV1's headers as tells which frames are references (AV1 bitstream specification, 5.3 to 5.9)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_SEQUENCE, _FRAME_HEADER, _FRAME = 1, 3, 6
#: Delimiter, tiles, metadata, a repeated header, padding.
_HARMLESS = frozenset({2, 4, 5, 7, 15})
_KEY, _SWITCH = 0, 3
_CHOSEN_PER_FRAME = 2


@dataclass(frozen=True, slots=True)
class Sequence:
    """What frame headers are read by.

    Attributes:
        screen_content: 0, 1, or 2 where each frame says.
        integer_motion: 0, 1, or 2 where each frame says.
        order_bits: bits of a frame's place in the order.
    """

    screen_content: int
    integer_motion: int
    order_bits: int


class _Bits:
    """Reads bits from the highest one down; beyond the end they are an IndexError."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> int:
        value = 0
        for _ in range(count):
            value = value << 1 | self._data[self._at >> 3] >> (7 - (self._at & 7)) & 1
            self._at += 1
        return value


def read_sequence(extradata: bytes) -> Sequence | None:
    """Read the sequence header of a stream's global header (``av1C``).

    Returns:
        ``None`` if there is none, or if it announces what :func:`refreshes_nothing` does not read: layers, still
        pictures, a decoder model, frame numbers.
    """
    if len(extradata) < 4 or extradata[0] != 0x81:
        return None
    try:
        headers = [bytes(body) for kind, body in _units(memoryview(extradata)[4:]) if kind == _SEQUENCE]
        return _sequence(_Bits(headers[0])) if len(headers) == 1 else None
    except IndexError:
        return None


def refreshes_nothing(packet: memoryview, sequence: Sequence) -> bool:
    """Tell whether a packet holds frames that no other frame can refer to, and nothing else of consequence."""
    frames = 0
    try:
        for kind, body in _units(packet):
            if kind in _HARMLESS:
                continue
            if kind not in (_FRAME_HEADER, _FRAME) or not _is_no_reference(_Bits(bytes(body[:16])), sequence):
                return False
            frames += 1
    except IndexError:
        return False
    return frames > 0


def _units(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Give kind and content of each unit; one with a layer or without a size is an IndexError."""
    at = 0
    while at < len(data):
        header = data[at]
        if header & 0x86 != 0x02:
            raise IndexError
        at, size, shift = at + 1, 0, 0
        while True:
            byte = data[at]
            size |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if not byte & 0x80:
                break
        if at + size > len(data):
            raise IndexError
        yield header >> 3 & 15, data[at : at + size]
        at += size


def _sequence(bits: _Bits) -> Sequence | None:
    bits.take(3)  # profile
    if bits.take(1) or bits.take(1) or bits.take(1):  # still picture, reduced header, timing
        return None
    delays = bits.take(1)
    if bits.take(5) or bits.take(12):  # operating points, layers
        return None
    if bits.take(5) > 7:  # level
        bits.take(1)
    if delays and bits.take(1):
        bits.take(4)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    bits.take(width_bits + height_bits)
    if bits.take(1):  # frame numbers
        return None
    bits.take(3 + 4)  # block size and two intra tools; four inter tools
    ordered = bits.take(1)
    if ordered:
        bits.take(2)
    screen_content = _CHOSEN_PER_FRAME if bits.take(1) else bits.take(1)
    integer_motion = _CHOSEN_PER_FRAME
    if screen_content:
        integer_motion = _CHOSEN_PER_FRAME if bits.take(1) else bits.take(1)
    return Sequence(screen_content, integer_motion, bits.take(3) + 1 if ordered else 0)


def _is_no_reference(bits: _Bits, sequence: Sequence) -> bool:
    if bits.take(1):  # shows an earlier frame, which refreshes references if that is a keyframe
        return False
    kind, shown = bits.take(2), bits.take(1)
    if kind in (_KEY, _SWITCH):
        return False
    if not shown:
        bits.take(1)
    resilient = bits.take(1)
    bits.take(1)
    screen_content = bits.take(1) if sequence.screen_content == _CHOSEN_PER_FRAME else sequence.screen_content
    if screen_content and sequence.integer_motion == _CHOSEN_PER_FRAME:
        bits.take(1)
    bits.take(1 + sequence.order_bits)  # a size of its own; place in the order
    if not resilient and kind == 1:  # an inter frame names the frame whose probabilities it starts from
        bits.take(3)
    return bits.take(8) == 0
