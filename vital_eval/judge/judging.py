"""Has every question judged that has no verdict yet, and keeps each verdict as it comes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from vital_eval.judge.client import JudgeClient, Reply
from vital_eval.judge.errors import JudgeError, JudgeFailure
from vital_eval.judge.prompt import is_cut
from vital_eval.judge.question import JudgeQuestion
from vital_eval.judge.verdicts import Verdict, VerdictStore

#: A judge that fails so many questions in a row is not asked further in this call.
FAILURES_IN_A_ROW = 20

#: Takes the questions done, the questions in all (both without those that had a verdict), and the failures so far.
Progress = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """What came of a session. Equal answers to a sample, whichever mode gave them, count once.

    Attributes:
        judged: answers that got a verdict in this call.
        reused: answers that had one.
        right: of both, those that the judge calls right.
        failed: answers still without a verdict: their call failed, or was not made any more.
        failures: kind of failure to its number.
        example: the last failure in full, ``""`` without one.
        cut: answers of which the judge saw only the beginning, in this call.
        prompt_tokens: read by the judge in this call, as the server counts; 0 if it does not.
        completion_tokens: written by it, likewise.
    """

    judged: int
    reused: int
    right: int
    failed: int
    failures: Mapping[str, int]
    example: str
    cut: int
    prompt_tokens: int
    completion_tokens: int


async def judge_all(
    questions: Iterable[JudgeQuestion], client: JudgeClient, store: VerdictStore, progress: Progress | None = None
) -> JudgeReport:
    """Have judged what has no verdict in the store.

    Args:
        questions: answers that need a judge (:func:`vital_eval.judge.judged.needs_judge`); repeated ones are sent once.
        client: the judge; its connections are closed at the end.
        store: the open file of verdicts of this judge, with the questions' tasks declared.
        progress: is told after every question.

    Returns:
        The counts; ``failed`` is 0 if nothing is owed. Calling again judges what is owed.

    Raises:
        JudgeError: if the judge cannot be used at all, the server answers with another model than before, or the
            verdicts cannot be written. What was judged is kept.
    """
    session = _Session(client, store, progress, store.model)
    owed = session.look_up(questions)
    try:
        if owed:
            await session.judge(owed)
    finally:
        await client.close()
    return session.report()


@dataclass(slots=True)
class _Session:
    client: JudgeClient
    store: VerdictStore
    progress: Progress | None
    model: str | None
    total: int = 0
    reused: int = 0
    judged: int = 0
    right: int = 0
    cut: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    example: str = ""
    in_a_row: int = 0

    def look_up(self, questions: Iterable[JudgeQuestion]) -> dict[str, JudgeQuestion]:
        """Return the distinct questions without a verdict, by key."""
        identity = self.client.identity.hash
        owed: dict[str, JudgeQuestion] = {}
        for key, question in {question.key(identity): question for question in questions}.items():
            verdict = self.store.find(question.task, question.sample_id, question.answer_hash, key)
            if verdict is None:
                owed[key] = question
            else:
                self.reused += 1
                self.right += verdict.correct
        self.total = len(owed)
        return owed

    async def judge(self, owed: Mapping[str, JudgeQuestion]) -> None:
        try:
            self.pin(await self.client.check())
        except JudgeFailure as failure:
            self.note(failure)
            return
        jobs = iter(owed.items())
        workers = [asyncio.create_task(self.work(jobs)) for _ in range(min(self.client.concurrency, len(owed)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def work(self, jobs: Iterator[tuple[str, JudgeQuestion]]) -> None:
        for key, question in jobs:
            if self.in_a_row >= FAILURES_IN_A_ROW:
                return
            try:
                self.keep(key, question, await self.client.ask(question))
            except JudgeFailure as failure:
                self.note(failure)
            if self.progress is not None:
                self.progress(self.judged + self.failures.total(), self.total, self.failures.total())

    def keep(self, key: str, question: JudgeQuestion, reply: Reply) -> None:
        self.pin(reply.model)
        ruling, cut = reply.ruling, is_cut(question)
        self.store.append(
            Verdict(
                key=key,
                task=question.task,
                sample_id=question.sample_id,
                answer_hash=question.answer_hash,
                correct=ruling.correct,
                extracted_answer=ruling.extracted_answer,
                model=reply.model,
                cut=cut,
            )
        )
        self.in_a_row = 0
        self.judged += 1
        self.right += ruling.correct
        self.cut += cut
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens

    def note(self, failure: JudgeFailure) -> None:
        self.in_a_row += 1
        self.failures[failure.kind] += 1
        self.example = str(failure)

    def pin(self, model: str) -> None:
        if self.model is None:
            self.model = model
        if model != self.model:
            raise JudgeError(
                f"the server answers as model {model!r}, before it was {self.model!r} (verdicts in {self.store.path})",
                "ask for the old model by its exact name, or name another file with --judge-file",
            )

    def report(self) -> JudgeReport:
        return JudgeReport(
            judged=self.judged,
            reused=self.reused,
            right=self.right,
            failed=self.total - self.judged,
            failures=dict(self.failures),
            example=self.example,
            cut=self.cut,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
        )
