"""``vital-eval judge``: a language model judges a run's open-ended answers, beside the rules."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from vital_eval.cli.judge_options import add_judge_arguments, judge_from_options
from vital_eval.cli.judging import counts_line, exit_status, judge_answers
from vital_eval.cli.output import EXIT_INTERRUPTED, complain, figure_text, say, table
from vital_eval.errors import VitalError

if TYPE_CHECKING:
    from vital_eval.judge.figures import JudgedFigure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder; the verdicts go to RUN/judge.jsonl")
    parser.add_argument("--data-root", type=Path, required=True, metavar="DIR", help="the run's annotation files")
    parser.add_argument("--plugin", type=Path, action="append", default=[], metavar="FILE.py", help="load more tasks")
    add_judge_arguments(parser)


def execute(args: argparse.Namespace) -> int:
    """Collect the open answers, have judged what is owed, print both figures."""
    client = judge_from_options(args)
    if client is None:
        raise VitalError("no judge is named", "give --judge-endpoint and --judge-model")
    from vital_eval.data_root import read_task
    from vital_eval.judge.figures import judged_figures
    from vital_eval.judge.run_questions import questions_of_run
    from vital_eval.judge.verdicts import VERDICTS_NAME, VerdictStore
    from vital_eval.registry import Registries
    from vital_eval.run_log import read_run

    manifest, records = read_run(args.run)
    registries = Registries(tuple(args.plugin))
    names = dict.fromkeys(entry.task for entry in manifest.entries)
    tasks = {name: read_task(registries.tasks.load(name)(), args.data_root) for name in names}
    asked = questions_of_run(manifest, records, tasks)
    if not asked.scopes:
        say(f"{args.run} holds no open-ended questions; all its answers are scored by rule")
        return 0
    path = args.judge_file or args.run / VERDICTS_NAME
    with VerdictStore.open(path, client.identity) as store:
        for name, scope in asked.scopes.items():
            store.declare(name, scope.data_hash, scope.samples)
        try:
            report = asyncio.run(judge_answers(asked.questions, client, store))
        except (KeyboardInterrupt, asyncio.CancelledError):
            kept = len(store.verdicts.by_place)
            complain(f"interrupted: {kept} verdicts are kept in {path}; run the same command again to go on")
            return EXIT_INTERRUPTED
        verdicts = store.verdicts
    say(figures_table(judged_figures(manifest, records, verdicts)))
    say(f"\njudge: {verdicts.judge}")
    say(counts_line(report))
    say(f"verdicts: {path}")
    return exit_status(report)


def figures_table(figures: tuple[JudgedFigure, ...]) -> str:
    """Lay out the rules' figures beside the judged ones for a terminal."""
    head = ("task", "mode", "protocol", "metric", "n", "rules [95 %]", "judged [95 %]", "sent", "failed")
    return table(
        head,
        (
            (
                figure.task,
                figure.mode.value,
                figure.protocol_hash,
                figure.metric,
                str(figure.rules.n),
                "incomplete" if figure.owed else figure_text(figure.rules),
                # A figure that waits for samples or verdicts is no figure.
                "incomplete" if figure.owed else "withheld" if figure.judged is None else figure_text(figure.judged),
                str(figure.sent),
                str(figure.failed),
            )
            for figure in figures
        ),
    )
