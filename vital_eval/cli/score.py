"""``vital-eval score``: official figures for predictions made elsewhere."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
from pathlib import Path
from typing import TYPE_CHECKING

from vital_eval.cli.judge_options import add_judge_arguments, judge_from_options
from vital_eval.cli.output import EXIT_OWED, complain, interval_text, percent_text, say, table
from vital_eval.errors import VitalError

if TYPE_CHECKING:
    from vital_eval.judge.client import ChatJudge
    from vital_eval.score_report import ScoreReport
    from vital_eval.statistics.means import Estimate

#: Faults of each kind that are written out; ``--json`` lists all of them.
_SHOWN_FAULTS = 5
_NOTHING = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("task", metavar="TASK", help="registry name of the benchmark (see `vital-eval tasks`)")
    parser.add_argument("--predictions", type=Path, required=True, metavar="FILE", help="JSON or JSON Lines")
    parser.add_argument("--data-root", type=Path, required=True, metavar="DIR", help="holds one folder per task")
    parser.add_argument(
        "--question-only",
        type=Path,
        metavar="FILE",
        help="predictions made without the video, for benchmarks that report the gain over them (Video-MMMU)",
    )
    parser.add_argument("--no-baselines", action="store_true", help="leave out what trivial answerers score")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--plugin", type=Path, action="append", default=[], metavar="FILE.py", help="load more tasks")
    add_judge_arguments(parser)


def execute(args: argparse.Namespace) -> int:
    """Read, score, print. The exit status is 3 if the file does not answer every question exactly once."""
    # All that is read lives until the end; looking for garbage in millions of records costs a third of the time.
    gc.disable()
    try:
        return _execute(args)
    finally:
        gc.enable()


def _execute(args: argparse.Namespace) -> int:
    from vital_eval.baseline_estimates import baseline_figures
    from vital_eval.data_root import read_submission_task
    from vital_eval.predictions import read_predictions
    from vital_eval.registry import Registries
    from vital_eval.score import fault_lines, score_predictions
    from vital_eval.score_report import make_report, score_question_only

    client = judge_from_options(args)
    task = Registries(tuple(args.plugin)).tasks.load(args.task)()
    data = read_submission_task(task, args.data_root)
    scored = score_predictions(task, data.samples, read_predictions(args.predictions, task.submission))
    question_only = None
    if args.question_only is not None:
        file = read_predictions(args.question_only, task.submission)
        question_only = score_question_only(task, data.samples, file)
    baselines = {} if args.no_baselines else baseline_figures(task, data.samples, task.training_moments(data.folder))
    report = make_report(scored, data.data_hash, baselines, question_only)
    status = 0
    if client is not None:
        store = args.judge_file or args.predictions.with_name(f"{args.predictions.name}.judge.jsonl")
        try:
            report, status = _judged(report, client, store)
        except VitalError:
            # What the rules say stands without the judge.
            _tell(report, args)
            raise
    _tell(report, args)
    for name, each in (("", scored), ("question-only ", question_only)):
        if each is None or each.clean:
            continue
        for line in fault_lines(each.faults, _SHOWN_FAULTS):
            complain(f"{name}{line}")
        if missing := each.counts["missing"]:
            complain(
                f"{name}missing: {missing} of {len(each.samples)} questions have no prediction and count as unanswered"
            )
    return status if scored.clean and (question_only is None or question_only.clean) else EXIT_OWED


def _tell(report: ScoreReport, args: argparse.Namespace) -> None:
    from vital_eval.score_report import report_to_json

    if args.json:
        say(json.dumps(report_to_json(report, args.predictions.name), indent=1))
    else:
        _print(report, args.predictions.name)


def _judged(report: ScoreReport, client: ChatJudge, path: Path) -> tuple[ScoreReport, int]:
    """Have the open answers judged; verdicts are kept in ``path`` and never asked for twice."""
    from vital_eval.cli.judging import counts_line, exit_status, judge_answers
    from vital_eval.judge.scored import judged, questions_of_scored
    from vital_eval.judge.verdicts import VerdictStore
    from vital_eval.score_report import with_judge
    from vital_eval.task import AnswerKind

    scored, task = report.scored, report.scored.task
    opened = [sample.id for sample in scored.samples if task.answer_kind(sample) is AnswerKind.OPEN]
    if not opened:
        raise VitalError(f"{task.name} has no open-ended questions", "leave the judge out")
    with VerdictStore.open(path, client.identity) as store:
        store.declare(task.name, report.data_hash, opened)
        done = asyncio.run(judge_answers(questions_of_scored(scored), client, store))
        complain(f"{counts_line(done)}; verdicts: {path}")
        verdicts = store.verdicts
    return with_judge(report, verdicts.judge, judged(scored, verdicts)), exit_status(done)


def _print(report: ScoreReport, predictions: str) -> None:
    scored, task = report.scored, report.scored.task
    clusters = len({sample.cluster for sample in scored.samples})
    size = f"{len(scored.samples)} questions about {clusters} videos"
    say(f"{task.title}: {predictions} on {size}, data {report.data_hash}")
    say(", ".join(f"{count} {outcome}" for outcome, count in scored.counts.items()))
    for reason, count in scored.reasons.items():
        say(f"  {count} x {reason}")
    say()
    rows = [
        (
            each.metric.name,
            *_value(each.all, task.digits),
            str(each.all.n),
            str(each.all.clusters),
            _value(each.answered, task.digits)[0],
            str(each.answered.n),
        )
        for each in report.figures
    ]
    say(table(("metric", "percent", "95 % interval", "n", "clusters", "answered only", "n"), rows))
    if report.gain is not None:
        say(f"\ngain over question-only, {task.gain_metric}: {_cell(report.gain, task.digits)} (n {report.gain.n})")
    elif report.question_only is not None:
        say(f"\ngain over question-only, {task.gain_metric}: withheld, questions of the question-only file are missing")
    _print_judged(report)
    _print_parts(report)
    _print_baselines(report)
    say(
        "\nIntervals are 95 %, clustered by video. 'answered only' leaves unanswered questions out and rewards silence."
    )


def _print_judged(report: ScoreReport) -> None:
    if not report.judge:
        return
    digits = report.scored.task.digits
    if report.judged is None:
        say(f"\njudged by {report.judge}: withheld until every answer has a verdict")
        return
    rules = {each.metric.name: each.all for each in report.figures}
    rows = [
        (name, _cell(rules[name], digits), _cell(each, digits), str(each.n)) for name, each in report.judged.items()
    ]
    say("\n" + table(("open answers", "rules", "rules, then judge", "n"), rows))
    say(f"judge: {report.judge}")


def _print_parts(report: ScoreReport) -> None:
    digits = report.scored.task.digits
    shown = [each for each in report.figures if each.parts]
    names = dict.fromkeys(part.attribute for each in shown for part in each.parts)
    for name in names:
        cells: dict[str, dict[str, str]] = {}
        sizes: dict[str, int] = {}
        for each in shown:
            for part in each.parts:
                if part.attribute == name:
                    sizes[part.value] = max(sizes.get(part.value, 0), part.estimate.n)
        for each in shown:
            for part in each.parts:
                if part.attribute == name:
                    own = part.estimate.n
                    size = "" if own == sizes[part.value] else f" n {own}"
                    cells.setdefault(part.value, {})[each.metric.name] = _cell(part.estimate, digits) + size
        heads = [each.metric.name for each in shown]
        rows = [
            (value, str(sizes[value]), *(row.get(head, _NOTHING) for head in heads)) for value, row in cells.items()
        ]
        say("\n" + table((name.replace("_", " "), "n", *heads), rows))


def _print_baselines(report: ScoreReport) -> None:
    if not report.baselines:
        return
    digits = report.scored.task.digits
    names = tuple(report.baselines)
    rows = [
        (
            each.metric.name,
            *(
                _cell(found, digits) if (found := report.baselines[name].get(each.metric.name)) else _NOTHING
                for name in names
            ),
        )
        for each in report.figures
    ]
    say("\n" + table(("without looking", *names), rows))


def _value(estimate: Estimate, digits: int) -> tuple[str, str]:
    if estimate.value is None:
        return _NOTHING, _NOTHING
    interval = interval_text(estimate.low, estimate.high, digits, missing="not estimable")
    return percent_text(estimate.value, digits), interval


def _cell(estimate: Estimate, digits: int) -> str:
    return " ".join(part for part in dict.fromkeys(_value(estimate, digits)))
