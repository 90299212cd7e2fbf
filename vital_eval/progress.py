"""What a run has done so far, and how it is shown while it runs."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from vital_eval.outcome import Outcome
from vital_eval.protocol import Mode
from vital_eval.record import Record

if TYPE_CHECKING:
    import rich.progress

#: How often a log file gets a line.
LINE_SECONDS = 5.0


@dataclass(slots=True)
class Tally:
    """Counts of a run in progress.

    Attributes:
        total: episodes in the whole run.
        resumed: episodes that were finished before this process began.
        done: episodes this process finished, infrastructure failures included.
        outcomes: how they ended.
        infra: infrastructure failures by kind.
        calls: tool calls made.
        calls_ok: tool calls that returned frames.
    """

    total: int
    resumed: int = 0
    done: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    infra: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    calls_ok: int = 0

    def add(self, record: Record) -> None:
        """Count one finished episode."""
        self.done += 1
        self.outcomes[record.outcome] += 1
        if record.outcome is Outcome.INFRA_FAILED:
            self.infra[infra_kind(record)] += 1
        if record.mode is Mode.TOOL:
            calls = record.trajectory.tool_calls
            self.calls += len(calls)
            self.calls_ok += sum(call.succeeded for call in calls)

    @property
    def owed(self) -> int:
        """Episodes without a graded answer: not finished, or failed for a reason that is not the model's."""
        return self.total - self.resumed - self.done + self.outcomes[Outcome.INFRA_FAILED]

    def describe(self, seconds: float) -> str:
        """Return one line: how far, how fast, how long still, how the tools do."""
        finished = self.resumed + self.done
        parts = [f"{finished}/{self.total} episodes"]
        if self.done and seconds > 0:
            rate = self.done / seconds
            parts.append(f"{rate:.2f}/s" if rate >= 1 else f"{1 / rate:.1f} s each")
            parts.append(f"{_span_text((self.total - finished) / rate)} left")
        if self.calls:
            parts.append(f"tool calls ok {100 * self.calls_ok / self.calls:.0f}% of {self.calls}")
        odd = [outcome for outcome in Outcome if outcome is not Outcome.ANSWERED and self.outcomes[outcome]]
        return ", ".join(parts + [f"{outcome.value} {self.outcomes[outcome]}" for outcome in odd])


def infra_kind(record: Record) -> str:
    """Return what failed, for counting: the stop reason, and for media the kind of trouble."""
    if record.reason == "media-failed":
        return f"{record.reason} ({record.trajectory.error.partition(':')[0]})"
    return record.reason


class Reporter(Protocol):
    """Shows a tally while a run goes on."""

    def update(self, tally: Tally) -> None:
        """Show the newest counts."""
        ...


class Silent:
    """Shows nothing."""

    def update(self, tally: Tally) -> None:
        """Do nothing."""


class Lines:
    """One plain line every few seconds, for log files.

    Args:
        write: takes a finished line; standard error if not given.
        clock: measures seconds.
        every: seconds between lines.
    """

    def __init__(
        self,
        write: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        every: float = LINE_SECONDS,
    ) -> None:
        self._write, self._clock, self._every = write or sys.stderr.write, clock, every
        self._started = clock()
        self._next = self._started + every

    def update(self, tally: Tally) -> None:
        """Write a line if it is time for one, or if the run is complete."""
        now = self._clock()
        if now >= self._next or tally.resumed + tally.done == tally.total:
            self._next = now + self._every
            self._write(tally.describe(now - self._started) + "\n")


class Bar:
    """A live bar on a terminal; a context manager."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._started = time.monotonic()
        self._progress: rich.progress.Progress = Progress(
            BarColumn(bar_width=24), TextColumn("{task.description}", markup=False), console=Console(stderr=True)
        )
        self._task = self._progress.add_task("starting", total=None)

    def update(self, tally: Tally) -> None:
        """Move the bar."""
        text = tally.describe(time.monotonic() - self._started)
        self._progress.update(self._task, total=tally.total, completed=tally.resumed + tally.done, description=text)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def _span_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
