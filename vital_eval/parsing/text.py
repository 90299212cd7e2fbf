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
_BOXED = re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf)\s?\{([^{}]{0,200})\}")
#: \boxed{\textbf{B}} is as deep as models nest these.
_BOXES = 3
#: Full-width forms (U+FF01 to U+FF5E), which models trained on Chinese mix in, to ASCII.
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}


def plain(text: str) -> str:
    """Return the text without mark-up, in one line.

    Bold stars, back-ticks, dollar signs and boxes are removed, full-width characters become ASCII, white space is
    collapsed. Letters and digits stay as they are.
    """
    if "\\" in text:
        for _ in range(_BOXES):
            text = _BOXED.sub(r"\1", text)
    if not text.isascii():
        text = text.translate(_FULL_WIDTH)
    return " ".join(text.replace("*", "").replace("`", "").replace("$", "").split())


def strip_lead_in(text: str) -> str:
    """Remove "The answer is" and its like from the front; white space is collapsed."""
    flat = " ".join(text.split())
    match = _LEAD_IN.match(flat)
    return flat[match.end() :] if match else flat


def normalise(text: str) -> str:
    """Return the text in the form in which texts are compared.

    Unicode compatibility form, case folded, white space collapsed, outer punctuation and a leading article removed.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    folded = " ".join(text.casefold().split()).strip(_OUTER)
    return _ARTICLE.sub("", folded, count=1) if _ARTICLE.match(folded) else folded


def exact_match(answer: str, right: str) -> bool:
    """Tell whether two texts are equal after :func:`normalise`; an empty one equals nothing."""
    stated = normalise(strip_lead_in(answer))
    return stated != "" and stated == normalise(right)


def parse_open(text: str) -> Answer | Unparsed:
    """Read a short free-text answer; ``Unparsed("empty-answer")`` if nothing but punctuation is left of it."""
    return Answer(text.strip()) if normalise(strip_lead_in(text)) else Unparsed("empty-answer")
