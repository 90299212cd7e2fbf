"""Rules first, then the judge: which answers need one, and what a verdict does to scores. Pure."""

from __future__ import annotations

from vital_eval.task import Answer, Scores


def needs_judge(answer: Answer | None, scores: Scores) -> bool:
    """Tell whether an answer to an open question has to be judged.

    Not if there is none or it is empty (wrong without a judge), and not if the rules give it full marks already.

    Args:
        answer: the parsed answer, ``None`` if there is no usable one.
        scores: the scores that the rules gave it.
    """
    if answer is None or not answer.text.strip():
        return False
    return any(score is not None and score < 1 for score in scores.values())


def judged_scores(scores: Scores, verdict_right: bool) -> Scores:
    """Return the scores of one answer to an open question after its verdict.

    A verdict can only add: where it is right every score that applies becomes 1, else the rules' scores stay.

    Args:
        scores: the scores that the rules gave; ``None`` (does not apply) stays ``None``.
        verdict_right: what the judge said.
    """
    if not verdict_right:
        return dict(scores)
    return {name: None if score is None else 1.0 for name, score in scores.items()}
