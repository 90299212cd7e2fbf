"""``vital-eval profile``: where the time of a run went."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from vital_eval.cli.output import complain, say, table

if TYPE_CHECKING:
    from vital_eval.run_profile import Profile, Rates, RunProfile, Stages

_TIME = ("task", "mode", "episodes", "s each", "median", "95 %")
_SIZE = ("task", "mode", "turns", "calls", "frames", "visual tokens", "prompt tokens", "cached %", "new tokens")
#: The letter of each stage in a bar.
_LETTERS = {
    "open": "o",
    "decode": "d",
    "queue": "q",
    "prefill": "p",
    "writing": "w",
    "engine": "e",
    "tool": "t",
    "other": ".",
}
_BAR = 36


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder; it may be running and is only read")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, sums instead of means")


def execute(args: argparse.Namespace) -> int:
    """Read and print."""
    import dataclasses
    import json

    from vital_eval.run_profile import NOT_RECORDED, profile_run

    profile = profile_run(args.run)
    if args.json:
        data = {**dataclasses.asdict(profile), "not_recorded": NOT_RECORDED}
        say(json.dumps(data, indent=1, allow_nan=False))
    else:
        _print(profile, NOT_RECORDED)
    if profile.untimed:
        complain(
            f"{profile.untimed} records of an older version do not say when their episode began, nor what opening, "
            "decoding and tools took: that is counted as 'other'"
        )
    if not profile.turns_timed:
        complain("the engine timed no turn: all time counts as outside of it")
    return 0


def _print(profile: RunProfile, not_recorded: tuple[str, ...]) -> None:
    rows = [*profile.cells, profile.whole]
    _print_whole(profile.whole, profile.rates)
    say("\nseconds of one episode, and where they went (episodes overlap)\n")
    say(table((*_TIME, f"0 %{'100 %':>{_BAR - 3}}"), [_time_row(row) for row in rows]))
    stages = [name for name in _LETTERS if getattr(profile.whole.stages, name)]
    say("\n" + "  ".join(f"{_LETTERS[name]} {name}" for name in stages))
    say("\nseconds, mean of one episode\n")
    say(table(("task", "mode", *stages), [_stage_row(row, stages) for row in rows]))
    say("\nsize, mean of one episode\n")
    say(table(_SIZE, [_size_row(row) for row in rows]))
    say("\nnot recorded:")
    for line in not_recorded:
        say(f"- {line}")


def _print_whole(whole: Profile, rates: Rates | None) -> None:
    say(
        f"{whole.episodes:,} episodes: {whole.frames:,} frames, {whole.visual_tokens:,} visual tokens, "
        f"{whole.new_tokens:,} new tokens"
    )
    if whole.failed:
        say(
            f"{whole.failed:,} more failed by infrastructure after {whole.failed_seconds:.1f} s together, "
            f"{whole.failed_engine_seconds:.1f} s of them with the engine"
        )
    if rates is None:
        say("wall-clock time: not known (the files' times contradict the records)")
        return
    say(
        f"{_long(rates.wall_seconds)}: {rates.episodes_per_second:.3g} episodes/s, "
        f"{rates.frames_per_second:.4g} frames/s, {rates.visual_tokens_per_second:.4g} visual tokens/s, "
        f"{rates.new_tokens_per_second:.4g} new tokens/s"
    )
    say(f"  ({rates.wall_clock})")
    if rates.pause_seconds is not None and rates.pause_seconds >= 1:
        say(f"  pauses left out, between resumes or between parts: {_long(rates.pause_seconds)}")
    under_way = f"on average {rates.episodes_under_way:.1f} episodes under way, {rates.requests_under_way:.1f} "
    if rates.engine_busy is None:
        say(f"{under_way}of them with the engine")
    else:
        bar = bar_text((rates.engine_busy, 1 - rates.engine_busy), "#-")
        say(f"engine busy  {bar}  {100 * rates.engine_busy:.0f} %\n{under_way}of them with the engine")


def bar_text(parts: Sequence[float], letters: str, width: int = _BAR) -> str:
    """Draw parts of a whole as letters, exactly ``width`` of them; ``""`` if all parts are 0.

    Args:
        parts: none below 0.
        letters: one for each part.
        width: of the bar.
    """
    whole = sum(parts)
    if not whole:
        return ""
    edges = [round(width * edge / whole) for edge in accumulate(parts, initial=0.0)]
    return "".join(letter * (end - start) for letter, (start, end) in zip(letters, pairwise(edges), strict=True))


def _time_row(row: Profile) -> tuple[str, ...]:
    return (
        *_place(row),
        str(row.episodes),
        _text(row.per_episode(row.seconds), 2),
        _text(row.median_seconds, 2),
        _text(row.p95_seconds, 2),
        bar_text([_stage(row.stages, name) for name in _LETTERS], "".join(_LETTERS.values())),
    )


def _stage_row(row: Profile, stages: Sequence[str]) -> tuple[str, ...]:
    return (*_place(row), *(_text(row.per_episode(_stage(row.stages, name)), 3) for name in stages))


def _stage(stages: Stages, name: str) -> float:
    seconds: float = getattr(stages, name)
    return seconds


def _size_row(row: Profile) -> tuple[str, ...]:
    return (
        *_place(row),
        _text(row.per_episode(row.turns), 2),
        _text(row.per_episode(row.tool_calls), 2),
        _text(row.per_episode(row.frames), 1),
        _text(row.per_episode(row.visual_tokens), 0),
        _text(row.per_episode(row.prompt_tokens), 0),
        _share(row.cached_tokens, row.prompt_tokens),
        _text(row.per_episode(row.new_tokens), 0),
    )


def _place(row: Profile) -> tuple[str, str]:
    return (row.task or "all", row.mode)


def _text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _share(part: float, whole: float) -> str:
    return _text(100 * part / whole if whole else None, 0)


def _long(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
