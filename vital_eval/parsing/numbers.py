"""Read one number from an answer field.

Digits go before number words ("the one on the left: 4"). Where several numbers are stated, those that follow
"answer is" or "answer:" count alone; of what remains the last is taken, and the answer is noted ``several-numbers``
if they differ.
"""

from __future__ import annotations

import math
import re

from vital_eval.task import Answer, Unparsed

_NUMBER = re.compile(
    r"(?:(?<![\w)\]])[-+\u2212])?(?<![\w.])"
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,300})(?:\.[0-9]{1,300})?|\.[0-9]{1,300})"
    r"(?:[eE][-+]?[0-9]{1,3})?(?![0-9]|(?:st|nd|rd|th)\b)"
)
_SMALL = tuple(
    word
    for row in (
        "zero one two three four five six seven eight nine ten",
        "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty",
    )
    for word in row.split()
)
_TENS = {
    word: 10.0 * (index + 2)
    for index, word in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"])
}
_UNITS = {word: float(index) for index, word in enumerate(_SMALL)}
_WORD = re.compile(
    rf"\b(?:(?P<sign>minus|negative)\s)?(?:(?P<tens>{'|'.join(_TENS)})(?:[\s-](?P<ones>{'|'.join(_SMALL[1:10])}))?"
    rf"|(?P<small>{'|'.join(reversed(_SMALL))}))\b",
    re.IGNORECASE,
)
_STATED = re.compile(
    r"\banswer\b(?:\s(?:is|would\sbe|should\sbe))?\s?[:=]?\s?(?:about|around|approximately|roughly)?\s?\Z", re.I
)


def parse_number(text: str) -> Answer | Unparsed:
    """Read the number that an answer states: sign, thousands separators, exponent, unit and number words.

    Returns:
        an answer with a finite number, or ``Unparsed("no-number")``.
    """
    flat = " ".join(text.replace("*", "").split())
    found = [(match.start(), _value(match[0])) for match in _NUMBER.finditer(flat)]
    found = [(place, value) for place, value in found if math.isfinite(value)]
    if not found:
        found = [(match.start(), _word_value(match)) for match in _WORD.finditer(flat)]
    # A short stretch before the number is enough to hold the phrase, and keeps long texts cheap.
    stated = [entry for entry in found if _STATED.search(flat[max(0, entry[0] - 60) : entry[0]])]
    values = [value for _, value in (stated or found)]
    if not values:
        return Unparsed("no-number")
    return Answer(text.strip(), number=values[-1], notes=("several-numbers",) if len(set(values)) > 1 else ())


def _value(text: str) -> float:
    return float(text.replace(",", "").replace("\u2212", "-"))


def _word_value(match: re.Match[str]) -> float:
    if match["small"]:
        value = _UNITS[match["small"].lower()]
    else:
        value = _TENS[match["tens"].lower()] + (_UNITS[match["ones"].lower()] if match["ones"] else 0.0)
    return -value if match["sign"] else value
