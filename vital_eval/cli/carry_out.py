"""Carries out a plan in a run folder: what ``run`` and ``demo`` share."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from vital_eval.baseline_estimates import baseline_tasks, estimate_baselines
from vital_eval.cli.output import EXIT_INTERRUPTED, EXIT_OWED, complain, figure_text, say, table
from vital_eval.errors import RunLogError
from vital_eval.footage import Library
from vital_eval.lengths import OddLengths
from vital_eval.manifest import MANIFEST_NAME, differing, read_manifest
from vital_eval.plan import RunPlan, make_manifest
from vital_eval.progress import Bar, Lines, Reporter, Tally
from vital_eval.run_log import RunLog
from vital_eval.runner import Settings, run
from vital_eval.summary import CellSummary, Summary, summarise, write_summary

if TYPE_CHECKING:
    from vital_eval.engine import Engine, EngineInfo
    from vital_eval.video.worker import DecodeWorkers

_T = TypeVar("_T")


class Players(Protocol):
    """Whoever plays the episodes of a run; all three are called in one event loop."""

    async def open(self) -> EngineInfo:
        """Get ready, and say whose answers the run will hold."""
        ...

    async def play(self, log: RunLog, reporter: Reporter) -> Tally:
        """Play what is owed and return the counts at the end."""
        ...

    async def close(self) -> None:
        """Free everything; called in any case."""
        ...


def carry_out(
    plan: RunPlan, engine: Engine, out: Path, settings: Settings, workers: DecodeWorkers, label: str = ""
) -> int:
    """Play what is owed with one engine in this process; see :func:`carry_out_with`.

    Args:
        plan: what the run consists of.
        engine: runs the model; it is closed at the end.
        out: run folder, new or to be resumed.
        settings: how the run is carried out.
        workers: decode its videos; they end with the run, or with whoever made them if it never begins.
        label: the checkpoint's name in tables, the engine's own if empty.
    """
    status = carry_out_with(plan, _Alone(plan, engine, settings, workers), out, label)
    if settings.frame_store is not None:
        use = workers.store_use
        say(f"frame store {settings.frame_store.folder}: {use.taken:,} clips taken, {use.decoded:,} decoded")
    return status


def carry_out_with(plan: RunPlan, players: Players, out: Path, label: str = "") -> int:
    """Play what is owed, write the summary, say what came of it.

    Args:
        plan: what the run consists of.
        players: play it; they are closed at the end.
        out: run folder, new or to be resumed.
        label: the checkpoint's name in tables, the engine's own if empty.

    Returns:
        The exit status: 0 complete, 3 samples are owed, 130 interrupted.
    """
    # Read before the run: a damaged training file must not spoil its end.
    baselines = baseline_tasks(task_plan.data for task_plan in plan.tasks)
    with _opened(plan, players, out, label) as (log, runner):
        try:
            with _reporter() as reporter:
                tally = runner.run(_stoppable(players.play(log, reporter)))
        except (KeyboardInterrupt, asyncio.CancelledError):
            kept = len(log.done_keys())
            complain(
                f"interrupted: {kept} of {plan.episodes} episodes are finished and kept in {out}; "
                "run the same command again to resume"
            )
            return EXIT_INTERRUPTED
        lengths = OddLengths()
        summary = summarise(log.manifest, lengths.watch(log.stream()), estimate_baselines(baselines))
        write_summary(log.folder, summary)
    say(summary_table(summary))
    say(f"\nrun folder: {out}")
    for cell in summary.cells:
        if cell.tools is not None and cell.tools.invalid:
            complain(f"{cell.task} {cell.mode.value}: {cell.tools.verdict}; its score is not that of a tool run")
    if lengths.samples:
        complain(
            f"{len(lengths.samples)} samples are about videos that are not as long as annotated, such as "
            f"{lengths.example}; `vital-eval prepare` names the videos"
        )
    return _status(tally)


@contextlib.contextmanager
def _opened(plan: RunPlan, players: Players, out: Path, label: str) -> Iterator[tuple[RunLog, asyncio.Runner]]:
    with asyncio.Runner() as runner:
        try:
            try:
                info = runner.run(_stoppable(players.open()))
            except asyncio.CancelledError:
                raise KeyboardInterrupt from None
            with RunLog.open(out, make_manifest(plan, info, label or info.model)) as log:
                yield log, runner
        finally:
            runner.run(players.close())


def check_folder(plan: RunPlan, out: Path, label: str) -> None:
    """Find out before a model is loaded that a run folder belongs to another run.

    Raises:
        RunLogError: if ``out`` holds a run with other tasks, samples, protocols or label.
    """
    if not (out / MANIFEST_NAME).exists():
        return
    stored = read_manifest(out)
    fields = differing(stored, make_manifest(plan, stored.engine, label or stored.label))
    if fields:
        raise RunLogError(
            f"{out} holds a run with another specification, which differs in {', '.join(fields)}",
            "choose another folder, or restore the old settings to resume",
        )


class _Alone:
    """One engine in this process."""

    def __init__(self, plan: RunPlan, engine: Engine, settings: Settings, workers: DecodeWorkers) -> None:
        self._plan, self._engine, self._settings, self._workers = plan, engine, settings, workers

    async def open(self) -> EngineInfo:
        return self._engine.info

    async def play(self, log: RunLog, reporter: Reporter) -> Tally:
        factor, kept = self._engine.info.geometry.spatial_factor, self._settings.cache_bytes
        library = Library(self._workers, factor, cache_bytes=kept)
        return await run(self._plan, self._engine, log, self._settings, reporter, library)

    async def close(self) -> None:
        await self._engine.close()


async def _stoppable(work: Awaitable[_T]) -> _T:
    this = asyncio.current_task()
    if this is not None:
        # Batch systems end a job with SIGTERM; it deserves the same clean stop as Ctrl-C.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    return await work


@contextlib.contextmanager
def _reporter() -> Iterator[Reporter]:
    if sys.stderr.isatty():
        with Bar() as bar:
            yield bar
    else:
        yield Lines()


def summary_table(summary: Summary) -> str:
    """Lay out the figures of one run for a terminal."""
    rows = []
    for cell in summary.cells:
        odd = ", ".join(f"{name} {count}" for name, count in cell.outcomes.items() if count and name != "answered")
        tools = cell.tools.verdict if cell.tools else ""
        rows.append((cell.task, cell.mode.value, cell.primary, _score(cell), str(cell.headline.n), odd, tools))
    return table(("task", "mode", "metric", "score [95 %]", "n", "not answered", "tools"), rows)


def _score(cell: CellSummary) -> str:
    if not cell.complete:
        # A figure that waits for samples is no figure.
        return "incomplete"
    return figure_text(cell.headline)


def _status(tally: Tally) -> int:
    if not tally.owed:
        return 0
    kinds = ", ".join(f"{count} {kind}" for kind, count in tally.infra.most_common())
    complain(f"{tally.owed} of {tally.total} episodes are owed: {kinds}; mend the cause and run the same command again")
    return EXIT_OWED
