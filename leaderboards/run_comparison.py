"""Two runs, or two modes of one run, against each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vital_eval.errors import RunLogError
from vital_eval.protocol import Mode
from vital_eval.run_log import read_run
from vital_eval.statistics.families import holm

from .board import titles_of
from .comparison import Comparison, adjust, compare, compare_pooled
from .rules import MODE_ORDER, check_allowed, circumstances, obstacle
from .sides import Side, run_notes, sides_of


@dataclass(frozen=True, slots=True)
class Choice:
    """A run folder, or one mode of it.

    Attributes:
        folder: run folder.
        mode: ``None`` for every mode that it holds.
    """

    folder: Path
    mode: Mode | None = None

    def __str__(self) -> str:
        """Return what the user writes to choose it."""
        return str(self.folder) if self.mode is None else f"{self.folder}@{self.mode.value}"


@dataclass(frozen=True, slots=True)
class Section:
    """One family of tests: everything that two modes are compared on.

    Attributes:
        one: what A is.
        other: what B is.
        comparisons: A minus B per benchmark, with Holm's p over them, and pooled.
    """

    one: str
    other: str
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True, slots=True)
class RunComparison:
    """What ``compare`` shows.

    Attributes:
        sections: one per pair of modes.
        remarks: what every reader must know.
    """

    sections: tuple[Section, ...]
    remarks: tuple[str, ...]


def parse_choice(text: str) -> Choice:
    """Read ``FOLDER`` or ``FOLDER@MODE``; a folder whose name holds ``@`` is taken as it is.

    Raises:
        RunLogError: if there is no such mode.
    """
    folder, at, mode = text.rpartition("@")
    if not at or Path(text).is_dir():
        return Choice(Path(text))
    return Choice(Path(folder), parse_mode(mode))


def parse_mode(text: str) -> Mode:
    """Read the name of a mode.

    Raises:
        RunLogError: if there is no such mode.
    """
    try:
        return Mode(text)
    except ValueError as error:
        raise RunLogError(f"no mode {text!r}", f"modes: {', '.join(MODE_ORDER)}") from error


def compare_modes(run: Path, one: Mode, other: Mode, allowed: Collection[str] = ()) -> RunComparison:
    """Compare two modes of one run.

    Args:
        run: run folder.
        one: mode whose gain it is.
        other: mode it is held against.
        allowed: further protocol fields that may differ.

    Raises:
        RunLogError: if the folder is not a run, does not hold both modes, or nothing may be compared.
        ProtocolError: if ``allowed`` names no field.
    """
    if one is other:
        raise RunLogError(f"mode {one} against itself", "name two modes")
    sides, notes = _read(run)
    return _compared(run.resolve().name, sides, run.resolve().name, sides, [(one, other)], allowed, notes)


def compare_runs(one: Choice, other: Choice, allowed: Collection[str] = ()) -> RunComparison:
    """Compare two runs, mode by mode where no mode is chosen.

    Where a mode is chosen for one of them only, the other is taken in the same mode if it has it. Runs that share no
    mode are compared if each holds one.

    Args:
        one: run whose gain it is.
        other: run it is held against.
        allowed: further protocol fields that may differ.

    Raises:
        RunLogError: if a folder is not a run, it is not clear which modes are meant, or nothing may be compared.
        ProtocolError: if ``allowed`` names no field.
    """
    (ones, notes), (others, more) = _read(one.folder), _read(other.folder)
    names = one.folder.resolve().name, other.folder.resolve().name
    if names[0] == names[1]:
        names = str(one.folder), str(other.folder)
    modes = _modes(one, ones, other, others)
    return _compared(names[0], ones, names[1], others, modes, allowed, tuple(dict.fromkeys((*notes, *more))))


def _read(folder: Path) -> tuple[tuple[Side, ...], tuple[str, ...]]:
    manifest, records = read_run(folder)
    name = folder.resolve().name
    return sides_of(name, manifest, records), run_notes(name, manifest)


def _held(sides: Sequence[Side]) -> list[Mode]:
    return sorted({side.cell.mode for side in sides}, key=lambda mode: MODE_ORDER.index(mode.value))


def _modes(one: Choice, ones: Sequence[Side], other: Choice, others: Sequence[Side]) -> list[tuple[Mode, Mode]]:
    a = _held(ones) if one.mode is None else [one.mode]
    b = _held(others) if other.mode is None else [other.mode]
    if one.mode is not None and other.mode is not None:
        return [(one.mode, other.mode)]
    shared = [mode for mode in a if mode in b]
    if shared:
        return [(mode, mode) for mode in shared]
    if len(a) == len(b) == 1:
        return [(a[0], b[0])]
    raise RunLogError(
        f"{one} holds {', '.join(a)} and {other} holds {', '.join(b)}: it is not clear what to compare",
        "choose with FOLDER@MODE",
    )


def _compared(
    one: str,
    ones: Sequence[Side],
    other: str,
    others: Sequence[Side],
    modes: Sequence[tuple[Mode, Mode]],
    allowed: Collection[str],
    notes: Sequence[str],
) -> RunComparison:
    if allowed and ones:
        check_allowed(allowed, ones[0].entry.protocol)
    titles = {task: title for task, (title, _) in titles_of({side.entry.task for side in (*ones, *others)}).items()}
    sections = []
    remarks = list(notes)
    for mode_a, mode_b in modes:
        a, b = _by_task(one, ones, mode_a), _by_task(other, others, mode_b)
        pairs = [pair for task in sorted(a.keys() & b.keys()) for pair in _paired(a[task], b[task], allowed)]
        for name, only in ((one, a.keys() - b.keys()), (other, b.keys() - a.keys())):
            if only:
                remarks.append(f"Only {name} holds {', '.join(titles[task] for task in sorted(only))}.")
        remarks += [_circumstances(x, y) for x, y in pairs]
        sections.append(_section(pairs, titles, allowed))
    found = [one for section in sections for one in section.comparisons]
    if not any(one.difference is not None for one in found):
        reasons = dict.fromkeys(one.note.removeprefix("not compared: ") for one in found if one.task)
        why = "; ".join(reasons) or "they share no task"
        raise RunLogError(
            f"nothing in {one} and {other} may be compared: {why}",
            "allow a protocol field with --allow FIELD" if "protocol." in why else "compare like with like",
        )
    return RunComparison(tuple(sections), tuple(dict.fromkeys(filter(None, remarks))))


def _by_task(run: str, sides: Sequence[Side], mode: Mode) -> dict[str, list[Side]]:
    found: dict[str, list[Side]] = {}
    for side in sides:
        if side.cell.mode is mode:
            found.setdefault(side.entry.task, []).append(side)
    if not found:
        held = ", ".join(_held(sides)) or "nothing"
        raise RunLogError(f"run {run} holds no mode {mode}", f"it holds {held}; name them with --modes or RUN@MODE")
    return found


def _paired(ones: Sequence[Side], others: Sequence[Side], allowed: Collection[str]) -> list[tuple[Side, Side]]:
    """Pair each recipe of one task with the first of the other side that it may be compared with."""
    pairs = []
    left = list(others)
    for side in ones:
        if left:
            match = next((one for one in left if not obstacle(side, one, allowed)), left[0])
            left.remove(match)
            pairs.append((side, match))
    return pairs


def _circumstances(one: Side, other: Side) -> str:
    fields = circumstances(one.manifest, other.manifest)
    return f"The runs also differ in {', '.join(fields)}." if fields else ""


def _section(pairs: Sequence[tuple[Side, Side]], titles: Mapping[str, str], allowed: Collection[str]) -> Section:
    names = tuple(_name([pair[place] for pair in pairs]) for place in (0, 1))
    label = f"{names[0]} minus {names[1]}"
    sides = (names[0], names[1])
    found = [compare(label, titles[a.entry.task], a, b, names=sides, allowed=allowed, strict=False) for a, b in pairs]
    pooled = compare_pooled(label, pairs, names=sides, allowed=allowed, strict=False)
    return Section(names[0], names[1], adjust([*found, *([] if pooled is None else [pooled])], holm))


def _name(sides: Sequence[Side]) -> str:
    """Say who answered and how."""
    if not sides:
        return ""
    first = sides[0]
    return f"{first.manifest.label}, {first.cell.mode.value} (run {first.run})"
