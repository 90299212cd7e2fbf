"""What ``judge`` and ``score`` share: have answers judged, say how far it is, count what came of it."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from vital_eval.cli.output import EXIT_OWED, complain
from vital_eval.progress import LINE_SECONDS

if TYPE_CHECKING:
    from vital_eval.judge.client import JudgeClient
    from vital_eval.judge.judging import JudgeReport
    from vital_eval.judge.question import JudgeQuestion
    from vital_eval.judge.verdicts import VerdictStore


async def judge_answers(questions: Iterable[JudgeQuestion], client: JudgeClient, store: VerdictStore) -> JudgeReport:
    """Have judged what has no verdict yet; Ctrl-C and SIGTERM end it with every verdict kept."""
    from vital_eval.judge.judging import judge_all

    this = asyncio.current_task()
    if this is not None:
        # Batch systems end a job with SIGTERM; it deserves the same clean stop as Ctrl-C.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    return await judge_all(questions, client, store, _Lines())


class _Lines:
    """One plain line every few seconds, and at the end."""

    def __init__(self) -> None:
        self._next = time.monotonic() + LINE_SECONDS

    def __call__(self, done: int, total: int, failed: int) -> None:
        now = time.monotonic()
        if now >= self._next or done == total:
            self._next = now + LINE_SECONDS
            sys.stderr.write(f"{done}/{total} answers judged" + (f", {failed} failed" if failed else "") + "\n")


def counts_line(report: JudgeReport) -> str:
    """Say in one line what a session did."""
    text = (
        f"different answers: {report.judged} judged now, {report.reused} judged before, {report.failed} failed; "
        f"{report.right} right"
    )
    if report.cut:
        text += f"; {report.cut} very long ones shown in part"
    if report.prompt_tokens or report.completion_tokens:
        text += f"; {report.prompt_tokens} tokens read, {report.completion_tokens} written"
    return text


def exit_status(report: JudgeReport) -> int:
    """Return 0, or complain about answers without a verdict and return the status of owed work."""
    if not report.failed:
        return 0
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.failures.items()))
    complain(
        f"{report.failed} answers have no verdict ({kinds}; last: {report.example}); the judged figures are withheld; "
        "run the same command again to have only these judged"
    )
    return EXIT_OWED
