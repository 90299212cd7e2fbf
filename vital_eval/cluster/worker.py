"""A worker of a cluster: an engine, its decoding processes, and the episodes it is given. It knows nothing of Ray."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import vital_eval
from vital_eval.engine import Engine, EngineInfo
from vital_eval.errors import VitalError
from vital_eval.plan import RunPlan
from vital_eval.player import Job, Player, jobs_of
from vital_eval.record import Key, Record
from vital_eval.schedule import play_groups
from vital_eval.settings import Settings


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """Which engine a worker builds, as the command line names it.

    Attributes:
        name: registry name.
        checkpoint: folder, the same on every node; ``None`` for engines that need none.
        device: torch device.
        dtype: of the weights.
        batch_size: turns written together.
        options: ``NAME=VALUE``, the engine's own.
    """

    name: str
    checkpoint: Path | None
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 8
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trouble:
    """An error for people that a worker met, as it travels.

    Attributes:
        problem: see :class:`~vital_eval.errors.VitalError`.
        mend: likewise.
    """

    problem: str
    mend: str = ""


class EpisodeWorker:
    """Plays the episodes of one plan. Errors for people are return values, so that none of them ends the worker."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._jobs: dict[Key, Job] = {}
        self._inbox: asyncio.Queue[tuple[Job, ...]] = asyncio.Queue()
        self._records: dict[Key, asyncio.Future[Record | Trouble]] = {}
        self._playing: asyncio.Task[None] | None = None

    async def versions(self) -> dict[str, str]:
        """Return what must be the same everywhere. Plain data: another version must be able to read it."""
        return versions()

    async def start(self, choice: EngineChoice, settings: Settings, plan: RunPlan) -> EngineInfo | Trouble:
        """Check this node's files and load the engine.

        Args:
            choice: which engine.
            settings: how decoding is carried out.
            plan: what episodes are taken from.
        """
        try:
            _check_folders(plan)
            self._engine = await asyncio.to_thread(_build, choice, settings.plugins)
        except VitalError as error:
            return Trouble(error.problem, error.mend)
        self._jobs = {job.key: job for job in jobs_of(plan)}
        self._playing = asyncio.create_task(self._play(self._engine, settings))
        self._playing.add_done_callback(self._ended)
        return self._engine.info

    async def give(self, keys: tuple[Key, ...]) -> None:
        """Take episodes that look at the same video into the schedule."""
        self._inbox.put_nowait(tuple(self._jobs[key] for key in keys))

    async def record(self, key: Key) -> Record | Trouble:
        """Wait for the record of an episode; each can be asked for once. It may be asked for before it is given."""
        record = self._records.setdefault(key, asyncio.get_running_loop().create_future())
        if self._playing is not None and self._playing.done():
            self._ended(self._playing)
        try:
            return await record
        finally:
            del self._records[key]

    async def end(self) -> None:
        """Stop what is under way and free everything. Ending twice is fine."""
        if self._playing is not None:
            self._playing.cancel()
            await asyncio.gather(self._playing, return_exceptions=True)
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    async def _play(self, engine: Engine, settings: Settings) -> None:
        async with Player(engine, settings) as player:
            await play_groups(self._groups(), player, self._keep, settings)

    async def _groups(self) -> AsyncIterator[tuple[Job, ...]]:
        while True:
            yield await self._inbox.get()

    async def _keep(self, job: Job, record: Record) -> None:
        self._records.setdefault(job.key, asyncio.get_running_loop().create_future()).set_result(record)

    def _ended(self, playing: asyncio.Task[None]) -> None:
        """Answer everyone who waits: nothing will be played any more."""
        error = asyncio.CancelledError() if playing.cancelled() else playing.exception()
        for future in self._records.values():
            if future.done():
                continue
            if isinstance(error, VitalError):
                future.set_result(Trouble(error.problem, error.mend))
            elif error is None or isinstance(error, asyncio.CancelledError):
                future.cancel()
            else:
                future.set_exception(error)


def versions() -> dict[str, str]:
    """Return the versions that must be equal on the driver and all workers."""
    return {"vital-eval": vital_eval.__version__, "Python": ".".join(platform.python_version_tuple()[:2])}


def _check_folders(plan: RunPlan) -> None:
    for task_plan in plan.tasks:
        if not task_plan.data.folder.is_dir():
            raise VitalError(
                f"{task_plan.data.folder} does not exist there",
                "put the data root where every node sees it under the same path",
            )


def _build(choice: EngineChoice, plugins: tuple[Path, ...]) -> Engine:
    from vital_eval.cli.engine_options import with_options
    from vital_eval.registry import Registries

    factory = with_options(Registries(plugins).engines.load(choice.name), choice.name, choice.options)
    engine: Engine = factory(choice.checkpoint, choice.device, choice.dtype, choice.batch_size)
    return engine
