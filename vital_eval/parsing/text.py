"""Short texts: bring them into one form and compare them as wholes, never as parts of each other."""

from __future__ import annotations

import re
import unicodedata

from vital_eval.task import Answer, Unparsed

_LEAD_IN = re.compile(
    r"(?:so\s|thus\s|therefore\s)?,?\s?(?:the\s|my\s)?(?:(?:final|correct|best|right)\s)?answer(?:\sis\s?:?|:)\s?", re.I
)
_ARTICLE = re.compile(r"(?:a|an|the)\s")
_OUTER = " \t\"'`*_.,;:!?()[]{}<>\u201c\u201d\u2018\u2019"


def strip_lead_in(text: str) -> str:
    """Remove "The answer is" and its like from the front; white space is collapsed."""
    flat = " ".join(text.split())
    match = _LEAD_IN.match(flat)
    return flat[match.end() :] if match else flat


def normalise(text: str) -> str:
    """Return the text in the form in which texts are compared.

    Unicode compatibility form, case folded, white space collapsed, outer punctuation and a leading article removed.
    """
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_OUTER)
    return _ARTICLE.sub("", folded, count=1) if _ARTICLE.match(folded) else folded


def exact_match(answer: str, right: str) -> bool:
    """Tell whether two texts are equal after :func:`normalise`; an empty one equals nothing."""
    stated = normalise(strip_lead_in(answer))
    return stated != "" and stated == normalise(right)


def parse_open(text: str) -> Answer | Unparsed:
    """Read a short free-text answer; ``Unparsed("empty-answer")`` if nothing but punctuation is left of it."""
    return Answer(text.strip()) if normalise(strip_lead_in(text)) else Unparsed("empty-answer")
