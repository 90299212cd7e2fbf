"""The command line: finds the command, loads only what it needs, and turns errors into one line."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, Protocol, cast

from vital_eval import __version__
from vital_eval.cli.output import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE, complain
from vital_eval.errors import VitalError

#: Command to its module below ``vital_eval.cli`` and its help. Only the chosen command's module is imported.
COMMANDS = {
    "demo": ("demo", "see it work: a small world, a small model, a real leaderboard, in minutes on a laptop"),
    "tasks": ("tasks", "list the benchmarks"),
    "doctor": ("doctor", "check this machine: packages, devices, decoders, engines, data"),
    "prepare": ("prepare", "check a benchmark's annotation files against its videos"),
    "run": ("run", "evaluate a checkpoint; the same command again resumes"),
    "serve": ("serve", "put a checkpoint behind an OpenAI-compatible server on this machine"),
    "rescore": (
        "rescore",
        "score a finished run, or its shards together, with today's parsers and scorers, without a model",
    ),
    "merge": ("merge", "put the shards of one run together into one run folder"),
    "profile": ("profile", "show where the time of a run went"),
    "data": ("data", "check, filter and build training data (MTVR's forms)"),
    "train": ("train", "train a checkpoint: four stages from supervised to reinforced, with and without the tool"),
    "score": ("score", "score predictions made elsewhere against the official annotation files"),
    "judge": ("judge", "have a language model judge a run's open-ended answers, beside the rules"),
    "compare": ("compare", "test two runs, or two modes of one run, against each other, task by task"),
    "board": ("board", "build a leaderboard from runs"),
}


class Command(Protocol):
    """What a command's module offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""
        ...

    def execute(self, args: argparse.Namespace) -> int:
        """Do the work and return the exit status."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    0: done. 1: an error, one line on standard error. 2: wrong arguments. 3: the run ended, but samples are owed.
    130: interrupted.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Titles and labels hold any character; a terminal or a log in an old encoding must not stop a command.
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        parser, commands = _parser(arguments)
        args, unknown = parser.parse_known_args(arguments)
        if unknown:
            complain(f"error: unknown arguments: {' '.join(unknown)}; see `vital-eval {args.command} --help`")
            raise SystemExit(EXIT_USAGE)
        status = commands[args.command].execute(args)
        if sys.stdout is not None:
            sys.stdout.flush()  # here a reader that is gone can still be told from an error
        return status
    except BrokenPipeError:
        # Whoever read the output has seen enough. What is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except (VitalError, OSError) as error:
        if "--debug" in arguments:
            raise
        complain(f"error: {_one_line(error)}")
        return EXIT_ERROR
    except KeyboardInterrupt:
        complain("interrupted")
        return EXIT_INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """A parser that complains in one line, as every other error does."""

    def error(self, message: str) -> NoReturn:
        complain(f"error: {message}; see `{self.prog} --help`")
        raise SystemExit(EXIT_USAGE)


def _parser(arguments: Sequence[str]) -> tuple[argparse.ArgumentParser, dict[str, Command]]:
    common = _Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show where an error comes from")
    parser = _Parser(
        prog="vital-eval",
        description="Does thinking with videos beat text-only chain of thought? Evaluation with evidence.",
    )
    parser.add_argument("--version", action="version", version=f"vital-eval {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands: dict[str, Command] = {}
    for name, (module, text) in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", parents=[common]
        )
        if name in arguments:
            commands[name] = cast(Command, importlib.import_module(f"vital_eval.cli.{module}"))
            commands[name].add_arguments(subparser)
    return parser, commands


def _one_line(error: VitalError | OSError) -> str:
    if isinstance(error, OSError):
        place = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{place}"
    return str(error)
