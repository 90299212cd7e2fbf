"""Plays every owed episode of a run and keeps each one as it finishes.

Episodes progress independently: one decodes while another generates. What is finished is on disk before the next
line is written, so a crash, a kill or Ctrl-C costs only the episodes that were under way.
"""

from __future__ import annotations

from vital_eval.engine import Engine
from vital_eval.grading import make_record
from vital_eval.plan import RunPlan
from vital_eval.player import Job, Library, Player
from vital_eval.progress import Reporter, Silent, Tally
from vital_eval.record import Record
from vital_eval.record_keeper import RecordKeeper, StoppedError
from vital_eval.run_log import RunLog
from vital_eval.schedule import owed_groups, play_groups
from vital_eval.settings import Settings

__all__ = ["Settings", "StoppedError", "make_record", "run"]


async def run(
    plan: RunPlan,
    engine: Engine,
    log: RunLog,
    settings: Settings | None = None,
    reporter: Reporter | None = None,
    library: Library | None = None,
) -> Tally:
    """Play what is owed.

    Args:
        plan: what the run consists of.
        engine: runs the model; it is not closed.
        log: the open run folder; finished episodes in it are not played again.
        settings: see :class:`~vital_eval.settings.Settings`.
        reporter: shows progress.
        library: where clips come from; it is closed at the end. ``None`` makes one by the settings.

    Returns:
        The counts at the end; ``owed`` is 0 if the run is complete.

    Raises:
        StoppedError: if episode after episode fails for a reason that is not the model's.
        VitalError: if a task's parser or scorer raises (a bug; the sample is named), or the log cannot be written.
    """
    settings, reporter = settings or Settings(), reporter or Silent()
    async with RecordKeeper(plan, log, reporter, settings.failures_in_a_row) as keeper:

        async def keep(job: Job, record: Record) -> None:
            await keeper.keep(record, job.attempt.sample.video)

        async with Player(engine, settings, library) as player:
            # One queue over all tasks: the engine's batches stay full while one task ends and the next begins.
            await play_groups(owed_groups(plan, keeper.done), player, keep, settings)
    return keeper.tally
