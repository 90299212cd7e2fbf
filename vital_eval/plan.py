"""What a run will do: which samples of which tasks, under which protocols."""

from __future__ import annotations

import datetime
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import vital_eval
from vital_eval.data_root import Shard, TaskData
from vital_eval.engine import EngineInfo
from vital_eval.episode import Attempt
from vital_eval.errors import ProtocolError
from vital_eval.manifest import Entry, Manifest
from vital_eval.protocol import Protocol
from vital_eval.record import Key
from vital_eval.registry import Registries
from vital_eval.subtitles import read_subtitles
from vital_eval.toolbox import Tool

#: Packages whose versions a manifest records.
PACKAGES = ("av", "decord", "numpy", "pillow", "safetensors", "tokenizers", "torch", "torchcodec", "transformers")


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """One task under the protocols that attempt it.

    Attributes:
        data: the task with the samples that are owed.
        protocols: how each of them is attempted.
    """

    data: TaskData
    protocols: tuple[Protocol, ...]


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A whole run.

    Attributes:
        tasks: in the order of work.
        tools: every tool that a protocol offers, by name.
        attempts: answers wanted per sample.
        limit: samples per task, ``None`` for all.
        shard: the part of every task, ``None`` for all.
    """

    tasks: tuple[TaskPlan, ...]
    tools: Mapping[str, Tool]
    attempts: int = 1
    limit: int | None = None
    shard: Shard | None = None

    @property
    def episodes(self) -> int:
        """Number of episodes in the whole run."""
        return self.attempts * sum(len(plan.data.samples) * len(plan.protocols) for plan in self.tasks)

    def jobs(self, plan: TaskPlan) -> Iterator[tuple[Key, Attempt]]:
        """Yield every attempt of one task with its key; those at one sample follow each other.

        Args:
            plan: one of :attr:`tasks`.
        """
        task = plan.data.task
        for sample in plan.data.samples:
            kind = task.answer_kind(sample)
            name = task.subtitles(sample)
            subtitles = None if name is None else partial(read_subtitles, plan.data.folder, name)
            for protocol in plan.protocols:
                tools = {name: self.tools[name] for name in protocol.tools}
                for number in range(self.attempts):
                    key = (task.name, protocol.hash, sample.id, number)
                    yield key, Attempt(sample, kind, protocol, tools, number, subtitles)


def make_plan(
    tasks: tuple[TaskPlan, ...],
    registries: Registries,
    *,
    attempts: int = 1,
    limit: int | None = None,
    shard: Shard | None = None,
) -> RunPlan:
    """Check the protocols against what is registered and build the plan.

    Raises:
        UnknownNameError: if a protocol names a tool or decoder that is not registered.
        ProtocolError: if a protocol asks for something that the harness cannot do.
    """
    tools: dict[str, Tool] = {}
    for plan in tasks:
        for protocol in plan.protocols:
            registries.decoders.require(protocol.decoder)
            if protocol.subtitles and not _has_subtitles(plan.data):
                raise ProtocolError(
                    f"protocol {protocol.name} asks for subtitles, which task {plan.data.task.name} does not have",
                    "leave the task out, or do without subtitles",
                )
            if attempts > 1 and protocol.sampling.temperature == 0:
                raise ProtocolError(
                    f"{attempts} attempts with greedy decoding would be the same {attempts} times",
                    "set a temperature above 0, or ask for one attempt",
                )
            for name in protocol.tools:
                if name not in tools:
                    tools[name] = registries.tools.load(name)()
    return RunPlan(tasks, tools, attempts, limit, shard)


def _has_subtitles(data: TaskData) -> bool:
    # A shard without samples refuses nothing.
    return not data.samples or any(data.task.subtitles(sample) is not None for sample in data.samples)


def make_manifest(plan: RunPlan, engine: EngineInfo, label: str) -> Manifest:
    """Describe a run for its folder.

    Args:
        plan: what it will do.
        engine: who answers.
        label: the checkpoint's name as shown in tables.
    """
    # One list for all protocols of a task, and in memory once.
    samples = [tuple((sample.id, sample.cluster) for sample in task_plan.data.samples) for task_plan in plan.tasks]
    entries = tuple(
        Entry(
            task=task_plan.data.task.name,
            scorer_version=task_plan.data.task.scorer_version,
            primary=task_plan.data.task.primary,
            metrics={metric.name: metric.score for metric in task_plan.data.task.metrics},
            protocol=protocol,
            data_hash=task_plan.data.data_hash,
            samples=owed,
            tools={name: _hash_schema(plan.tools[name]) for name in protocol.tools},
        )
        for task_plan, owed in zip(plan.tasks, samples, strict=True)
        for protocol in task_plan.protocols
    )
    return Manifest(
        label=label,
        engine=engine,
        entries=entries,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        vital_eval=vital_eval.__version__,
        attempts=plan.attempts,
        limit=plan.limit,
        shard=None if plan.shard is None else str(plan.shard),
        packages=installed_packages(),
        git_commit=_git_commit(),
    )


def _hash_schema(tool: Tool) -> str:
    text = json.dumps(tool.schema(), sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def installed_packages() -> dict[str, str]:
    """Return the versions of :data:`PACKAGES` that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git_commit() -> str:
    """Return the commit of the source tree that is running, ``""`` if it is an installed copy or git is missing."""
    tree = Path(vital_eval.__file__).resolve().parent.parent
    git = shutil.which("git")
    if git is None or not (tree / ".git").exists():
        return ""
    done = subprocess.run(  # noqa: S603 - a fixed command without anyone else's words in it
        [git, "-C", str(tree), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""
