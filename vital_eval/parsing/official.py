"""Answers as VSI-Bench's official script reads them, for figures that compare with published ones.

The script takes what stands before the first blank and compares that alone, so "(B)", "**B**" and "The answer is B"
are wrong there. The house parsers read those; which of the two a figure comes from must be said beside it.

Source:
    ``fuzzy_matching``, ``exact_match`` and ``to_float`` in ``vsibench/utils.py`` of vision-x-nyu/thinking-in-space.
"""

from __future__ import annotations

import math


def first_word(text: str) -> str:
    r"""Return what stands before the first blank, without dots at its end and without outer white space.

    A blank is a space and nothing else: "B\n\nBecause it fell" gives "B\n\nBecause". A text that begins with a
    space gives "".
    """
    return text.split(" ", 1)[0].rstrip(".").strip()


def official_letter(text: str, right: str) -> bool:
    """Tell whether the first word is the right letter, upper and lower case alike; an empty one never is."""
    word = first_word(text)
    return word != "" and word.lower() == right.lower()


def official_number(text: str) -> float | None:
    """Return the first word as a number, ``None`` if it is none.

    What Python reads as a number counts ("1e3", "-5", "1_000"), "1,200" and "4m" do not. NaN and infinity are no
    numbers here: the script would score them 0, as it does ``None``.
    """
    try:
        value = float(first_word(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
