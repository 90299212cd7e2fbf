"""``vital-eval profile``: where the time of a run went."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vital_eval.cli.output import complain, say, table

if TYPE_CHECKING:
    from vital_eval.run_profile import Profile, RunProfile

_TIME = ("task", "mode", "episodes", "s each", "median", "95 %", "engine s", "first turn s", "outside s", "outside %")
_SIZE = ("task", "mode", "turns", "calls", "frames", "visual tokens", "prompt tokens", "cached %", "new tokens")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder; it may be running and is only read")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, sums instead of means")


def execute(args: argparse.Namespace) -> int:
    """Read and print."""
    import dataclasses
    import json

    from vital_eval.run_profile import NOT_RECORDED, WALL_CLOCK, profile_run

    profile = profile_run(args.run)
    if args.json:
        notes = {"wall_clock": WALL_CLOCK, "not_recorded": NOT_RECORDED}
        say(json.dumps({**dataclasses.asdict(profile), **notes}, indent=1, allow_nan=False))
    else:
        _print(profile, WALL_CLOCK, NOT_RECORDED)
    if not profile.turns_timed:
        complain("the engine timed no turn: all time counts as outside of it")
    return 0


def _print(profile: RunProfile, wall_clock: str, not_recorded: tuple[str, ...]) -> None:
    rows = [*profile.cells, profile.whole]
    say("seconds, mean of one episode (episodes overlap)\n")
    say(table(_TIME, [_time_row(row) for row in rows]))
    say("\nsize, mean of one episode\n")
    say(table(_SIZE, [_size_row(row) for row in rows]))
    whole, rates = profile.whole, profile.rates
    say()
    if whole.failed:
        say(f"{whole.failed} episodes failed by infrastructure after {whole.failed_seconds:.1f} s together")
    if rates is None:
        say("wall-clock time: not known (the files' times contradict the records)")
    else:
        say(
            f"wall-clock time {rates.wall_seconds:.0f} s: {rates.episodes_per_second:.3g} episodes/s, "
            f"{rates.new_tokens_per_second:.4g} new tokens/s; on average {rates.episodes_under_way:.2f} episodes under "
            f"way, {rates.requests_under_way:.2f} of them with the engine"
        )
        say(f"  ({wall_clock})")
    say("\nnot recorded:")
    for line in not_recorded:
        say(f"- {line}")


def _time_row(row: Profile) -> tuple[str, ...]:
    return (
        *_place(row),
        str(row.episodes),
        _text(row.per_episode(row.seconds), 2),
        _text(row.median_seconds, 2),
        _text(row.p95_seconds, 2),
        _text(row.per_episode(row.engine_seconds), 2),
        _text(row.per_episode(row.first_turn_seconds), 2),
        _text(row.per_episode(row.outside_seconds), 2),
        _share(row.outside_seconds, row.seconds),
    )


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
