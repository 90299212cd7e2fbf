"""The work behind ``vital-eval data``: check files, play rollouts, filter by difficulty, build tool dialogues."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vital_eval.engine import Engine
from vital_eval.episode import Attempt
from vital_eval.errors import DataError, MediaError
from vital_eval.presets import preset
from vital_eval.protocol import Mode, Protocol, Sampling
from vital_eval.runner import StoppedError
from vital_eval.toolbox import Tool
from vital_eval.trajectory import StopReason
from vital_eval.video.resolve import resolve_video

from .curation import CLIP_NOISE, Filtered, Writer, difficulty_filter, passes, tool_cot_record
from .mtvr.checks import CheckReport, Fault, check_records
from .mtvr.files import Malformed, collect_records, form_of, read_rl
from .mtvr.records import Form, MtvrRecord, RlRecord, ToolCotRecord, records_hash
from .nano_dialogues import NotVisibleError
from .nano_mtvr import Counts, write_nano_mtvr
from .problems import Problem
from .rewards import Kind, Reward, read_solution, require_source, rollout_reward
from .rollouts import OpenVideo, Rollout, failed, roll_out
from .rolls import Roll, Rolls, RollStore
from .vital_views import RL_FRAMES, training_protocol

#: Stop after so many records in a row were lost to the machine.
_LOST_IN_A_ROW = 20


@dataclass(frozen=True, slots=True)
class FileReport:
    """What a check of one file found.

    Attributes:
        path: the file.
        form: of its records; ``None`` if that is not known.
        total: records it holds, 0 if it cannot be read.
        malformed: every record that is not in its form.
        kept: sound records.
        counts: see :class:`~.mtvr.checks.CheckReport`, of the well-formed records; empty if none is sound.
        examples: as ``counts``.
        error: why the file cannot be read, or why nothing in it is kept; else ``""``.
    """

    path: Path
    form: Form | None
    total: int = 0
    malformed: tuple[Malformed, ...] = ()
    kept: tuple[MtvrRecord, ...] = ()
    counts: Mapping[Fault, int] = field(default_factory=dict)
    examples: Mapping[Fault, tuple[str, ...]] = field(default_factory=dict)
    error: str = ""

    def all_counts(self) -> Mapping[str, int]:
        """Return everything that is wrong with records and with how many, kinds of malformed records first."""
        kinds = Counter(record.kind for record in self.malformed)
        return {**kinds, **{fault.value: count for fault, count in self.counts.items()}}


def check_file(path: Path, media_root: Path | None, form: Form | None, data_source: str | None) -> FileReport:
    """Check one file; nothing that is wrong with it is raised.

    Args:
        path: a JSON list of records.
        media_root: see :func:`~.mtvr.checks.check_records`.
        form: of its records; without it the name of the folder decides.
        data_source: of records that name none.
    """
    try:
        form = form or form_of(path)
        found = collect_records(path, form, data_source)
    except DataError as error:
        return FileReport(path, form, error=str(error))
    total = len(found.records) + len(found.malformed)
    if found.malformed and not found.records:
        nothing = f"nothing to train on: none of {total} records is in the form of {form}; mend them, or give --form"
        return FileReport(path, form, total, found.malformed, error=nothing)
    try:
        report = check_records(found.records, media_root)
    except DataError as error:
        return FileReport(path, form, total, found.malformed, error=str(error))
    return FileReport(path, form, total, found.malformed, report.kept, report.counts, report.examples)


def read_sound_rl(path: Path, data_source: str | None = None) -> tuple[RlRecord, ...]:
    """Read RL records of which every one is sound; whether their videos are there is not looked at.

    Args:
        path: a JSON list of RL records, in a folder of any name.
        data_source: of records that name none.

    Raises:
        DataError: if the file cannot be read, or one record is malformed or faulty.
    """
    records = read_rl(path, data_source)
    report: CheckReport[RlRecord] = check_records(records, None)
    if report.counts:
        raise DataError(
            f"{path} has faulty records: {report.summary()}", "write the sound ones with `data check --write-kept`"
        )
    return records


def require_media(records: Sequence[MtvrRecord], media_root: Path) -> None:
    """Refuse a media folder that holds not one of the records' videos: it is the wrong folder.

    Raises:
        DataError: with the first video that was looked for.
    """
    if not media_root.is_dir():
        raise DataError(f"{media_root} is no folder", "give the folder of the videos with --media-root")
    problem = ""
    for record in records:
        try:
            resolve_video(media_root, record.media.path)
        except MediaError as error:
            problem = problem or error.problem
        else:
            return
    raise DataError(f"{media_root} holds none of the videos ({problem})", "check --media-root")


def rollout_protocol(name: str, mode: Mode, temperature: float) -> Protocol:
    """Return how records are rolled: a preset with the sampler that training uses.

    Top-p and the repetition penalty are off, as DGRPO needs them. ``vital`` shows 64 frames of at most 224 x 224
    pixels, as its reinforcement stages do, not the frames of a benchmark.

    Args:
        name: ``nano`` or ``vital``.
        mode: ``cot`` or ``tool``.
        temperature: above 0.

    Raises:
        UnknownNameError: if there is no such preset.
        DataError: if every rollout would be the same.
    """
    if not temperature > 0:
        raise DataError(f"temperature {temperature:g} gives the same rollout every time", "use one above 0")
    plain = preset(name, mode, "")
    sampling = Sampling(max_new_tokens=plain.sampling.max_new_tokens, temperature=temperature, seed=plain.sampling.seed)
    if name == "vital":
        plain = training_protocol(mode, RL_FRAMES, sampling)
    return dataclasses.replace(plain, name=f"{plain.name}-rollouts", sampling=sampling)


def passing_score(reward: Reward) -> float:
    """Return what decides whether a rollout passes: the plain IoU of a span, both parts of a grounded answer.

    Training stretches some sources' IoU, so the same stretch of a task reward means different overlaps; the IoU does
    not. Where a question asks for a moment and an answer, the lesser of the two counts.
    """
    if "iou" not in reward.parts:
        return reward.task
    return min(reward.parts["iou"], reward.parts.get("qa", 1.0))


@dataclass(slots=True)
class RollTally:
    """How far the rollouts are.

    Attributes:
        total: records of the file.
        before: records that were rolled before this process began.
        done: records this process rolled.
        lost: records without all rollouts, by what the machine failed at; they are owed.
        example: the last of these, with its id.
    """

    total: int
    before: int
    done: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    example: str = ""

    @property
    def owed(self) -> int:
        """Records without rolls."""
        return self.total - self.before - self.done


async def roll_records(
    problems: Sequence[Problem],
    protocol: Protocol,
    tools: Mapping[str, Tool],
    engine: Engine,
    open_video: OpenVideo,
    store: RollStore,
    under_way: int,
    report: Callable[[RollTally], None],
) -> RollTally:
    """Play the rollouts of every owed record and keep each record as it is finished.

    Args:
        problems: of all records.
        protocol: see :func:`rollout_protocol`.
        tools: the protocol's tools by name.
        engine: plays; it is not closed.
        open_video: opens a record's video.
        store: has the number of rollouts and the threshold in its identity.
        under_way: records at a time.
        report: called after every record.

    Raises:
        StoppedError: if record after record is lost to the machine.
        RunLogError: if a line cannot be written.
    """
    begun = store.rolls
    rollouts, threshold = begun.identity.rollouts, begun.identity.threshold
    tally = RollTally(len(problems), len(begun.by_id))
    owed = iter([problem for problem in problems if problem.sample.id not in begun.by_id])
    in_a_row = 0

    async def work() -> None:
        nonlocal in_a_row
        for problem in owed:
            asked = problem.protocol(protocol)
            attempts = [Attempt(problem.sample, problem.kind, asked, tools, number) for number in range(rollouts)]
            played = await roll_out(attempts, engine, open_video, concurrency=rollouts)
            lost = next((rollout for rollout in played if failed(rollout)), None)
            if lost is None:
                store.append(_roll(problem, played, threshold))
                tally.done += 1
                in_a_row = 0
            else:
                tally.lost[_kind(lost)] += 1
                tally.example = f"{problem.sample.id}: {lost.trajectory.error or lost.trajectory.stop}"
                in_a_row += 1
            report(tally)
            if in_a_row >= _LOST_IN_A_ROW:
                raise StoppedError(
                    f"{in_a_row} records in a row failed, last {tally.example}",
                    "mend the cause and run the same command again to go on",
                )

    workers = [asyncio.create_task(work()) for _ in range(under_way)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return tally


def _roll(problem: Problem, played: Sequence[Rollout], threshold: float) -> Roll:
    rewards = [rollout_reward(rollout.trajectory, problem.score) for rollout in played]
    name = problem.sample.id
    scores = tuple(float(passing_score(reward)) for reward in rewards)
    return Roll(
        id=name,
        rewards=tuple(float(reward.total) for reward in rewards),
        task_scores=tuple(float(reward.task) for reward in rewards),
        scores=scores,
        passes=passes({name: scores}, threshold)[name],
        texts=tuple(tuple(turn.text for turn in rollout.trajectory.turns) for rollout in played),
    )


def _kind(rollout: Rollout) -> str:
    stop = rollout.trajectory.stop
    if stop is StopReason.MEDIA_FAILED:
        return f"{stop} ({rollout.trajectory.error.partition(':')[0]})"
    return stop.value


@dataclass(frozen=True, slots=True)
class FilteredRecords:
    """What the difficulty filter left.

    Attributes:
        kept: records to train on, in the order of their file.
        filtered: ids by how their rollouts went.
        missing: ids of records without rolls, which were left out.
        threshold: least score that passed.
    """

    kept: tuple[RlRecord, ...]
    filtered: Filtered
    missing: tuple[str, ...]
    threshold: float


def filter_records(
    records: Sequence[RlRecord], rolls: Rolls, *, allow_missing: bool, threshold: float | None = None
) -> FilteredRecords:
    """Keep the records that the policy solves sometimes.

    Args:
        records: exactly those that were rolled.
        rolls: see :class:`~.rolls.Rolls`.
        allow_missing: leave records without rolls out.
        threshold: least score that passes; that of the rolls if ``None``. No rollout is played again for another one.

    Raises:
        DataError: if the rolls are of other records, some are missing and must not be, or nothing is left.
    """
    found = records_hash(records)
    if rolls.identity.data != found:
        raise DataError(
            f"the rolls are of other records (data {rolls.identity.data}, these are {found})",
            "give the file that was rolled",
        )
    missing = tuple(record.id for record in records if record.id not in rolls.by_id)
    if missing and not allow_missing:
        raise DataError(
            f"{len(missing)} of {len(records)} records have no rolls: {_some(missing)}",
            "run `data roll` again, or leave them out with --allow-missing",
        )
    least = rolls.identity.threshold if threshold is None else threshold
    scores = {record.id: rolls.by_id[record.id].scores for record in records if record.id in rolls.by_id}
    filtered = difficulty_filter(passes(scores, least), rolls.identity.rollouts)
    chosen = frozenset(filtered.kept)
    kept = tuple(record for record in records if record.id in chosen)
    if not kept:
        raise DataError(
            f"nothing to train on: {len(filtered.all_passed)} records always pass, {len(filtered.none_passed)} never, "
            f"{len(missing)} have no rolls",
            "roll with another checkpoint, or filter with another --threshold",
        )
    return FilteredRecords(kept, filtered, missing, least)


@dataclass(frozen=True, slots=True)
class ToolCotBuilt:
    """Tool dialogues, and what none was written for.

    Attributes:
        records: the dialogues; they pass the checks.
        no_moment: ids of records that ask for no moment.
        not_visible: ids of nano records whose moment the view or the clip does not show.
    """

    records: tuple[ToolCotRecord, ...]
    no_moment: tuple[str, ...]
    not_visible: tuple[str, ...]


def grounding_records(records: Sequence[RlRecord]) -> tuple[RlRecord, ...]:
    """Return the records whose right answer is a span and nothing else: the rule for their clips needs one.

    Args:
        records: that passed the checks.

    Returns:
        The records with their solutions as start and end in seconds, those that state it as text too.

    Raises:
        DataError: if there are none.
    """
    sources = [(record, require_source(record.data_source or "")) for record in records]
    found = tuple(
        dataclasses.replace(record, solution=read_solution(source, record.solution).windows[0])
        for record, source in sources
        if source.kind is Kind.SPAN
    )
    if not found:
        raise DataError("no record asks for a moment", "tool dialogues are built from grounding records")
    return found


def build_tool_cot(
    records: Sequence[RlRecord], writer: Writer, seed: int, noise: float = CLIP_NOISE, decimals: int = 2
) -> ToolCotBuilt:
    """Write a tool dialogue for every grounding record.

    Args:
        records: RL records that passed the checks.
        writer: see :data:`~.curation.Writer`.
        seed: see :func:`~.curation.noisy_clip`, as the rest.
        noise: largest noise of a clip's ends.
        decimals: digits of the call's times.

    Raises:
        DataError: if a record has no video or duration, the writer has no words for it, or a dialogue does not pass
            the checks.
    """
    grounding = grounding_records(records)
    built: list[ToolCotRecord] = []
    hidden: list[str] = []
    for record in grounding:
        try:
            built.append(tool_cot_record(record, writer, seed, noise, decimals=decimals))
        except NotVisibleError:
            hidden.append(record.id)
    report = check_records(built, None)
    if report.counts:
        raise DataError(f"the dialogues have faults: {report.summary()}", "mend the thoughts")
    given = {record.id for record in grounding}
    return ToolCotBuilt(tuple(built), tuple(record.id for record in records if record.id not in given), tuple(hidden))


def write_new_nano(folder: Path, seed: int, per_source: int) -> Counts:
    """Write nano's files into a new folder, which appears when all of them are there.

    Args:
        folder: does not exist yet, or is empty.
        seed: see :func:`~.nano_mtvr.write_nano_mtvr`.
        per_source: records a file.

    Raises:
        DataError: if the folder holds something.
        OSError: if it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists and is not an empty folder", "choose a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        # mkdtemp makes private folders; a new folder below it has the rights that umask allows.
        inner = unfinished / "data"
        inner.mkdir()
        counts = write_nano_mtvr(inner, seed, per_source)
        inner.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return counts


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
