"""Sizes against numbers worked out by hand, and the clock in its corner."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vital_eval.errors import MediaError
from vital_eval.protocol import View
from vital_eval.video.clock import draw_clock
from vital_eval.video.resize import resize_frames, target_size


def view(max_pixels: int, min_pixels: int = 3136) -> View:
    return View(fps=2.0, max_frames=8, min_pixels=min_pixels, max_pixels=max_pixels, clock=False)


@pytest.mark.parametrize(
    ("height", "width", "factor", "max_pixels", "expected"),
    [
        # beta = sqrt(720 * 1280 / 384^2) = 2.5: 288 and 512, down to multiples of 28.
        (720, 1280, 28, 384 * 384, (280, 504)),
        # beta = 4.2857: 168 and 298.7.
        (720, 1280, 28, 224 * 224, (168, 280)),
        (1280, 720, 28, 224 * 224, (280, 168)),
        (720, 1280, 32, 384 * 384, (288, 512)),
        # Within the bounds: the nearest multiples only.
        (240, 320, 28, 384 * 384, (252, 308)),
        # Too small: 20 * 30 = 600 < 3,136, enlarged by 2.286 to 45.7 and 68.6, up to multiples.
        (20, 30, 28, 384 * 384, (56, 84)),
        # Never below one token on a side.
        (10, 1000, 28, 384 * 384, (28, 1008)),
    ],
)
def test_sizes_worked_out_by_hand(
    height: int, width: int, factor: int, max_pixels: int, expected: tuple[int, int]
) -> None:
    assert target_size(height, width, view(max_pixels), factor) == expected


def test_a_strip_is_refused() -> None:
    assert target_size(10, 2000, view(10**6), 28)
    with pytest.raises(MediaError):
        target_size(10, 2001, view(10**6), 28)


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from([14, 28, 32]), st.integers(150, 1500))
def test_size_properties(height: int, width: int, factor: int, side: int) -> None:
    limit = view(side * side)
    if max(height, width) > 200 * min(height, width):
        return
    rows, columns = target_size(height, width, limit, factor)
    assert rows % factor == columns % factor == 0
    assert min(rows, columns) >= factor
    # Only a side that cannot shrink below one token may lead over a limit that is well above min_pixels.
    assert rows * columns <= limit.max_pixels or min(rows, columns) == factor


def test_resizing_averages_instead_of_skipping() -> None:
    stripes = np.zeros((2, 64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize_frames(stripes, (16, 8))
    assert small.shape == (2, 16, 8, 3)
    assert small.dtype == np.uint8
    assert np.abs(small[:, 2:-2].astype(int) - 127).max() < 12
    assert resize_frames(stripes, (64, 64)) is stripes


def test_the_clock_is_red_in_the_lower_right_corner() -> None:
    frames = np.zeros((2, 280, 504, 3), np.uint8)
    drawn = draw_clock(frames, (0.0, 123.456))
    assert not frames.any()
    for frame in drawn:
        rows, columns = np.nonzero(frame[..., 0] > 128)
        assert rows.max() < 270
        assert columns.max() < 494
        assert rows.max() > 255
        assert columns.max() > 480
        assert rows.min() > 220
        assert not frame[..., 1:].any()
    assert (drawn[1] > 0).sum() > 1.3 * (drawn[0] > 0).sum()  # "123.46s" is longer than "0.00s"


@pytest.mark.parametrize("size", [(28, 28), (16, 16), (1, 1)])
def test_a_clock_on_a_tiny_frame_does_not_fail(size: tuple[int, int]) -> None:
    assert draw_clock(np.zeros((1, *size, 3), np.uint8), (1.0,)).shape == (1, *size, 3)


def test_every_frame_has_its_own_time() -> None:
    with pytest.raises(ValueError, match="zip"):
        draw_clock(np.zeros((2, 56, 56, 3), np.uint8), (1.0,))
