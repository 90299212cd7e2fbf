"""Read the chosen option from an answer field.

The first rule that finds a letter decides; a rule that finds two decides that the answer is ambiguous:

1. the whole answer, or its first line, is a letter ("B", "(b)", "**B**", "B.");
2. the whole answer is an option's text, with or without "The answer is";
3. the answer opens with a marked letter ("B. because ...", "(B) ...", "B, ...");
4. a letter is stated ("the answer is B", "Option B", "choose (B)");
5. exactly one capital stands alone anywhere, apart from the article "A", the pronoun "I" and what is ruled out
   ("not A").

Only letters that exist for the sample are answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from vital_eval.parsing.spans import checked_span, find_spans
from vital_eval.parsing.text import normalise, strip_lead_in
from vital_eval.sample import option_letter
from vital_eval.span import Span
from vital_eval.task import Answer, Unparsed

_BOXED = re.compile(r"\\(?:boxed|text|textbf|mathrm)\s?\{([^{}]{0,40})\}")
_LONE = re.compile(
    r"(?:(?:option|choice|answer)(?:\s?:\s?|\s))?[(\[{<\"']?([A-Za-z])[)\]}>\"']?[.,:;!]?", re.IGNORECASE
)
_LEADING = re.compile(r"[(\[]?(?P<letter>[A-Za-z])(?:[)\]][.:,]?|[.,:;](?=\s|\Z)|\s[-\u2013\u2014](?=\s))")
_LETTER = (
    r"(?:[(\[\"']\s?(?P<bracketed>[A-Za-z])\s?[)\]\"']"
    r"|(?P<capital>(?-i:[A-Z]))(?![\w'\u2019])"
    r"|(?P<small>(?-i:[a-z]))(?=\s?(?:[.;!)]|\Z)))"
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
    r"(?:option\s|choice\s|answer\s)?\Z",
    re.IGNORECASE,
)
_MORE = re.compile(
    r"[)\]]?\s?(?:[,/&]|,?\s?\b(?:and|or)\b)\s?(?:option\s)?[(\[]?(?P<letter>[A-Z])(?![\w'\u2019])[)\]]?"
    r"(?!\s(?:is|are|was|were)\b)"
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
    lines = [line for line in (_plain(line) for line in text.splitlines()) if line]
    flat = " ".join(lines)
    chosen = _chosen(flat, lines[0] if lines else "", letters, options)
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
        before, _, after = " ".join(text.split()).rpartition(stated[-1].text)
        rest = _loose(f"{before} {after}")
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


def _chosen(flat: str, first_line: str, letters: Sequence[str], options: Sequence[str]) -> set[str]:
    lone = _LONE.fullmatch(flat)
    if lone and lone[1].upper() in letters:
        return {lone[1].upper()}
    for whole in (normalise(flat), normalise(strip_lead_in(flat))):
        same = [
            letter for letter, option in zip(letters, options, strict=False) if whole and normalise(option) == whole
        ]
        if same:
            # Options with equal texts are one choice; the first stands for it.
            return {same[0]}
    lone = lone or _LONE.fullmatch(first_line)
    if lone:
        return {lone[1].upper()}
    leading = _LEADING.match(flat)
    # "I, for one, ..." opens a sentence.
    if leading and leading[0] != "I,":
        return {leading["letter"].upper(), *_listed_after(flat, leading.end("letter"))}
    stated = set(_stated(flat))
    if stated:
        return stated
    return {letter for letter in _alone(flat) if letter in letters}


def _stated(flat: str) -> Iterator[str]:
    for match in _STATED.finditer(flat):
        letter = match["bracketed"] or match["capital"] or match["small"]
        if match["capital"] and letter in "AI" and _WORDY.match(flat, match.end()):
            continue
        yield letter.upper()
        yield from _listed_after(flat, match.end())


def _alone(flat: str) -> Iterator[str]:
    for match in _ALONE.finditer(flat):
        if match["capital"] and match["capital"] in "AI" and _WORDY.match(flat, match.end()):
            continue
        if not _RULED_OUT.search(flat[max(0, match.start() - 40) : match.start()]):
            yield (match["bracketed"] or match["capital"]).upper()


def _listed_after(flat: str, place: int) -> Iterator[str]:
    # "A or B", "A, B and C": more than one letter is stated.
    for _ in range(26):
        match = _MORE.match(flat, place)
        if match is None:
            return
        if not (match["letter"] in "AI" and _WORDY.match(flat, match.end())):
            yield match["letter"]
        place = match.end()


def _plain(line: str) -> str:
    return " ".join(_BOXED.sub(r"\1", line).replace("*", "").replace("`", "").replace("$", "").split())


def _loose(text: str) -> str:
    return text.strip(" ,;:-\u2013\u2014.&").removesuffix(" and").removeprefix("and ").strip(" ,;:")
