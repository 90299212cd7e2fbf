"""The options of ``vital-eval run``, from flags and from a ``run.toml`` with the same keys."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vital_eval.cli.option_types import positive
from vital_eval.data_root import parse_shard
from vital_eval.errors import ProtocolError, VitalError
from vital_eval.protocol import Mode, Protocol, protocol_from_json
from vital_eval.registry import suggest

if TYPE_CHECKING:
    from vital_eval.video.frame_store import StoreSettings

_STORE_GIB = 100.0
_MOST_GIB = 2**30
#: More than the largest node of a cluster has cores.
_MOST_PROCESSES = 1024
_REQUIRED = ("data_root", "out")
#: What an option is if neither a flag nor the file of --config sets it; ``None`` for the others. Kept out of the
#: parser, so that a flag which repeats a default still wins over the file.
_DEFAULTS: dict[str, Any] = {
    "tasks": "all",
    "label": "",
    "attempts": 1,
    "engine": "hf",
    "engine_option": [],
    "device": "auto",
    "dtype": "auto",
    "batch_size": 8,
    "decode_workers": 2,
    "cache_gib": 4.0,
    "protocol": [],
    "plugin": [],
    "subtitles": False,
    "dry_run": False,
}


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``run``."""
    add = parser.add_argument
    add("--config", type=Path, metavar="run.toml", help="read options from a file; flags win")
    add("--checkpoint", type=Path, metavar="DIR", help="local checkpoint folder (safetensors)")
    add("--data-root", type=Path, metavar="DIR", help="folder with one folder per task")
    add("--tasks", metavar="A,B", help="tasks by name, or all (default)")
    add("--modes", metavar="M,M", help="of blind, direct, cot, tool (default: all four)")
    add("--preset", metavar="NAME", help="ready-made protocols: vital (default) or nano")
    add(
        "--protocol",
        type=Path,
        action="append",
        metavar="FILE",
        help="protocol file (.json or .toml) instead of a preset",
    )
    add(
        "--subtitles",
        action="store_true",
        default=None,
        help="give subtitles with the question, in all modes but blind",
    )
    add("--out", type=Path, metavar="DIR", help="run folder, new or to be resumed")
    add("--label", metavar="TEXT", help="name of the checkpoint in tables")
    add("--limit", type=positive, metavar="K", help="K samples per task, always the same ones; the run is marked")
    add("--shard", type=_shard, metavar="I/N", help="one of N parts of every task; `vital-eval merge` joins them")
    add("--attempts", type=positive, metavar="K", help="answers per sample; needs a temperature above 0")
    add("--engine", metavar="NAME", help="engine by name: hf (default), openai, vllm, or a plugin's")
    add("--base-url", metavar="URL", help="of openai: the server, as http://localhost:8000/v1; no --checkpoint")
    add("--model", metavar="NAME", help="of openai: the model's name there, if it has several")
    add("--transport", metavar="NAME", help="of openai: mp4-rgb (default), video-jpeg or images; see docs/server.md")
    add(
        "--engine-option",
        action="append",
        metavar="NAME=VALUE",
        help="an option of the engine's own, such as tensor_parallel=2 of vllm (again for more; docs/engines.md)",
    )
    add("--device", help="torch device (default: auto)")
    add("--dtype", help="of the weights: auto (default), bfloat16, float16, float32")
    add("--batch-size", type=positive, metavar="N", help="turns an engine writes together (default: 8; a GPU wants 64)")
    add(
        "--concurrency", type=positive, metavar="N", help="episodes under way an engine (default: twice the batch size)"
    )
    add("--decode-workers", type=_processes, metavar="N", help="decoding processes beside each engine (default: 2)")
    add("--cache-gib", type=_gigabytes, metavar="G", help="decoded clips kept in memory (default: 4)")
    add("--frame-store", type=Path, metavar="DIR", help="keep decoded frames there for later runs (default: nowhere)")
    add("--frame-store-gib", type=_gigabytes, metavar="G", help="size the store never exceeds (default: 100)")
    add("--ray", metavar="ADDRESS", help="spread the run: local (this machine), auto or host:port (a Ray cluster)")
    add("--ray-workers", type=positive, metavar="N", help="workers at a time (default: as many as fit)")
    add("--ray-gpus", type=_share, metavar="G", help="GPUs of a worker (default: 1 if there are any)")
    add("--plugin", type=Path, action="append", metavar="FILE.py", help="load more tasks, engines, tools, decoders")
    add("--dry-run", action="store_true", default=None, help="print what would run, without model and video")
    add(
        "--show",
        type=positive,
        metavar="N",
        help="print prompt and frame times of N samples per task and mode, then stop",
    )


def merge_config(args: argparse.Namespace) -> argparse.Namespace:
    """Fill options that no flag set from the file given with ``--config``, then from the defaults.

    Args:
        args: what argparse read; ``None`` where no flag was given.

    Raises:
        VitalError: if the file is missing or not TOML, names an unknown option, or gives a wrong type; or if a
            required option is set nowhere.
    """
    filed = {} if args.config is None else _read_config(args.config)
    merged = argparse.Namespace(
        **{key: filed.get(key, _DEFAULTS.get(key)) if value is None else value for key, value in vars(args).items()}
    )
    for key in _REQUIRED:
        if getattr(merged, key) is None and not (key == "out" and (merged.dry_run or merged.show)):
            flag = "--" + key.replace("_", "-")
            raise VitalError(f"{flag} is missing", f"give {flag}, or {key.replace('_', '-')} in the file of --config")
    if merged.protocol and (merged.preset or merged.modes or merged.subtitles):
        raise VitalError(
            "--protocol together with --preset, --modes or --subtitles", "a protocol file says it all; drop the others"
        )
    return merged


def parse_modes(text: str | None) -> tuple[Mode, ...]:
    """Read a comma-separated list of modes; all of them if there is none.

    Raises:
        VitalError: if a mode does not exist or is named twice.
    """
    if text is None:
        return tuple(Mode)
    names = split_names(text, "mode")
    known = [mode.value for mode in Mode]
    for name in names:
        if name not in known:
            raise VitalError(f"unknown mode {name!r}", suggest(name, known))
    return tuple(Mode(name) for name in names)


def split_names(text: str, what: str) -> tuple[str, ...]:
    """Read a comma-separated list of names.

    Raises:
        VitalError: if it is empty or names something twice.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise VitalError(f"no {what} given")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise VitalError(f"{what} {twice[0]!r} is named twice", "name it once")
    return names


def with_subtitles(protocol: Protocol) -> Protocol:
    """Return the protocol with subtitles; a blind one unchanged, because it shows the question only."""
    if protocol.mode is Mode.BLIND:
        return protocol
    return dataclasses.replace(protocol, name=f"{protocol.name}-subtitles", subtitles=True)


def frame_store(options: argparse.Namespace) -> StoreSettings | None:
    """Return where decoded frames are kept, ``None`` for nowhere.

    Raises:
        VitalError: if there is a size and no place.
    """
    if options.frame_store is None:
        if options.frame_store_gib is not None:
            raise VitalError("--frame-store-gib without --frame-store", "say where with --frame-store DIR")
        return None
    from vital_eval.video.frame_store import StoreSettings

    size = _STORE_GIB if options.frame_store_gib is None else options.frame_store_gib
    return StoreSettings(options.frame_store.absolute(), max(1, int(size * 2**30)))


def read_protocol(path: Path) -> Protocol:
    """Read a protocol file, JSON or TOML.

    Raises:
        ProtocolError: if it cannot be read or is not a protocol.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise ProtocolError(f"cannot read {path}: {error.strerror}", "check the path given with --protocol") from error
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{path} is not {path.suffix.lstrip('.') or 'json'}: {error}", "mend the file") from error
    if not isinstance(data, dict):
        raise ProtocolError(f"{path} does not hold one protocol", "write one object with the protocol's fields")
    return protocol_from_json(data)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise VitalError(f"cannot read {path}: {error.strerror}", "check the path given with --config") from error
    except (ValueError, RecursionError) as error:
        raise VitalError(f"{path} is not TOML: {error}", "mend the file") from error
    parser = argparse.ArgumentParser(add_help=False)
    add_run_arguments(parser)
    actions = {action.dest: action for action in parser._actions}
    known = {key.replace("_", "-") for key in actions} - {"config"}
    options: dict[str, Any] = {}
    for key, value in data.items():
        name = _dest(path, key, known)
        if name in options:
            raise VitalError(f"{path}: {key} is given twice", "give it once")
        options[name] = _value(path, key, value, actions[name])
    return options


def _dest(path: Path, key: str, known: set[str]) -> str:
    name = key.replace("_", "-")
    if name not in known:
        raise VitalError(f"{path}: unknown option {key!r}", suggest(name, known))
    return name.replace("-", "_")


def _value(path: Path, key: str, value: Any, action: argparse.Action) -> Any:
    """Read one value as the flag of the same name would."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise VitalError(f"{path}: {key} must be true or false, not {value!r}")
        return value
    values = value if isinstance(value, list) else [value]
    if any(isinstance(item, bool) or not isinstance(item, str | int | float) for item in values):
        raise VitalError(
            f"{path}: {key} cannot be {value!r}", f"write it as the flag --{key.replace('_', '-')} takes it"
        )
    if isinstance(action, argparse._AppendAction):
        kind = action.type if callable(action.type) else str
        return [kind(str(item)) for item in values]
    text = ",".join(str(item) for item in values)
    try:
        return action.type(text) if callable(action.type) else text
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise VitalError(f"{path}: {key} cannot be {value!r}: {error}") from error


def _processes(text: str) -> int:
    number = positive(text)
    if number > _MOST_PROCESSES:
        raise argparse.ArgumentTypeError(f"must be at most {_MOST_PROCESSES}")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not a number") from error


def _gigabytes(text: str) -> float:
    number = _number(text)
    if not 0 < number < _MOST_GIB:
        raise argparse.ArgumentTypeError(f"must be above 0 and below {_MOST_GIB:,}")
    return number


def _share(text: str) -> float:
    number = _number(text)
    if not 0 <= number < math.inf or (number > 1 and number != int(number)):
        raise argparse.ArgumentTypeError("must be 0, a part of one, or a whole number")
    return number


def _shard(text: str) -> str:
    try:
        return str(parse_shard(text))
    except VitalError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
