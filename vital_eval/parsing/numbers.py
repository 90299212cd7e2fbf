"""Read one number from an answer field.

Digits go before number words ("the one on the left: 4"). Where several numbers are stated, those that follow
"answer is" or "answer:" count alone; of what remains the last is taken, and the answer is noted ``several-numbers``
if they differ.

What cannot be read without guessing is not read: "1,20" and "1.200,5" may be decimal or grouped, "1_000" and "0x10"
are code. A fraction is one number ("1/2", "12 1/2"), and so is a number with its scale ("2 million").
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from vital_eval.parsing.text import plain
from vital_eval.task import Answer, Unparsed

_NUMBER = re.compile(
    r"(?:(?<![\w)\]])[-+\u2212])?(?<![\w.^])(?<![0-9],)(?<!\^\{)"
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,300})(?:\.[0-9]{1,300})?|\.[0-9]{1,300})"
    r"(?:[eE][-+]?[0-9]{1,3})?(?![0-9_]|[.,][0-9]|[xX][0-9a-fA-F]{2}|(?:st|nd|rd|th)\b)"
)
#: What may follow a number and belongs to it: the rest of a fraction, a scale, a half.
_FRACTION = re.compile(r"(?:\s(?P<above>[0-9]{1,6}))?\s?/\s?(?P<below>[0-9]{1,6})(?![\w/.,])")
_WHOLE = re.compile(r"[-+\u2212]?[0-9]{1,6}")
_SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9}
_SCALED = re.compile(rf"\s(?P<scale>{'|'.join(_SCALES)})s?\b", re.IGNORECASE)
_HALF = re.compile(r"\sand\sa\s(?P<part>half|quarter)\b", re.IGNORECASE)
_PARTS = {"half": 0.5, "quarter": 0.25}

_SMALL = tuple(
    word
    for row in (
        "zero one two three four five six seven eight nine ten",
        "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen",
    )
    for word in row.split()
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_UNITS = {word: float(index) for index, word in enumerate(_SMALL)} | {
    word: 10.0 * (index + 2) for index, word in enumerate(_TENS)
}
_COUNTS = {**_SCALES, "dozen": 12.0}
_WORD = re.compile(
    rf"\b(?:(?P<sign>minus|negative)\s)?"
    rf"(?:(?P<unit>{'|'.join(reversed(_UNITS))})|(?P<article>an?\s)?(?P<scale>{'|'.join(_COUNTS)}))\b",
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
    flat = plain(text)
    found = list(_in_digits(flat)) or list(_in_words(flat))
    if not found:
        return Unparsed("no-number")
    if len(found) > 1:
        # A short stretch before the number is enough to hold the phrase, and keeps long texts cheap.
        stated = [entry for entry in found if _STATED.search(flat[max(0, entry[0] - 60) : entry[0]])]
        found = stated or found
    values = [value for _, value in found]
    return Answer(text.strip(), number=values[-1], notes=("several-numbers",) if len(set(values)) > 1 else ())


def _in_digits(flat: str) -> Iterator[tuple[int, float]]:
    """Return place and value of every number in digits."""
    end = 0
    for match in _NUMBER.finditer(flat):
        if match.start() < end:
            continue  # The lower part of a fraction.
        value, end = _with_rest(flat, match)
        if math.isfinite(value):
            yield match.start(), value


def _with_rest(flat: str, match: re.Match[str]) -> tuple[float, int]:
    end = match.end()
    value = float(match[0].replace(",", "").replace("\u2212", "-"))
    if end == len(flat) or flat[end] not in " /":
        return value, end
    fraction = _FRACTION.match(flat, end)
    if fraction and _WHOLE.fullmatch(match[0]) and int(fraction["below"]) > 0:
        if fraction["above"] is None:
            return value / int(fraction["below"]), fraction.end()
        part = int(fraction["above"]) / int(fraction["below"])
        return value + math.copysign(part, value), fraction.end()
    scaled = _SCALED.match(flat, end)
    if scaled:
        return value * _SCALES[scaled["scale"].lower()], scaled.end()
    half = _HALF.match(flat, end)
    if half:
        return value + math.copysign(_PARTS[half["part"].lower()], value), half.end()
    return value, end


@dataclass(slots=True)
class _Spoken:
    """A number in words while it is read from left to right.

    Attributes:
        place: where it begins.
        sign: 1 or -1.
        total: what is settled by a scale from a thousand upwards.
        group: what is being counted up, below the next scale.
        room: the next unit must be below this (twenty leaves room for three, three for nothing).
        scale: the last scale from a thousand upwards; the next must be smaller.
        place_value: of the next decimal digit; 0 before "point".
    """

    place: int
    sign: float
    total: float = 0.0
    group: float = 0.0
    room: float = 100.0
    scale: float = math.inf
    place_value: float = 0.0

    def take_unit(self, value: float) -> bool:
        """Add "three" or "twenty" if it continues the number."""
        if self.place_value:
            if value > 9:
                return False
            self.group += value * self.place_value
            self.place_value /= 10
            return True
        if not value < self.room:
            return False
        self.group += value
        # "twenty" leaves room for one to nine, "three" and "zero" for nothing.
        self.room = 10.0 if value >= 20 else 0.0
        return True

    def take_scale(self, value: float) -> bool:
        """Multiply by "hundred", "dozen" or "thousand" if it continues the number."""
        if self.place_value or (self.group == 0 and self.total > 0):
            return False
        count = self.group or 1.0
        if value < 1000:
            if count >= 100:
                return False
            self.group, self.room = count * value, 100.0 if value == 100 else 0.0
            return True
        if value >= self.scale:
            return False
        self.total, self.group, self.room, self.scale = self.total + count * value, 0.0, 100.0, value
        return True

    @property
    def value(self) -> float:
        """The number so far."""
        return self.sign * (self.total + self.group)


def _in_words(flat: str) -> Iterator[tuple[int, float]]:
    """Return place and value of every number in words ("two hundred and five", "twenty-three", "two point five")."""
    number: _Spoken | None = None
    end, counted = 0, False
    for match in _WORD.finditer(flat):
        gap = flat[end : match.start()].lower() if match.start() - end < 8 else ""
        unit, scale = match["unit"], match["scale"]
        joined = number is not None and not match["sign"] and not match["article"]
        if joined and number is not None:
            if gap == " point " and unit and not number.place_value:
                number.place_value = 0.1
            elif gap not in (" ", "-") and not (gap == " and " and counted):
                joined = False
        if not (joined and number is not None and _take(number, unit, scale)):
            if number is not None:
                yield number.place, _finished(flat, number, end)
            number = _Spoken(match.start(), -1.0 if match["sign"] else 1.0)
            _take(number, unit, scale)
        end, counted = match.end(), scale is not None
    if number is not None:
        yield number.place, _finished(flat, number, end)


def _take(number: _Spoken, unit: str | None, scale: str | None) -> bool:
    return number.take_unit(_UNITS[unit.lower()]) if unit else number.take_scale(_COUNTS[(scale or "").lower()])


def _finished(flat: str, number: _Spoken, end: int) -> float:
    half = _HALF.match(flat, end)
    return number.value + (number.sign * _PARTS[half["part"].lower()] if half else 0.0)
