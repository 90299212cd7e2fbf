"""``vital-eval data roll``: have a checkpoint try every RL record several times."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import math
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vital_eval.cli.output import EXIT_INTERRUPTED, EXIT_OWED, complain, say
from vital_eval.errors import DataError
from vital_eval.progress import LINE_SECONDS

if TYPE_CHECKING:
    from vital_eval.engine import Engine
    from vital_eval.protocol import Protocol
    from vital_eval.toolbox import Tool
    from vital_eval.training.data_run import RollTally
    from vital_eval.training.problems import Problem
    from vital_eval.training.rolls import Rolls, RollStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``roll`` but those of its file of records."""
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="DIR", help="local checkpoint folder (safetensors)")
    add("--media-root", type=Path, required=True, metavar="DIR", help="folder of the videos")
    add("--out", type=Path, required=True, metavar="FILE.jsonl", help="file of rolls, new or to be gone on with")
    add("--rollouts", type=positive, default=8, metavar="N", help="rollouts of each record (default: 8)")
    add("--temperature", type=_temperature, default=1.0, metavar="T", help="of the sampler (default: 1.0)")
    add("--mode", choices=("cot", "tool"), default="cot", help="cot (default) or tool")
    add("--preset", default="vital", metavar="NAME", help="vital (default) or nano")
    add(
        "--threshold",
        type=threshold,
        default=0.5,
        metavar="T",
        help="least score (IoU for moments) that passes (default: 0.5)",
    )
    add("--batch-size", type=positive, default=8, metavar="N", help="turns the engine writes together (default: 8)")
    add("--device", default="auto", help="torch device (default: auto)")
    add("--dtype", default="auto", help="of the weights: auto (default), bfloat16, float16, float32")
    add("--decode-workers", type=positive, default=2, metavar="N", help="decoding processes (default: 2)")
    add("--engine", default="hf", metavar="NAME", help="engine by name (default: hf)")
    add(
        "--engine-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the engine's own, such as tensor_parallel=2 of vllm (again for more)",
    )
    add("--plugin", type=Path, action="append", default=[], metavar="FILE.py", help="load more engines, decoders")


def execute(args: argparse.Namespace) -> int:
    """Find every cheap mistake, load the model, play what is owed, say what came of it."""
    from vital_eval.cli.engine_options import with_options
    from vital_eval.protocol import Mode
    from vital_eval.registry import Registries
    from vital_eval.training.data_run import read_sound_rl, require_media, rollout_protocol
    from vital_eval.training.mtvr.records import records_hash
    from vital_eval.training.problems import problems_of_records
    from vital_eval.training.rolls import RollIdentity, RollStore, read_rolls, refuse_others

    if args.out.resolve() == args.file.resolve():
        raise DataError(f"{args.out} would be written over its own input", "give another file with --out")
    registries = Registries(tuple(args.plugin))
    registries.engines.require(args.engine)
    protocol = rollout_protocol(args.preset, Mode(args.mode), args.temperature)
    records = read_sound_rl(args.file, args.data_source)
    problems = problems_of_records(records)
    require_media(records, args.media_root)
    # Records are asked word for word, so what they are asked by is the protocol without wordings of its own.
    asked = problems[0].protocol(protocol)
    stored = read_rolls(args.out)
    identity = RollIdentity(
        stored.identity.checkpoint if stored else "", asked, args.rollouts, records_hash(records), args.threshold
    )
    refuse_others(args.out, stored, identity)
    tools = {name: registries.tools.load(name)() for name in protocol.tools}
    factory = with_options(registries.engines.load(args.engine), args.engine, args.engine_option)
    engine = factory(args.checkpoint, args.device, args.dtype, args.batch_size)
    identity = dataclasses.replace(identity, checkpoint=engine.info.fingerprint)
    with RollStore.open(args.out, identity, [record.id for record in records]) as store:
        try:
            tally = asyncio.run(_play(args, problems, protocol, tools, engine, store))
        except (KeyboardInterrupt, asyncio.CancelledError):
            complain(
                f"interrupted: {len(store.rolls.by_id)} of {len(records)} records are rolled and kept in {args.out}; "
                "run the same command again to go on"
            )
            return EXIT_INTERRUPTED
        _tell(store.rolls, args.out)
    if not tally.owed:
        return 0
    kinds = ", ".join(f"{count} {kind}" for kind, count in tally.lost.most_common())
    complain(
        f"{tally.owed} of {tally.total} records are owed: {kinds} (last: {tally.example}); "
        "mend the cause and run the same command again"
    )
    return EXIT_OWED


async def _play(
    args: argparse.Namespace,
    problems: Sequence[Problem],
    protocol: Protocol,
    tools: Mapping[str, Tool],
    engine: Engine,
    store: RollStore,
) -> RollTally:
    from vital_eval.footage import Videos
    from vital_eval.runner import Settings
    from vital_eval.training.data_run import roll_records

    this = asyncio.current_task()
    if this is not None:
        # Batch systems end a job with SIGTERM; it deserves the same clean stop as Ctrl-C.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    videos = Videos(
        args.media_root,
        protocol.decoder,
        args.decode_workers,
        Settings().decode_seconds,
        engine.info.geometry.spatial_factor,
        tuple(args.plugin),
    )
    # One record more than fills a batch: it decodes while the others generate.
    under_way = 1 + math.ceil(args.batch_size / args.rollouts)
    try:
        async with videos:
            return await roll_records(problems, protocol, tools, engine, videos.open, store, under_way, _Lines())
    finally:
        await engine.close()


class _Lines:
    """One plain line every few seconds, and at the end."""

    def __init__(self) -> None:
        self._next = time.monotonic() + LINE_SECONDS

    def __call__(self, tally: RollTally) -> None:
        now, lost = time.monotonic(), tally.lost.total()
        if now >= self._next or tally.before + tally.done + lost == tally.total:
            self._next = now + LINE_SECONDS
            text = f"{tally.before + tally.done}/{tally.total} records rolled" + (f", {lost} failed" if lost else "")
            if sys.stderr is not None:
                sys.stderr.write(text + "\n")


def _tell(rolls: Rolls, out: Path) -> None:
    count = len(rolls.by_id)
    everyone = sum(all(roll.passes) for roll in rolls.by_id.values())
    nobody = sum(not any(roll.passes) for roll in rolls.by_id.values())
    passed = sum(sum(roll.passes) for roll in rolls.by_id.values())
    share = f"{passed / (count * rolls.identity.rollouts):.1%}" if count else "-"
    say(
        f"{count} records with {rolls.identity.rollouts} rollouts: {everyone} always pass, {nobody} never, "
        f"{count - everyone - nobody} sometimes; {share} of the rollouts pass (from {rolls.identity.threshold:g} on)"
    )
    say(f"rolls: {out}")


def positive(text: str) -> int:
    """Read a whole number above 0 for argparse."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not a whole number above 0")
    return int(text)


def threshold(text: str) -> float:
    """Read a score above 0 and at most 1 for argparse; from 0 on everything would pass."""
    value = _number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not a number above 0 and at most 1")
    return value


def _temperature(text: str) -> float:
    value = _number(text)
    if not (0 < value < math.inf):
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not a number above 0; at 0 all rollouts would be the same")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
