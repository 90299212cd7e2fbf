"""Right or wrong, for answers that are one of several options or one short text."""

from __future__ import annotations

from collections.abc import Sequence

from vital_eval.sample import option_letter


def letter_accuracy(chosen: str | None, right: str | None) -> float:
    """Return 1.0 if both letters are given and equal, else 0.0: nothing never equals nothing."""
    return float(chosen is not None and chosen == right)


def option_text_accuracy(chosen: str | None, options: Sequence[str], right: str) -> float:
    """Return 1.0 if the chosen letter's option reads as the right answer does, else 0.0.

    For benchmarks whose key is the option's text, where a question may offer the same text twice (NExT-GQA).
    """
    return float(any(option_letter(i) == chosen and text == right for i, text in enumerate(options)))
