"""``vital-eval run``: evaluate a checkpoint, or resume."""

from __future__ import annotations

import argparse
import asyncio
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vital_eval.cli.on_cluster import check_ray_options, ray_crew
from vital_eval.cli.output import say, table
from vital_eval.cli.run_options import (
    add_run_arguments,
    frame_store,
    merge_config,
    parse_modes,
    read_protocol,
    split_names,
    with_subtitles,
)
from vital_eval.errors import VitalError

if TYPE_CHECKING:
    from vital_eval.conversation import Conversation
    from vital_eval.plan import RunPlan
    from vital_eval.registry import Registries
    from vital_eval.settings import Settings
    from vital_eval.video.worker import DecodeWorkers

#: ``--show`` prints frame times only, so any frame size will do; no model is loaded.
_ANY_FACTOR = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_run_arguments(parser)


def execute(args: argparse.Namespace) -> int:
    """Plan, then show or carry out."""
    from vital_eval.registry import Registries

    options = merge_config(args)
    check_ray_options(options)
    store = frame_store(options)
    registries = Registries(tuple(options.plugin))
    registries.engines.require(options.engine)
    if options.dry_run:
        _print_plan(plan_run(options, registries))
        return 0
    if options.show:
        asyncio.run(_show(plan_run(options, registries), options.show, tuple(options.plugin)))
        return 0
    from vital_eval.settings import Settings

    settings = Settings(
        concurrency=options.concurrency or 2 * options.batch_size,
        decode_workers=options.decode_workers,
        cache_bytes=int(options.cache_gib * 2**30),
        frame_store=store,
        plugins=tuple(options.plugin),
    )
    with settings.make_workers() as workers:
        if options.ray is None:
            workers.start()  # their libraries are read while the annotations and the model are
        return _carry_out(options, registries, settings, workers)


def _carry_out(options: argparse.Namespace, registries: Registries, settings: Settings, workers: DecodeWorkers) -> int:
    plan = plan_run(options, registries)
    if options.checkpoint is None and options.base_url is None:
        raise VitalError("--checkpoint is missing", "give the folder of a checkpoint")
    # The model comes last: every cheap mistake has been found by now.
    from vital_eval.cli.carry_out import carry_out, carry_out_with, check_folder
    from vital_eval.cli.engine_options import server_options, with_options

    check_folder(plan, options.out, options.label)
    texts = [*options.engine_option, *server_options(options.base_url, options.model, options.transport)]
    if options.ray is not None:
        return carry_out_with(plan, ray_crew(options, plan, settings, texts), options.out, options.label)
    factory = with_options(registries.engines.load(options.engine), options.engine, texts)
    engine = factory(options.checkpoint, options.device, options.dtype, options.batch_size)
    return carry_out(plan, engine, options.out, settings, workers, options.label)


def plan_run(options: argparse.Namespace, registries: Registries) -> RunPlan:
    """Read the tasks and build the plan that the options describe.

    Raises:
        VitalError: if anything the options name does not exist or does not fit.
    """
    from vital_eval.data_root import TaskData, parse_shard, read_task, select
    from vital_eval.plan import TaskPlan, make_plan
    from vital_eval.presets import preset

    names = registries.tasks.names() if options.tasks == "all" else split_names(options.tasks, "task")
    for name in names:
        registries.tasks.require(name)
    protocols = tuple(read_protocol(path) for path in options.protocol)
    modes = parse_modes(options.modes)
    shard = parse_shard(options.shard) if options.shard else None
    plans = []
    for name in names:
        recipes = protocols or tuple(preset(options.preset or "vital", mode, name) for mode in modes)
        if options.subtitles:
            recipes = tuple(with_subtitles(recipe) for recipe in recipes)
        data = read_task(registries.tasks.load(name)(), options.data_root)
        chosen = select(data.samples, options.limit, shard)
        plans.append(TaskPlan(TaskData(data.task, data.folder, data.data_hash, chosen), recipes))
    return make_plan(tuple(plans), registries, attempts=options.attempts, limit=options.limit, shard=shard)


def _print_plan(plan: RunPlan) -> None:
    rows = [
        (
            task_plan.data.task.name,
            protocol.mode.value,
            protocol.name,
            protocol.hash,
            str(len(task_plan.data.samples)),
            str(len({sample.video for sample in task_plan.data.samples})),
        )
        for task_plan in plan.tasks
        for protocol in task_plan.protocols
    ]
    say(table(("task", "mode", "protocol", "hash", "samples", "videos"), rows))
    say(f"\n{plan.episodes} episodes" + (f", {plan.attempts} attempts each" if plan.attempts > 1 else ""))
    protocols = {protocol.hash: protocol for task_plan in plan.tasks for protocol in task_plan.protocols}
    if len(protocols) == 1:
        (protocol,) = protocols.values()
        say("\n" + json.dumps(protocol.to_json(), indent=2))


async def _show(plan: RunPlan, count: int, plugins: tuple[Path, ...]) -> None:
    """Print what the model would be told and shown, word for word and frame for frame."""
    from vital_eval.episode import frames_to_show, open_video, opening, subtitles_to_show, told_duration
    from vital_eval.errors import MediaError
    from vital_eval.footage import Videos
    from vital_eval.runner import Settings

    for task_plan in plan.tasks:
        shown = {sample.id for sample in task_plan.data.samples[:count]}
        for _, attempt in plan.jobs(task_plan):
            sample, protocol = attempt.sample, attempt.protocol
            if sample.id not in shown or attempt.number:
                continue
            say(f"=== {sample.task} {sample.id}, {protocol.mode}, {protocol.name} {protocol.hash}, {sample.video}")
            seconds = Settings().decode_seconds
            async with Videos(task_plan.data.videos, protocol.decoder, 1, seconds, _ANY_FACTOR, plugins) as videos:
                try:
                    footage = await open_video(attempt, partial(videos.open, sample.video))
                    clip = await frames_to_show(attempt, footage)
                except MediaError as error:
                    say(f"the video cannot be read: {error}\n")
                    continue
            subtitles, odd = await subtitles_to_show(attempt, clip)
            say(_transcript(opening(attempt, clip, told_duration(sample, footage), subtitles)))
            say("".join(f"[{word}]\n" for word in odd))


def _transcript(conversation: Conversation) -> str:
    from vital_eval.conversation import Message, TextPart

    lines = []
    for message in conversation:
        if isinstance(message, Message):
            lines.append(f"--- {message.role}")
            for part in message.parts:
                if isinstance(part, TextPart):
                    lines.append(part.text)
                else:
                    times = " ".join(f"{time:.3f}" for time in part.clip.timestamps)
                    lines.append(f"[{part.clip.count} frames at {times}]")
    return "\n".join(lines)
