"""The tables below the main one."""

from __future__ import annotations

from collections.abc import Sequence

from vital_eval.statistics.means import Estimate
from vital_eval.summary import OUTCOME_NAMES

from .board import Board
from .comparison import Comparison
from .published import published_tables
from .tables import NOTHING, TextTable, clean, interval, mode_text, p_text, percent, points, text_table

PAIRED_TITLE = "Tool minus text-only chain of thought"
ALL_PAIRS_TITLE = "All pairs"
OUTCOME_TITLE = "Outcomes"

PAIRED_NOTE = (
    "Tool minus text-only chain of thought in points, over the same samples, with the 95 % interval clustered by "
    "video. p: sign-flip permutation test by video. Holm p: adjusted over the benchmarks of the checkpoint; the "
    "verdict is Holm p below 0.05. The pooled line sums them up and is tested by itself. MDE: smallest difference that "
    "would be found in four of five cases, in points. Only one side right: counted where scores are 0 or 1. Over c "
    "videos that differ p cannot fall below 2 to the power of 1 - c, however large the difference."
)

ALL_PAIRS_NOTE = (
    "Every two measured rows that may be compared, the later minus the earlier, as above. BH p: adjusted over all "
    "rows of this table by Benjamini and Hochberg, which bounds the share of false claims among the claims, not the "
    "chance of any."
)

OUTCOME_NOTE = (
    "Every attempt has exactly one outcome and the counts add up to n. Only answered attempts can score; infra-failed "
    "and owed ones are neither right nor wrong and hold the number back."
)

TOOL_NOTE = "Calls over all attempts that ended. A run is INVALID when more than half of its tool calls fail."

COST_NOTE = (
    "Means per attempt. Seconds are from question to answer while episodes share a batch, so they tell waiting time, "
    "not machine time. Visual tokens are those in the last turn's context."
)

PRICE_NOTE = (
    "Cost of all attempts at a benchmark, wrong ones included, divided by what they scored together: per correct "
    "answer where every score is 0 or 1, else per unit of score (two answers of 0.5 make one). Benchmarks are not "
    "added up, for their units differ."
)

REPEAT_NOTE = (
    "Runs that answered every sample K times. Mean: over the answers, the headline. pass@K: score of the best of K. "
    "maj@K: score of the answer given most often, where answers can be equal. Variances of the scores between samples "
    "(an unbiased estimate, which may fall below 0) and between the answers to one sample."
)

GAIN_NOTE = (
    "Gain over the question alone as a share of what there was to gain: (with video - blind) / (100 - blind), in "
    "percent, with the 95 % interval clustered by video."
)

JUDGED_NOTE = (
    "Open answers by the rules alone, and with those that a judge calls right; the judge can only add. The board's "
    "numbers are the rules'."
)

PARTS_NOTE = (
    "The headline metric over the samples that share an attribute, with 95 % intervals clustered by video. Not "
    "adjusted for how many parts there are: a hint where to look, no test."
)

PROTOCOL_NOTE = "Equal hashes mean equal recipes. The whole recipe is in each run's manifest."


def further_tables(board: Board) -> tuple[TextTable, ...]:
    """Return the tables below the main one; tables without rows are left out."""
    tables = (
        _paired(board),
        _outcomes(board),
        _tools(board),
        _costs(board),
        _prices(board),
        _gains(board),
        _repeats(board),
        _judged(board),
        _all_pairs(board),
        _parts(board),
        _protocols(board),
        *published_tables([column.task for column in board.columns], board.floors),
    )
    return tuple(table for table in tables if table.rows)


def terminal_tables(board: Board) -> tuple[tuple[TextTable, ...], tuple[str, ...]]:
    """Return the tables a terminal shows, and the titles of those that only files do."""
    shown = (_paired_short(board), _outcomes(board), _tools(board), _costs(board), _gains(board), _judged(board))
    titles = {table.title for table in shown}
    rest = [table.title.partition(":")[0] for table in further_tables(board) if table.title not in titles]
    return tuple(table for table in shown if table.rows), tuple(dict.fromkeys(rest))


def comparison_texts(one: Comparison) -> tuple[str, ...]:
    """Return the cells of one comparison that :func:`comparison_header` names."""
    delta = one.difference
    if delta is None:
        dropped = str(one.dropped) if one.dropped else NOTHING
        return (*(NOTHING,) * 6, one.verdict, *(NOTHING,) * 3, dropped, NOTHING, NOTHING, one.note)
    values = (NOTHING, NOTHING) if one.values is None else tuple(map(percent, one.values))
    return (
        *values,
        points(delta),
        interval(delta.low, delta.high),
        p_text(one.p),
        p_text(one.adjusted),
        one.verdict,
        percent(one.detectable),
        str(delta.n),
        str(delta.clusters),
        str(one.dropped),
        _count(one.only_one),
        _count(one.only_other),
        one.note,
    )


def comparison_header(one: str, other: str, adjusted: str) -> tuple[str, ...]:
    """Return the names of the cells of :func:`comparison_texts`.

    Args:
        one: name of the side whose gain it is.
        other: name of the other side.
        adjusted: name of the adjustment.
    """
    rest = ("verdict", "MDE", "n", "clusters", "dropped", f"only {one} right", f"only {other} right", "remark")
    return (one, other, "difference", "95 % interval", "p", f"{adjusted} p", *rest)


def _count(value: int | None) -> str:
    return NOTHING if value is None else str(value)


def _paired(board: Board) -> TextTable:
    rows = [(one.label, one.title, one.metric, *comparison_texts(one)) for one in board.comparisons]
    header = ("checkpoint", "benchmark", "metric", *comparison_header("tool", "text", "Holm"))
    return text_table(PAIRED_TITLE, PAIRED_NOTE, header, rows, 3)


def _paired_short(board: Board) -> TextTable:
    return short_comparison_table(PAIRED_TITLE, PAIRED_NOTE, board.comparisons, ("tool", "text"), checkpoints=True)


def short_comparison_table(
    title: str, note: str, comparisons: Sequence[Comparison], sides: tuple[str, str], *, checkpoints: bool = False
) -> TextTable:
    """Return what fits a terminal; remarks stand below the table, before its note.

    Args:
        title: heading.
        note: what the numbers mean.
        comparisons: one family or several, adjusted by Holm's method.
        sides: names of both sides.
        checkpoints: whether a first column says what is compared.
    """
    dropped = any(one.dropped for one in comparisons)
    counted = any(one.only_one is not None for one in comparisons)
    header = [*(["checkpoint"] if checkpoints else []), "benchmark", *sides, "\u0394", "95 % interval"]
    # A board says below each title how many samples there are.
    sizes = [] if checkpoints else ["n", "clusters"]
    header += ["p", "Holm p", "verdict", "MDE", *sizes]
    header += [*(["dropped"] if dropped else []), *([f"only {sides[0]}/{sides[1]}"] if counted else [])]
    rows = []
    for one in comparisons:
        *texts, _ = comparison_texts(one)
        cells = [*([one.label] if checkpoints else []), one.title, *texts[: 8 + len(sizes)]]
        cells += [texts[10]] if dropped else []
        cells += [NOTHING if one.only_one is None else f"{one.only_one}/{one.only_other}"] if counted else []
        rows.append(cells)
    remarks = [
        f"{one.label}, {one.title}: {one.note}" if checkpoints else f"{one.title}: {one.note}"
        for one in comparisons
        if one.note
    ]
    return text_table(title, "\n".join([*map(clean, remarks), note]), header, rows, 2 if checkpoints else 1)


def _all_pairs(board: Board) -> TextTable:
    rows = [(one.title, one.metric, one.one, one.other, *comparison_texts(one)) for one in board.pairs]
    header = ("benchmark", "metric", "first row", "second row", *comparison_header("first", "second", "BH"))
    return text_table(ALL_PAIRS_TITLE, ALL_PAIRS_NOTE, header, rows, 4)


def _outcomes(board: Board) -> TextTable:
    rows = [
        (row.label, mode_text(row), *(str(row.outcomes[name]) for name in OUTCOME_NAMES), str(row.attempts))
        for row in board.rows
        if row.outcomes
    ]
    return text_table(OUTCOME_TITLE, OUTCOME_NOTE, ("checkpoint", "mode", *OUTCOME_NAMES, "n"), rows, 2)


def _tools(board: Board) -> TextTable:
    rows = []
    for row in board.rows:
        for title, tools in row.tools.items():
            errors = sorted(tools.errors.items(), key=lambda pair: (-pair[1], pair[0]))
            rows.append(
                (
                    row.label,
                    title,
                    str(tools.calls),
                    f"{tools.calls_per_attempt:.2f}",
                    percent(tools.success_share),
                    percent(tools.using_share),
                    ", ".join(f"{code} {count}" for code, count in errors) or NOTHING,
                    tools.verdict,
                )
            )
    header = ("checkpoint", "benchmark", "calls", "calls per attempt", "succeeding %", "attempts using %")
    return text_table("Tool health", TOOL_NOTE, (*header, "errors", "verdict"), rows, 2)


def _costs(board: Board) -> TextTable:
    rows = [
        (
            row.label,
            mode_text(row),
            f"{row.cost.seconds:.2f}",
            f"{row.cost.frames:.1f}",
            f"{row.cost.visual_tokens:.0f}",
            f"{row.cost.new_tokens:.1f}",
            f"{row.cost.turns:.2f}",
            str(row.cost.attempts),
        )
        for row in board.rows
        if row.cost is not None
    ]
    header = ("checkpoint", "mode", "seconds", "frames", "visual tokens", "new tokens", "turns", "attempts")
    return text_table("Cost", COST_NOTE, header, rows, 2)


def _prices(board: Board) -> TextTable:
    rows = [
        (
            row.label,
            mode_text(row),
            column.title,
            cell.price.unit,
            f"{cell.price.seconds:.2f}",
            f"{cell.price.frames:.1f}",
            f"{cell.price.visual_tokens:.0f}",
        )
        for row in board.rows
        for column, cell in zip(board.columns, row.cells, strict=True)
        if cell.price is not None
    ]
    header = ("checkpoint", "mode", "benchmark", "per", "seconds", "frames", "visual tokens")
    return text_table("Cost per correct answer", PRICE_NOTE, header, rows, 4)


def _gains(board: Board) -> TextTable:
    rows = [
        (
            one.label,
            one.mode,
            one.title,
            one.metric,
            percent(one.before),
            percent(one.after),
            NOTHING if one.gain is None else percent(one.gain.value),
            NOTHING if one.gain is None else interval(one.gain.low, one.gain.high),
            one.note,
        )
        for one in board.gains
    ]
    header = ("checkpoint", "mode", "benchmark", "metric", "blind", "with video", "gain", "95 % interval", "remark")
    return text_table("Gain over the question alone (\u0394knowledge)", GAIN_NOTE, header, rows, 4)


def _repeats(board: Board) -> TextTable:
    rows = [
        (
            one.label,
            one.mode,
            one.title,
            one.metric,
            str(one.attempts),
            *_with_interval(one.mean),
            *_with_interval(one.best),
            *_with_interval(one.majority),
            *((NOTHING, NOTHING) if one.spread is None else (f"{one.spread.between:.4f}", f"{one.spread.within:.4f}")),
        )
        for one in board.repeats
    ]
    figures = [name for figure in ("mean@K", "pass@K", "maj@K") for name in (figure, "95 %")]
    header = ("checkpoint", "mode", "benchmark", "metric", "K", *figures, "variance between", "within")
    return text_table("Repeated answers", REPEAT_NOTE, header, rows, 4)


def _judged(board: Board) -> TextTable:
    rows = []
    titles = {column.task: column.title for column in board.columns}
    for one in board.judged:
        figure = one.figure
        remark = f"{figure.failed} answers have no verdict" if figure.failed else ""
        if figure.owed:
            remark = "; ".join(filter(None, (f"provisional, {figure.owed} owed", remark)))
        rows.append(
            (
                one.label,
                figure.mode.value,
                titles.get(figure.task, figure.task),
                figure.metric,
                figure.judge,
                *_with_interval(figure.rules),
                *_with_interval(figure.judged),
                str(figure.sent),
                str(figure.failed),
                remark,
            )
        )
    header = ("checkpoint", "mode", "benchmark", "metric", "judge", "rules", "95 %", "judged", "95 %")
    return text_table("Judged", JUDGED_NOTE, (*header, "sent", "failed", "remark"), rows, 5)


def _parts(board: Board) -> TextTable:
    rows = [
        (
            one.title,
            one.part.attribute,
            one.part.value,
            one.label,
            one.mode,
            *_with_interval(one.part.estimate),
            str(one.part.estimate.n),
            str(one.part.estimate.clusters),
        )
        for one in board.parts
    ]
    # Rows of one part side by side; within it the board's order, which the stable sort keeps.
    places: dict[tuple[str, str, str], int] = {}
    for row in rows:
        places.setdefault(row[:3], len(places))
    rows.sort(key=lambda row: places[row[:3]])
    header = ("benchmark", "attribute", "value", "checkpoint", "mode", "score", "95 % interval", "n", "clusters")
    return text_table("Break-downs", PARTS_NOTE, header, rows, 5)


def _protocols(board: Board) -> TextTable:
    rows = []
    for row in board.rows:
        by_hash: dict[str, list[str]] = {}
        for title, value in row.protocols.items():
            by_hash.setdefault(value, []).append(title)
        runs = ", ".join(sorted({run for cell in row.cells for run in cell.runs}))
        rows += [
            (row.label, mode_text(row), row.badge, value, ", ".join(titles), runs) for value, titles in by_hash.items()
        ]
    header = ("checkpoint", "mode", "protocol", "hash", "benchmarks", "runs")
    return text_table("Protocols", PROTOCOL_NOTE, header, rows, 6)


def _with_interval(estimate: Estimate | None) -> tuple[str, str]:
    if estimate is None or estimate.value is None:
        return (NOTHING, NOTHING)
    return (percent(estimate.value), interval(estimate.low, estimate.high))
