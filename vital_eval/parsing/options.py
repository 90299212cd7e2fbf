"""Read the chosen option from an answer field.

The first rule that finds a letter decides; a rule that finds two decides that the answer is ambiguous:

1. the whole answer, or its first line, is a letter ("B", "(b)", "**B**", "B.");
2. the whole answer is an option's text, with or without "The answer is";
3. the answer opens with a marked letter ("B. because ...", "(B) ...", "B, ...");
4. a letter is stated ("the answer is B", "Option B", "choose (B)");
5. exactly one capital stands alone anywhere, apart from the article "A", the pronoun "I" and what is ruled out
   ("not A", "A is wrong"), and stands there as a choice does ("I think B", "C is correct"), not as the name of
   something ("in frame B", "vitamin C").

Only letters that exist for the sample are answers. An answer that lists the options again chooses none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from vital_eval.parsing.spans import checked_span, find_spans
from vital_eval.parsing.text import normalise, plain, strip_lead_in
from vital_eval.sample import option_letter
from vital_eval.span import Span
from vital_eval.task import Answer, Unparsed

_LONE = re.compile(
    r"(?:(?:option|choice|answer)(?:\s?:\s?|\s))?[(\[{<\"'_]{0,2}([A-Za-z])[)\]}>\"'_]{0,2}[.,:;!]?", re.IGNORECASE
)
_LEADING = re.compile(r"[(\[]?(?P<letter>[A-Za-z])(?:[)\]][.:,]?|[.,:;](?=\s|\Z)|\s[-\u2013\u2014](?=\s))")
_LETTER = (
    r"(?:[(\[\"']\s?(?P<bracketed>[A-Za-z])\s?[)\]\"']"
    r"|(?P<capital>(?-i:[A-Z]))(?![\w'\u2019])"
    r"|(?P<small>(?-i:[a-z])(?=\s?(?:[.;!)]|\Z))|(?-i:[b-hj-z])(?=\s)))"
)
_STATED = re.compile(
    r"(?:\b(?:answer|option|choice|letter)\b"
    r"(?:\s(?:is|was|be|would|should|must|will|likely|probably|definitely|clearly|therefore|thus))*\s?[:=]?"
    r"|\b(?:it|this|that)(?:\s(?:is|must\sbe|should\sbe)|['\u2019]s)"
    r"|\b(?:choose|chose|select|pick|go\swith|going\swith))"
    r"\s?(?:the\s)?(?:(?:option|choice|letter|answer)\s?:?\s?)?" + _LETTER,
    re.IGNORECASE,
)
_ALONE = re.compile(r"(?<![\w'\u2019.-])(?:[(\[](?P<bracketed>[A-Za-z])[)\]]|(?P<capital>[A-Z]))(?![\w'\u2019-])")
_RULED_OUT = re.compile(
    r"(?:\bnot|\bcannot\sbe|n['\u2019]t(?:\sbe)?|\brather\sthan|\binstead\sof|\bexcept|\bneither|\bnor)\s(?:the\s)?"
    r"(?:option\s|choice\s|answer\s)?",
    re.IGNORECASE,
)
#: "B is wrong", "B cannot be right", "B isn't it".
_DENIED = re.compile(
    r"[)\].:,]{0,2}\s(?:(?:is|are|was|were|seems|looks|would\sbe|can\sbe)"
    r"(?:n['\u2019]t|\snot|\s(?:also\s|clearly\s|simply\s)?"
    r"(?:wrong|incorrect|false|out|excluded|eliminated|impossible|unlikely|irrelevant))"
    r"|cannot|can['\u2019]t|does(?:\snot|n['\u2019]t))\b",
    re.IGNORECASE,
)
#: What stands before a letter that is chosen ...
_CHOOSING = re.compile(
    r"(?:\A|[.,:;!?=>\u2192\u2013\u2014-]|\b(?:think|believe|guess|say|suppose|conclude|assume|choose|chose|select|pick"
    r"|vote|vote\sfor|with|is|be|was|as|but|so|thus|hence|therefore|then|likely|probably|definitely|clearly|just|only"
    r"|possibly|maybe|perhaps|ans"
    r"|confident\s[io]n|(?:correspond|point|lead|come)s?\sto|matches|fits|supports|suggests|indicates|means|number))"
    r"\s?(?:the\s)?",
    re.IGNORECASE,
)
#: ... or behind it.
_CHOSEN_AFTER = re.compile(
    r"[)\]]?\s(?:because|since|as\s(?:the|it|he|she|they|this|that)|(?:best\s)?(?:matches|fits)"
    r"|(?:is|seems|looks|would\sbe|must\sbe|appears)\s(?:to\sbe\s)?(?:(?:the|my|a|most|more|clearly|definitely)\s)*"
    r"(?:correct|right|true|best|answer|choice|option|likely|plausible|accurate|appropriate))\b",
    re.IGNORECASE,
)
_MORE = re.compile(
    r"[)\]]?\s?(?:[,/&]|,?\s?\b(?:and|or)\b)\s?(?:(?:maybe|perhaps|possibly|even)\s)?(?:option\s)?"
    r"[(\[]?(?P<letter>[A-Z])(?![\w'\u2019])[)\]]?(?!\s(?:is|are|was|were)\b)"
)
#: "A" and "I" before a lower-case word are an article and a pronoun, unless one of these words follows.
_WORDY = re.compile(
    r"\s(?!(?:because|since|as|and|or|not|but|for|due|is|was|seems|appears|would|best|matches|fits|which|while)\b)[a-z]"
)


def parse_option(text: str, options: Sequence[str]) -> Answer | Unparsed:
    """Read the chosen letter.

    Args:
        text: the answer field.
        options: the option texts; the first is A.

    Returns:
        an answer whose letter exists, or ``Unparsed`` with ``no-option``, ``ambiguous-option`` or
        ``unknown-option`` (a letter beyond those offered).
    """
    letters = tuple(option_letter(index) for index in range(min(len(options), 26)))
    flat = plain(text)
    stripped = text.strip()
    first_line = plain(stripped.splitlines()[0]) if "\n" in stripped else flat
    chosen = _chosen(flat, first_line, letters, tuple(options))
    if not chosen:
        return Unparsed("no-option")
    if len(chosen) > 1:
        return Unparsed("ambiguous-option")
    letter = chosen.pop()
    return Answer(text.strip(), letter=letter) if letter in letters else Unparsed("unknown-option")


def parse_option_and_span(text: str, options: Sequence[str]) -> Answer | Unparsed:
    """Read the chosen letter and the span that shows it, in either order.

    One of the two may be missing; the other still counts and the answer is noted with the missing one's reason.

    Returns:
        an answer with a letter, a span or both, or ``Unparsed`` with the option's reason if it has neither.
    """
    stated = find_spans(text)
    span = checked_span(stated[-1].window) if stated else Unparsed("no-span")
    rest = text
    if stated:
        # The option is read from what the span leaves, so that "B, 12.50 to 20.00" is a lone letter.
        flat, last = plain(text), stated[-1]
        rest = _loose(f"{flat[: last.place]} {flat[last.place + len(last.text) :]}")
    option = parse_option(rest, options)
    if isinstance(option, Unparsed) and isinstance(span, Unparsed):
        return option if span.reason == "no-span" else span
    notes: list[str] = []
    if len({entry.window for entry in stated}) > 1:
        notes.append("several-spans")
    notes.extend(part.reason for part in (option, span) if isinstance(part, Unparsed))
    return Answer(
        text.strip(),
        spans=(span,) if isinstance(span, Span) else (),
        letter=None if isinstance(option, Unparsed) else option.letter,
        notes=tuple(notes),
    )


def _chosen(flat: str, first_line: str, letters: Sequence[str], options: tuple[str, ...]) -> set[str]:
    lone = _LONE.fullmatch(flat)
    if lone and lone[1].upper() in letters:
        return {lone[1].upper()}
    by_text = _by_text(options)
    whole = by_text.get(normalise(flat)) or by_text.get(normalise(strip_lead_in(flat)))
    if whole:
        return {whole}
    lone = lone or _LONE.fullmatch(first_line)
    if lone:
        return {lone[1].upper(), *_stated(flat, "answer")}
    leading = _LEADING.match(flat)
    # "I, for one, ..." opens a sentence.
    if leading and leading[0] != "I," and not _DENIED.match(flat, leading.end("letter")):
        first, end = leading["letter"].upper(), leading.end("letter")
        return {first, *_listed_after(flat, end), *_recited(flat, first, options), *_stated(flat, "answer")}
    stated = set(_stated(flat))
    if stated:
        return stated
    return _left_alone(flat, letters)


@lru_cache(maxsize=256)
def _by_text(options: tuple[str, ...]) -> dict[str, str]:
    """Return normalised option text to letter; options with equal texts are one choice, and the first stands for it."""
    found: dict[str, str] = {}
    for index, option in enumerate(options[:26]):
        text = normalise(option)
        if text:
            found.setdefault(text, option_letter(index))
    return found


def _recited(flat: str, first: str, options: tuple[str, ...]) -> Iterator[str]:
    # "(A) opens the door (B) closes it ..." says again what was offered.
    for index, option in enumerate(options[:26]):
        letter = option_letter(index)
        if letter != first and option and any(f"{letter}{mark} {option}" in flat for mark in (".", ")", ":")):
            yield letter


def _left_alone(flat: str, letters: Sequence[str]) -> set[str]:
    """Return the letter that stands alone as a choice; several, if which one is chosen cannot be told."""
    ruled_out = {match.end() for match in _RULED_OUT.finditer(flat)}
    choosing = {match.end() for match in _CHOOSING.finditer(flat)}
    found: set[str] = set()
    as_choice = False
    for match in _ALONE.finditer(flat):
        letter = (match["bracketed"] or match["capital"]).upper()
        if letter not in letters or (match["capital"] in ("A", "I") and _WORDY.match(flat, match.end())):
            continue
        if match.start() in ruled_out or _DENIED.match(flat, match.end()):
            continue
        found.add(letter)
        as_choice |= bool(match["bracketed"] or match.start() in choosing or _CHOSEN_AFTER.match(flat, match.end()))
    return found if as_choice or len(found) > 1 else set()


def _stated(flat: str, by: str = "") -> Iterator[str]:
    """Return the letters that are stated, by phrases that hold the word ``by`` only."""
    if by and by not in flat.lower():
        return
    for match in _STATED.finditer(flat):
        letter = match["bracketed"] or match["capital"] or match["small"]
        if match["capital"] and letter in "AI" and _WORDY.match(flat, match.end()):
            continue
        if _DENIED.match(flat, match.end()) or by not in match[0].lower():
            continue
        yield letter.upper()
        yield from _listed_after(flat, match.end())


def _listed_after(flat: str, place: int) -> Iterator[str]:
    # "A or B", "A, B and C": more than one letter is stated.
    for _ in range(26):
        match = _MORE.match(flat, place)
        if match is None:
            return
        if not (match["letter"] in "AI" and _WORDY.match(flat, match.end())):
            yield match["letter"]
        place = match.end()


def _loose(text: str) -> str:
    return text.strip(" ,;:-\u2013\u2014.&").removesuffix(" and").removeprefix("and ").strip(" ,;:")
