"""Read time spans from an answer field.

A span is read only where the text states one: a range ("12.5 to 20", "01:30 - 02:10"), a pair in brackets
("[12.5, 20]"), "between ... and ...", or "starts at ... ends at ...". Loose numbers are never paired up, so a count
or a frame number cannot shift a span. A bare count ("2-3 people"), a stretch of frames ("frames 10 to 20") and a
date ("2023-10-12") are not spans.

A task that wants one span takes the last one stated, because a conclusion follows its reasons; the answer is then
noted ``several-spans``. A last span that is reversed or empty is a named failure, never a reason to fall back on an
earlier one.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from vital_eval.parsing.text import plain
from vital_eval.span import Span, Window
from vital_eval.task import Answer, Unparsed

# A number must not be cut out of a longer one, and a leading minus is not a dash.
_BEFORE = r"(?<![\w\u2212-])(?<![0-9][.:,])"
_AFTER = r"(?![0-9])(?![.:,][0-9])(?!\s?%)"
_PLAIN = r"(?:[0-9]{1,12}(?:\.[0-9]{1,12})?|\.[0-9]{1,12})"
_GROUPED = r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]{1,12})?"
_CLOCK = r"(?:[0-9]{1,2}:[0-5][0-9]:[0-5][0-9]|[0-9]{1,3}:[0-5][0-9])(?:\.[0-9]{1,12})?"
_SECONDS = r"\s?-?\(?s(?:ec(?:ond)?s?)?\b\.?\)?"
_MINUTES = r"\s?-?m(?:in(?:ute)?s?)?\b\.?"
_HOURS = r"\s?h(?:(?:ou)?rs?)?\b\.?"
_SPOKEN = (
    rf"(?:[0-9]{{1,3}}{_HOURS}(?:\s?(?:and\s)?{_PLAIN}{_MINUTES})?|{_PLAIN}{_MINUTES})"
    rf"(?:\s?(?:and\s)?{_PLAIN}{_SECONDS})?"
    rf"|[0-9]{{1,3}}h[0-9]{{1,2}}m(?:{_PLAIN}s\b)?|[0-9]{{1,3}}m{_PLAIN}s\b"
)


_TIME = (
    rf"(?:(?:{_SPOKEN})|(?:{_CLOCK}{_AFTER}(?:{_SECONDS}|{_MINUTES})?|(?:{_GROUPED}|{_PLAIN}){_AFTER}(?:{_SECONDS})?))"
    r"(?:\smark\b)?"
)
# Between brackets a comma separates before it groups: "[100,200]" is a pair.
_UNGROUPED = rf"(?:(?:{_SPOKEN})|(?:{_CLOCK}|{_PLAIN})(?![.:]?[0-9])(?:{_SECONDS})?)"
_NAMED = r"(?:(?:about|around|second|timestamp|time|t\s?=)\s?)*"
# Hyphens, figure, en and em dash, minus sign, tildes, arrow, dots.
_DASH = r"\s?(?:-{1,2}>|[-\u2010\u2011\u2012\u2013\u2014\u2212~]{1,2}|\u2192|\.\.\.?)\s?"
_LINK = r"""["']?\s?(?:\s?(?:at|is|was|from|by|around|about|approximately|roughly|time|the|mark)\b|[:=])*\s?["']?"""
_FORMS = "|".join(
    (
        rf"\b(?:start|begin)\w*?(?:[\s_]?time)?{_LINK}(?P<a0>{_TIME})[^0-9]{{0,40}}?"
        rf"\b(?:end|finish|stop|conclude|until|till)\w*?(?:[\s_]?time)?{_LINK}(?P<b0>{_TIME})",
        rf"\bbetween\s{_NAMED}(?P<a1>{_TIME})\sand\s{_NAMED}(?P<b1>{_TIME})",
        rf"[\[({{<]\s?(?P<a2>{_UNGROUPED})\s?[,;]\s?(?P<b2>{_UNGROUPED})\s?[\])}}>]",
        rf"[\[({{<]\s?(?P<a3>{_TIME})\s?[,;]\s?(?P<b3>{_TIME})\s?[\])}}>]",
        rf"(?P<lead>\bfrom\s{_NAMED})?{_BEFORE}(?P<a4>{_TIME})"
        rf"(?:{_DASH}|\s?(?:(?:up\s)?to|until|till|through|thru)\s{_NAMED})(?P<b4>{_TIME})(?!-[0-9])",
    )
)
_SPAN = re.compile(_FORMS, re.IGNORECASE)
_PAIR_ONLY = re.compile(rf"(?P<a>{_UNGROUPED})\s?[,;]\s(?P<b>{_UNGROUPED})\.?", re.IGNORECASE)

#: How nearly every answer is written. It is read alike without it, only slower (a test holds the two together).
_SIMPLE = re.compile(
    r"(?:[Ff]rom )?(?P<a>[0-9]{1,9}(?:\.[0-9]{1,9})?)s?(?: - | to |-)(?P<b>[0-9]{1,9}(?:\.[0-9]{1,9})?)s?"
)

#: "2-3 people": whole numbers, no unit, and a word for what is counted.
_COUNT = re.compile(r"[0-9]+(?:\s?[-\u2013\u2014~]\s?|\sto\s)[0-9]+")
_COUNTED = re.compile(
    r"\s(?!(?:and|or|in|on|of|is|as|at|by|for|from|with|within|inside|when|where|while|during|then|the|a|an|because|"
    r"since|so|but|not|which|shows?|approximately|roughly|total|first|later|option|answer|choice)\b)[a-z]{2,}",
    re.IGNORECASE,
)
_FRAMES = re.compile(r"\bframes?\s(?:numbers?\s|indices\s|from\s)?\Z", re.IGNORECASE)
_UNIT_PARTS = re.compile(rf"({_PLAIN})\s?-?([hms])", re.IGNORECASE)
_MINUTES_AT_END = re.compile(rf"{_PLAIN}{_MINUTES}\Z", re.IGNORECASE)
_BARE = re.compile(_PLAIN)
_SECONDS_PER = {"h": 3600.0, "m": 60.0, "s": 1.0}


@dataclass(frozen=True, slots=True)
class StatedSpan:
    """A span expression as written, before it is known to be valid.

    Attributes:
        window: the two times in seconds, in the order written.
        text: the expression itself.
        place: where it begins in ``plain(text)``.
    """

    window: Window
    text: str
    place: int


def find_spans(text: str) -> tuple[StatedSpan, ...]:
    """Return every span expression of the text in the order written, reversed and empty ones included.

    What is read, and what places refer to, is :func:`~vital_eval.parsing.text.plain` of the text.
    """
    simple = _SIMPLE.fullmatch(text)
    if simple:
        return (StatedSpan((float(simple["a"]), float(simple["b"])), text, 0),)
    return _search(plain(text))


def _search(flat: str) -> tuple[StatedSpan, ...]:
    whole = _PAIR_ONLY.fullmatch(flat)
    if whole:
        return _stated(whole["a"], whole["b"], flat, 0)
    found: list[StatedSpan] = []
    for match in _SPAN.finditer(flat):
        number = next(index for index in range(5) if match[f"a{index}"] is not None)
        if match["lead"] is None and _COUNT.fullmatch(match[0]) and _COUNTED.match(flat, match.end()):
            continue
        if number == 4 and _FRAMES.search(flat[max(0, match.start() - 20) : match.start(f"a{number}")]):
            continue
        found.extend(_stated(match[f"a{number}"], match[f"b{number}"], match[0], match.start()))
    return tuple(found)


def parse_span(text: str) -> Answer | Unparsed:
    """Read the one span that a moment-retrieval answer states: the last, if there are several.

    Returns:
        an answer with one span, or ``Unparsed`` with ``no-span``, ``reversed-span`` or ``zero-length-span``.
    """
    found = find_spans(text)
    if not found:
        return Unparsed("no-span")
    span = checked_span(found[-1].window)
    if isinstance(span, Unparsed):
        return span
    several = len({stated.window for stated in found}) > 1
    return Answer(text.strip(), spans=(span,), notes=("several-spans",) if several else ())


def parse_spans(text: str) -> Answer | Unparsed:
    """Read all spans that an answer states, in the order written.

    Reversed and empty ones are left out and noted; an answer with no other span fails by the first one's reason.
    """
    checked = [checked_span(stated.window) for stated in find_spans(text)]
    spans = tuple(span for span in checked if isinstance(span, Span))
    reasons = [span.reason for span in checked if isinstance(span, Unparsed)]
    if not spans:
        return Unparsed(reasons[0] if reasons else "no-span")
    return Answer(text.strip(), spans=spans, notes=tuple(dict.fromkeys(reasons)))


def checked_span(window: Window) -> Span | Unparsed:
    """Turn a stated window into a span, or name what is wrong with it."""
    start, end = window
    if start > end:
        return Unparsed("reversed-span")
    return Unparsed("zero-length-span") if start == end else Span(start, end)


def _stated(first: str, second: str, text: str, place: int) -> tuple[StatedSpan, ...]:
    # "2 to 3 minutes": the unit at the end holds for both.
    if _BARE.fullmatch(first) and _MINUTES_AT_END.fullmatch(second):
        first += " min"
    window = (_seconds(first), _seconds(second))
    return (StatedSpan(window, text, place),) if all(map(math.isfinite, window)) else ()


def _seconds(time: str) -> float:
    if ":" in time:
        value = 0.0
        for part in re.findall(r"[0-9]+(?:\.[0-9]+)?", time):
            value = value * 60 + float(part)
        return value
    parts = _UNIT_PARTS.findall(time.replace(",", ""))
    if parts:
        return sum(float(number) * _SECONDS_PER[unit.lower()] for number, unit in parts)
    bare = _BARE.match(time.replace(",", ""))
    return float(bare[0]) if bare else math.nan
