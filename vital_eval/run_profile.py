"""Where the time of a run went, as far as its records tell."""

from __future__ import annotations

import datetime
from array import array
from dataclasses import dataclass, field
from pathlib import Path

from vital_eval.errors import RunLogError
from vital_eval.manifest import Entry, Manifest, read_manifest
from vital_eval.outcome import Outcome
from vital_eval.record import Record
from vital_eval.record_stream import stream_records
from vital_eval.run_log import RECORDS_NAME

#: What a reader of the figures would look for and will not find, each with what stands in for it.
NOT_RECORDED = (
    "decoding, waiting for a decoder, subtitles and tools one by one: 'outside s' is all of them together, the time of "
    "an episode in which no turn was with the engine",
    "queue, prefill and generation one by one: 'engine s' is from request to result, waiting for a place in the batch "
    "included",
    "when an episode or a turn began: the busy share of the engine cannot be derived; 'under way' is a mean over the "
    "whole run",
    "the turn during which an episode failed by infrastructure: such episodes are counted apart, with their whole time",
)

#: Why the wall-clock time is to be taken with care.
WALL_CLOCK = (
    "from the start in the manifest to the last change of the records' file: pauses between resumes count, of a merged "
    "run it is from the first shard's start to the last one's end, and a folder that was copied or rescored has another"
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
        seconds: how long the episodes took together; they overlap.
        median_seconds: of one episode; ``None`` without episodes.
        p95_seconds: likewise, the 95th percentile (nearest rank).
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
    seconds: float
    median_seconds: float | None
    p95_seconds: float | None
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
    """How fast a run went as a whole.

    Attributes:
        wall_seconds: see :data:`WALL_CLOCK`.
        episodes_per_second: finished episodes, failed ones left out.
        new_tokens_per_second: tokens written by all episodes together.
        episodes_under_way: mean number of episodes at a time, failed ones included.
        requests_under_way: mean number of turns that were with the engine.
    """

    wall_seconds: float
    episodes_per_second: float
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
        turns_timed: whether the engine timed its turns; if not, their time is counted outside of it.
    """

    cells: tuple[Profile, ...]
    whole: Profile
    rates: Rates | None
    turns_timed: bool


def profile_run(folder: Path) -> RunProfile:
    """Read a run, which may be running, record by record and add up where its time went.

    Raises:
        RunLogError: if ``folder`` is not a run, is damaged, or holds no record yet.
    """
    manifest = read_manifest(folder)
    sums = {entry.key: _Sums() for entry in manifest.entries}
    whole = _Sums()
    for stored in stream_records(folder, manifest):
        record = stored.record
        sums[record.task, record.protocol].add(record)
        whole.add(record)
    if not whole.seconds and not whole.failed:
        raise RunLogError(f"{folder} holds no records yet", "run it first")
    cells = tuple(_profile(entry, sums[entry.key]) for entry in manifest.entries)
    everything = _profile(None, whole)
    return RunProfile(cells, everything, _rates(folder, manifest, everything, whole), everything.engine_seconds > 0)


@dataclass(slots=True)
class _Sums:
    seconds: array[float] = field(default_factory=lambda: array("d"))
    failed: int = 0
    failed_seconds: float = 0.0
    longest: float = 0.0
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
        self.longest = max(self.longest, episode.seconds)
        if record.outcome is Outcome.INFRA_FAILED:
            self.failed += 1
            self.failed_seconds += episode.seconds
            return
        engine = sum(turn.seconds for turn in episode.turns)
        self.seconds.append(episode.seconds)
        self.engine_seconds += engine
        # The two clocks are read at different places; a negative rest is their resolution.
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


def _profile(entry: Entry | None, sums: _Sums) -> Profile:
    ordered = sorted(sums.seconds)
    return Profile(
        task=entry.task if entry else "",
        mode=entry.protocol.mode.value if entry else "",
        protocol=entry.protocol.hash if entry else "",
        episodes=len(ordered),
        failed=sums.failed,
        failed_seconds=sums.failed_seconds,
        seconds=sum(ordered),
        median_seconds=_quantile(ordered, 50),
        p95_seconds=_quantile(ordered, 95),
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


def _rates(folder: Path, manifest: Manifest, whole: Profile, sums: _Sums) -> Rates | None:
    try:
        started = datetime.datetime.fromisoformat(manifest.created).timestamp()
        wall = (folder / RECORDS_NAME).stat().st_mtime - started
    except (OSError, ValueError):
        return None
    # An episode that took longer than the run: these files were moved about.
    if wall <= 0 or wall < sums.longest:
        return None
    return Rates(
        wall_seconds=wall,
        episodes_per_second=whole.episodes / wall,
        new_tokens_per_second=whole.new_tokens / wall,
        episodes_under_way=(whole.seconds + whole.failed_seconds) / wall,
        requests_under_way=whole.engine_seconds / wall,
    )
