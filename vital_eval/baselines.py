"""What a model would score that never looks: the whole video as the answer, and guessing.

Both are expected values of the task's own score, so they stand beside a model's figures on the same footing.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence

from vital_eval.sample import Sample
from vital_eval.span import Span
from vital_eval.task import Answer, AnswerKind, Scores, Task

_GROUNDED = {AnswerKind.SPAN, AnswerKind.SPANS, AnswerKind.OPTION_AND_SPAN}


def whole_video(task: Task, sample: Sample) -> Scores | None:
    """Score the answer "from the first to the last second".

    Where a letter is asked for as well, it is guessed: the scores are the mean over all letters.

    Returns:
        the scores, or ``None`` if the task does not ask for a span or the annotation has no duration.
    """
    kind = task.answer_kind(sample)
    if kind not in _GROUNDED or not sample.duration or sample.duration <= 0:
        return None
    spans = (Span(0.0, sample.duration),)
    letters = sample.option_letters() if kind is AnswerKind.OPTION_AND_SPAN else (None,)
    return _mean([task.score(Answer("", spans=spans, letter=letter), sample) for letter in letters])


def random_guess(task: Task, sample: Sample, peers: Iterable[Sample], draws: int = 64) -> Scores:
    """Score guesses that know the form of the answer but not the video.

    A letter is uniform over the options that exist, a span is two sorted uniform times within the video, a number is
    another sample's target of the same question type, and an open answer is never guessed. Letters are taken in turn,
    so that no letter is favoured by chance. The draws depend on the task, the sample's id and nothing else.

    Args:
        task: the task that scores.
        sample: the question.
        peers: the task's samples; only numeric questions use them, and never the sample itself.
        draws: number of guesses that the scores are the mean of; rounded up to a multiple of the options.
    """
    kind = task.answer_kind(sample)
    rng = _generator(task, sample)
    letters = sample.option_letters() if kind in {AnswerKind.OPTION, AnswerKind.OPTION_AND_SPAN} else ()
    if kind is AnswerKind.OPTION:
        return _mean(
            [task.score(Answer("", letter=letter), sample) for letter in letters] or [task.score(None, sample)]
        )
    if kind is AnswerKind.NUMBER:
        pool = _peer_numbers(sample, peers)
        guesses: list[Answer | None] = [Answer("", number=rng.choice(pool)) for _ in range(draws if pool else 0)]
    elif kind in _GROUNDED and sample.duration and sample.duration > 0:
        count = draws + (-draws % len(letters) if letters else 0)
        guesses = [
            Answer("", spans=(_span(rng, sample.duration),), letter=letters[index % len(letters)] if letters else None)
            for index in range(count)
        ]
    else:
        guesses = []
    return _mean([task.score(guess, sample) for guess in guesses or [None]])


def _span(rng: random.Random, duration: float) -> Span:
    while True:
        start, end = sorted((rng.uniform(0.0, duration), rng.uniform(0.0, duration)))
        if start < end:
            return Span(start, end)


def _peer_numbers(sample: Sample, peers: Iterable[Sample]) -> list[float]:
    kind = sample.attributes.get("question_type")
    return [
        peer.target.number
        for peer in peers
        if peer.target.number is not None and peer.id != sample.id and peer.attributes.get("question_type") == kind
    ]


def _generator(task: Task, sample: Sample) -> random.Random:
    # hash() of a text differs from process to process; a digest does not.
    digest = hashlib.sha256(f"{task.name}\0{sample.id}".encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))  # noqa: S311 - a guess, not a secret


def _mean(scores: Sequence[Scores]) -> Scores:
    # A metric that does not apply to a guess (None) leaves that guess out, as it leaves a sample out.
    means: dict[str, float | None] = {}
    for key in scores[0]:
        values = [value for score in scores if (value := score[key]) is not None]
        means[key] = sum(values) / len(values) if values else None
    return means
