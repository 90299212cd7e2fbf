"""The options that name a judge; ``judge`` and ``score`` share them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from vital_eval.errors import VitalError

if TYPE_CHECKING:
    from vital_eval.judge.client import ChatJudge


def add_judge_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that name a judge of open-ended answers."""
    add = parser.add_argument_group("judge of open-ended answers").add_argument
    add("--judge-endpoint", metavar="URL", help="OpenAI-compatible server, for example http://localhost:8000/v1")
    add("--judge-model", metavar="NAME", help="the model's name there; give a dated or pinned one")
    add("--judge-api-key-env", metavar="NAME", help="environment variable that holds the key, where one is needed")
    add("--judge-plain-json", action="store_true", help="ask for JSON in words: for servers without json_schema")
    add("--judge-file", type=Path, metavar="FILE", help="where verdicts are kept, to be resumed and used again")
    add("--judge-concurrency", type=_count, default=8, metavar="N", help="questions under way (default: 8)")
    add("--judge-timeout", type=_seconds, default=60.0, metavar="S", help="seconds for one reply (default: 60)")


def judge_from_options(args: argparse.Namespace) -> ChatJudge | None:
    """Return the judge that the options name, ``None`` if they name none. Nothing is sent yet.

    Raises:
        VitalError: if endpoint or model is given without the other, the endpoint is not one, or the key's variable
            is not set.
    """
    if args.judge_endpoint is None and args.judge_model is None:
        if args.judge_file is not None:
            raise VitalError("--judge-file names no judge", "give --judge-endpoint and --judge-model too")
        return None
    for option in ("judge_endpoint", "judge_model"):
        if not getattr(args, option):
            flag = "--" + option.replace("_", "-")
            raise VitalError(f"{flag} is missing", "a judge needs both --judge-endpoint and --judge-model")
    from vital_eval.chat_server import Patience
    from vital_eval.judge.client import ChatJudge

    key = None
    if args.judge_api_key_env is not None:
        key = os.environ.get(args.judge_api_key_env)
        if not key:
            raise VitalError(
                f"the environment variable {args.judge_api_key_env!r} of --judge-api-key-env is not set",
                "put the key there, not on the command line",
            )
    return ChatJudge(
        args.judge_endpoint,
        args.judge_model,
        api_key=key,
        plain_json=args.judge_plain_json,
        concurrency=args.judge_concurrency,
        patience=Patience(reply_seconds=args.judge_timeout),
    )


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not a whole number") from error
    if not 1 <= number <= 1000:
        raise argparse.ArgumentTypeError("must be 1 to 1000")
    return number


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not a number of seconds") from error
    if not 0 < number < 86_400:
        raise argparse.ArgumentTypeError("must be above 0 and below a day")
    return number
