"""What a model would score that never looks, as expected values of the task's own score.

Every trivial answerer is scored as a model is, so its figures stand beside a model's on the same footing: spans that
depend on the length of the video alone, guesses that know the form of the answer, and the answer that is right most
often.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from vital_eval.sample import Sample
from vital_eval.span import Span, Window
from vital_eval.task import Answer, AnswerKind, Metric, Scores, Task

#: A stretch of any video: start and end as shares of its duration.
Shares = tuple[float, float]

WHOLE: Shares = (0.0, 1.0)
#: The middle half.
CENTRE: Shares = (0.25, 0.75)
#: Steps into which :func:`fit_shares` divides a video (5 % each).
GRID = 20

_GROUNDED = {AnswerKind.SPAN, AnswerKind.SPANS, AnswerKind.OPTION_AND_SPAN}


def constant_span(task: Task, sample: Sample, shares: Shares) -> Scores | None:
    """Score the same stretch of every video as the answer.

    Where a letter is asked for as well, it is guessed: the scores are the mean over all letters.

    Args:
        task: the task that scores.
        sample: the question.
        shares: start and end as shares of the duration.

    Returns:
        the scores, or ``None`` if the task does not ask for a span or the annotation has no duration.
    """
    spans = _spans(task.answer_kind(sample), sample, shares)
    if not spans:
        return None
    letters = sample.option_letters() if task.answer_kind(sample) is AnswerKind.OPTION_AND_SPAN else (None,)
    return _mean([task.score(_say(spans, letter), sample) for letter in letters])


def whole_video(task: Task, sample: Sample) -> Scores | None:
    """Score the answer "from the first to the last second", see :func:`constant_span`."""
    return constant_span(task, sample, WHOLE)


def fit_shares(moments: Iterable[tuple[Window, float]]) -> Shares | None:
    """Find the constant stretch with the best mean hull IoU over annotated moments.

    All stretches on a grid of :data:`GRID` steps are tried. The IoU of a stretch does not change when window and
    duration are divided by the duration, so all is counted in shares.

    Args:
        moments: window and duration of the video, both in seconds, of the training split; windows that are empty or
            reversed can never be met and are left out.

    Returns:
        The best stretch (of equally good ones the first by start, then by end), ``None`` without usable moments.
    """
    shares = np.array(
        [(window[0] / length, window[1] / length) for window, length in moments if length > 0 and window[0] < window[1]]
    )
    if not len(shares):
        return None
    begins, ends = shares[:, 0], shares[:, 1]
    best, best_iou = WHOLE, -1.0
    for first in range(GRID):
        for last in range(first + 1, GRID + 1):
            start, end = first / GRID, last / GRID
            shared = np.maximum(0.0, np.minimum(ends, end) - np.maximum(begins, start))
            iou = float(np.mean(shared / (np.maximum(ends, end) - np.minimum(begins, start))))
            if iou > best_iou:
                best, best_iou = (start, end), iou
    return best


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
        return _mean([task.score(_say(letter=letter), sample) for letter in letters] or [task.score(None, sample)])
    if kind is AnswerKind.NUMBER:
        pool = _peer_numbers(sample, peers)
        guesses: list[Answer | None] = [_say(number=rng.choice(pool)) for _ in range(draws if pool else 0)]
    elif kind in _GROUNDED and sample.duration and sample.duration > 0:
        count = draws + (-draws % len(letters) if letters else 0)
        guesses = [
            _say((_span(rng, sample.duration),), letters[index % len(letters)] if letters else None)
            for index in range(count)
        ]
    else:
        guesses = []
    return _mean([task.score(guess, sample) for guess in guesses or [None]])


def majority_answers(task: Task, metric: Metric, samples: Sequence[Sample]) -> dict[str, Answer | None]:
    """Return the answers of one who knows how often each letter and number is right in these very samples.

    That is more than a model may know, so the figure is a generous floor. A letter is the one that is right most often
    within the sample's stratum of the metric (the first of equally frequent ones); with it goes the whole video where a
    span is asked for as well. A number is the most frequent target of the same question type (the least of equally
    frequent ones). Open questions and bare spans get no answer.

    Args:
        task: the task that the samples belong to.
        metric: one of its metrics; only samples that count for it are looked at.
        samples: the scored samples.

    Returns:
        Sample id to answer, for the samples that count; empty if none of them asks for a letter or a number.
    """
    counting = [sample for sample in samples if task.score(None, sample)[metric.score] is not None]
    groups = {sample.id: _group(task, metric, sample) for sample in counting}
    keys: defaultdict[tuple[str, ...], Counter[str | float]] = defaultdict(Counter)
    for sample in counting:
        right = sample.target.number if task.answer_kind(sample) is AnswerKind.NUMBER else sample.target.letter
        group = groups[sample.id]
        if group is not None and right is not None:
            keys[group][right] += 1
    if not keys:
        return {}
    answers: dict[str, Answer | None] = {}
    for sample in counting:
        group = groups[sample.id]
        answers[sample.id] = _majority(task, sample, keys[group]) if group is not None and group in keys else None
    return answers


def _group(task: Task, metric: Metric, sample: Sample) -> tuple[str, ...] | None:
    kind = task.answer_kind(sample)
    if kind is AnswerKind.NUMBER:
        return ("number", sample.attributes.get("question_type", ""))
    if kind in {AnswerKind.OPTION, AnswerKind.OPTION_AND_SPAN}:
        return ("letter", *task.strata(metric, sample))
    return None


def _majority(task: Task, sample: Sample, counts: Counter[str | float]) -> Answer | None:
    most = max(counts.values())
    best = min((key for key, count in counts.items() if count == most), key=lambda key: (str(type(key)), key))
    if not isinstance(best, str):
        return _say(number=best)
    # Its letter may not exist where a question has few options.
    letter = best if best in sample.option_letters() else None
    return _say(_spans(task.answer_kind(sample), sample, WHOLE), letter)


def _say(spans: tuple[Span, ...] = (), letter: str | None = None, number: float | None = None) -> Answer:
    # With the words a model would write: some official scorers read the text itself.
    words = [f"{span.start:.2f} to {span.end:.2f}" for span in spans]
    if letter is not None:
        words.insert(0, letter)
    if number is not None:
        words.append(repr(number))
    return Answer(", ".join(words), spans, letter, number)


def _spans(kind: AnswerKind, sample: Sample, shares: Shares) -> tuple[Span, ...]:
    if kind not in _GROUNDED or not sample.duration or sample.duration <= 0:
        return ()
    return (Span(shares[0] * sample.duration, shares[1] * sample.duration),)


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
