"""Where the time of a run went, as far as its records tell."""

from __future__ import annotations

import datetime
from array import array
from dataclasses import dataclass, field
from pathlib import Path

from vital_eval.errors import RunLogError
from vital_eval.intervals import Intervals
from vital_eval.manifest import Entry, Manifest, read_manifest
from vital_eval.outcome import Outcome
from vital_eval.record import Record
from vital_eval.record_stream import stream_records
from vital_eval.run_log import RECORDS_NAME
from vital_eval.trajectory import Trajectory

#: What a reader of the figures would look for and will not find, each with what stands in for it.
NOT_RECORDED = (
    "what decoding took apart from waiting for a decoder: 'decode' and 'tool' hold both; videos that were decoded "
    "ahead show up in neither",
    "which machine an episode was played on: a run merged from parts, or with several workers, counts as busy while "
    "any of its engines was; profile parts one by one",
)

#: What the wall-clock time is where all episodes say when they began.
FROM_EPISODES = "time in which at least one episode was under way; pauses between resumes and loading the model are not"
#: What it is otherwise, and why to take it with care.
FROM_FILES = (
    "from the start in the manifest to the last change of the records' file, for the records are of an older version: "
    "pauses between resumes count, of a merged run it is from the first shard's start to the last one's end, and a "
    "folder that was copied or rescored has another"
)


@dataclass(frozen=True, slots=True)
class Stages:
    """Seconds of episodes by what they were spent on; they add up to the episodes' time.

    Attributes:
        open: until the video was found and probed; at the start of a run, until decoding processes were up.
        decode: until the frames shown with the question were there, waiting for a decoder included.
        queue: turns that waited for a batch to take them up.
        prefill: from then to the first token.
        writing: from the first token to the last.
        engine: turns whose parts the engine does not tell, queue, prefill and writing together.
        tool: tool calls, decoding their clips and waiting for a decoder included.
        other: the rest: subtitles, prompts, the harness itself; in records of older versions ``open``, ``decode`` and
            ``tool`` as well.
    """

    open: float = 0.0
    decode: float = 0.0
    queue: float = 0.0
    prefill: float = 0.0
    writing: float = 0.0
    engine: float = 0.0
    tool: float = 0.0
    other: float = 0.0

    def __add__(self, more: Stages) -> Stages:
        """Return both together."""
        return Stages(
            self.open + more.open,
            self.decode + more.decode,
            self.queue + more.queue,
            self.prefill + more.prefill,
            self.writing + more.writing,
            self.engine + more.engine,
            self.tool + more.tool,
            self.other + more.other,
        )


@dataclass(frozen=True, slots=True)
class Profile:
    """Time and size of the episodes of one task under one protocol, or of a whole run.

    Sums and means are over the episodes that ended, those that failed by infrastructure left out, unless said
    otherwise.

    Attributes:
        task: registry name, ``""`` for a whole run.
        mode: how the model reasoned, ``""`` for a whole run.
        protocol: hash of the protocol, ``""`` for a whole run.
        episodes: how many ended.
        failed: how many failed by infrastructure, those that were answered later included.
        failed_seconds: how long these took together.
        failed_engine_seconds: part of it in which a turn was with the engine, the one that was never written included.
        seconds: how long the episodes took together; they overlap.
        median_seconds: of one episode; ``None`` without episodes.
        p95_seconds: likewise, the 95th percentile (nearest rank).
        stages: ``seconds`` by what they were spent on.
        engine_seconds: part of ``seconds`` in which a turn was with the engine.
        outside_seconds: the other part.
        first_turn_seconds: part of ``engine_seconds`` that first turns took.
        turns: turns written.
        tool_calls: tool calls made.
        frames: frames shown, those of tool calls included.
        visual_tokens: video tokens in the context when the last turn was written, over all episodes.
        prompt_tokens: length of the prompts of all turns.
        cached_tokens: how many of them came from a cache of earlier turns.
        new_tokens: tokens written.
    """

    task: str
    mode: str
    protocol: str
    episodes: int
    failed: int
    failed_seconds: float
    failed_engine_seconds: float
    seconds: float
    median_seconds: float | None
    p95_seconds: float | None
    stages: Stages
    engine_seconds: float
    outside_seconds: float
    first_turn_seconds: float
    turns: int
    tool_calls: int
    frames: int
    visual_tokens: int
    prompt_tokens: int
    cached_tokens: int
    new_tokens: int

    def per_episode(self, total: float) -> float | None:
        """Return a mean; ``None`` without episodes."""
        return total / self.episodes if self.episodes else None


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast a run went as a whole; the means under way count failed episodes too.

    Attributes:
        wall_seconds: see ``wall_clock``.
        wall_clock: what that is: :data:`FROM_EPISODES` or :data:`FROM_FILES`.
        pause_seconds: time between the first and the last episode in which none was under way; ``None`` if not known.
        engine_busy: share of the wall-clock time in which at least one turn was with the engine; ``None`` if not known.
        episodes_per_second: finished episodes, failed ones left out.
        frames_per_second: shown by all episodes together.
        visual_tokens_per_second: of each video once, however many turns saw it.
        new_tokens_per_second: tokens written by all episodes together.
        episodes_under_way: mean number of episodes at a time.
        requests_under_way: mean number of turns that were with the engine.
    """

    wall_seconds: float
    wall_clock: str
    pause_seconds: float | None
    engine_busy: float | None
    episodes_per_second: float
    frames_per_second: float
    visual_tokens_per_second: float
    new_tokens_per_second: float
    episodes_under_way: float
    requests_under_way: float


@dataclass(frozen=True, slots=True)
class RunProfile:
    """Where the time of a run went.

    Attributes:
        cells: one per entry of the manifest, in its order.
        whole: all of them together.
        rates: ``None`` if the wall-clock time cannot be told, or contradicts the episodes' own times.
        untimed: episodes whose record, of an older version, lacks the time of some stages, failed ones included.
        turns_timed: whether any turn took time with the engine; if not, all time is counted outside of it.
    """

    cells: tuple[Profile, ...]
    whole: Profile
    rates: Rates | None
    untimed: int
    turns_timed: bool


def profile_run(folder: Path) -> RunProfile:
    """Read a run, which may be running, record by record and add up where its time went.

    A few dozen bytes are kept of every episode and 16 of every turn.

    Raises:
        RunLogError: if ``folder`` is not a run, is damaged, or holds no record yet.
    """
    manifest = read_manifest(folder)
    sums = {entry.key: _Sums() for entry in manifest.entries}
    whole, clock = _Sums(), _Clock()
    for stored in stream_records(folder, manifest):
        record = stored.record
        sums[record.task, record.protocol].add(record)
        whole.add(record)
        clock.add(record.trajectory)
    if not whole.seconds and not whole.failed:
        raise RunLogError(f"{folder} holds no records yet", "run it first")
    cells = tuple(_profile(entry, sums[entry.key]) for entry in manifest.entries)
    everything = _profile(None, whole)
    rates = _rates(folder, manifest, everything, clock)
    return RunProfile(cells, everything, rates, clock.untimed, everything.engine_seconds > 0)


class _Clock:
    """When episodes and their turns were under way."""

    def __init__(self) -> None:
        self.episodes = Intervals()
        self.turns = Intervals()
        self.longest = 0.0
        self.untimed = 0

    def add(self, episode: Trajectory) -> None:
        self.longest = max(self.longest, episode.seconds)
        if episode.began is None:
            self.untimed += 1
            return
        self.episodes.add(episode.began, episode.seconds)
        for turn in episode.turns:
            if turn.began is not None:
                self.turns.add(episode.began + turn.began, turn.seconds)
        if episode.unfinished_turn_began is not None:
            self.turns.add(episode.began + episode.unfinished_turn_began, _unfinished(episode))


@dataclass(slots=True)
class _Sums:
    seconds: array[float] = field(default_factory=lambda: array("d"))
    failed: int = 0
    failed_seconds: float = 0.0
    failed_engine_seconds: float = 0.0
    stages: Stages = field(default_factory=Stages)
    engine_seconds: float = 0.0
    outside_seconds: float = 0.0
    first_turn_seconds: float = 0.0
    turns: int = 0
    tool_calls: int = 0
    frames: int = 0
    visual_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0

    def add(self, record: Record) -> None:
        episode = record.trajectory
        engine = sum(turn.seconds for turn in episode.turns) + _unfinished(episode)
        if record.outcome is Outcome.INFRA_FAILED:
            self.failed += 1
            self.failed_seconds += episode.seconds
            self.failed_engine_seconds += engine
            return
        self.seconds.append(episode.seconds)
        self.engine_seconds += engine
        self.stages += _stages(episode)
        self.outside_seconds += max(0.0, episode.seconds - engine)
        self.first_turn_seconds += episode.turns[0].seconds if episode.turns else 0.0
        self.turns += len(episode.turns)
        self.tool_calls += len(episode.tool_calls)
        self.frames += len(episode.frame_times) + sum(len(call.frame_times) for call in episode.tool_calls)
        # A later turn's prompt holds the earlier turns' video; adding turns up would count it again.
        self.visual_tokens += max((turn.visual_tokens for turn in episode.turns), default=0)
        self.prompt_tokens += sum(turn.prompt_tokens for turn in episode.turns)
        self.cached_tokens += sum(turn.cached_tokens for turn in episode.turns)
        self.new_tokens += sum(turn.new_tokens for turn in episode.turns)


def _unfinished(episode: Trajectory) -> float:
    """Return the seconds that a turn was with the engine which was never written."""
    began = episode.unfinished_turn_began
    return 0.0 if began is None else max(0.0, episode.seconds - began)


def _stages(episode: Trajectory) -> Stages:
    queue = prefill = writing = 0.0
    engine = _unfinished(episode)
    for turn in episode.turns:
        rest = turn.writing_seconds
        if rest is None:
            engine += turn.seconds
        else:
            queue += turn.queue_seconds or 0.0
            prefill += turn.prefill_seconds or 0.0
            writing += rest
    opened, decoded = episode.open_seconds or 0.0, episode.decode_seconds or 0.0
    tool = sum(call.seconds or 0.0 for call in episode.tool_calls)
    # Times are rounded one by one; a negative rest is that.
    other = max(0.0, episode.seconds - opened - decoded - queue - prefill - writing - engine - tool)
    return Stages(opened, decoded, queue, prefill, writing, engine, tool, other)


def _profile(entry: Entry | None, sums: _Sums) -> Profile:
    ordered = sorted(sums.seconds)
    return Profile(
        task=entry.task if entry else "",
        mode=entry.protocol.mode.value if entry else "",
        protocol=entry.protocol.hash if entry else "",
        episodes=len(ordered),
        failed=sums.failed,
        failed_seconds=sums.failed_seconds,
        failed_engine_seconds=sums.failed_engine_seconds,
        seconds=sum(ordered),
        median_seconds=_quantile(ordered, 50),
        p95_seconds=_quantile(ordered, 95),
        stages=sums.stages,
        engine_seconds=sums.engine_seconds,
        outside_seconds=sums.outside_seconds,
        first_turn_seconds=sums.first_turn_seconds,
        turns=sums.turns,
        tool_calls=sums.tool_calls,
        frames=sums.frames,
        visual_tokens=sums.visual_tokens,
        prompt_tokens=sums.prompt_tokens,
        cached_tokens=sums.cached_tokens,
        new_tokens=sums.new_tokens,
    )


def _quantile(ordered: list[float], percent: int) -> float | None:
    """Return the nearest rank: the smallest value that at least so many percent do not exceed."""
    return ordered[-(-len(ordered) * percent // 100) - 1] if ordered else None


def _rates(folder: Path, manifest: Manifest, whole: Profile, clock: _Clock) -> Rates | None:
    active = clock.episodes.covered()
    if not clock.untimed and active > 0:
        return _rates_over(active, whole, FROM_EPISODES, clock.episodes.span - active, clock.turns.covered() / active)
    try:
        started = datetime.datetime.fromisoformat(manifest.created).timestamp()
        wall = (folder / RECORDS_NAME).stat().st_mtime - started
    except (OSError, ValueError):
        return None
    # An episode that took longer than the run: these files were moved about.
    if wall <= 0 or wall < clock.longest:
        return None
    return _rates_over(wall, whole, FROM_FILES, None, None)


def _rates_over(wall: float, whole: Profile, wall_clock: str, pauses: float | None, busy: float | None) -> Rates:
    return Rates(
        wall_seconds=wall,
        wall_clock=wall_clock,
        pause_seconds=pauses,
        engine_busy=busy,
        episodes_per_second=whole.episodes / wall,
        frames_per_second=whole.frames / wall,
        visual_tokens_per_second=whole.visual_tokens / wall,
        new_tokens_per_second=whole.new_tokens / wall,
        episodes_under_way=(whole.seconds + whole.failed_seconds) / wall,
        requests_under_way=(whole.engine_seconds + whole.failed_engine_seconds) / wall,
    )
