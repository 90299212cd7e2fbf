"""``vital-eval serve``: a checkpoint behind the OpenAI chat completions protocol, on this machine."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from vital_eval.cli.option_types import positive
from vital_eval.cli.output import complain, say
from vital_eval.errors import VitalError

_LOOPBACK = "127.0.0.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="local checkpoint folder (safetensors)")
    add(
        "--host",
        default=_LOOPBACK,
        metavar="ADDRESS",
        help=f"where to listen (default: {_LOOPBACK}, here only)",
    )
    add("--port", type=_port, default=8000, metavar="N", help="0 takes a free one (default: 8000)")
    add("--device", default="auto", help="torch device (default: auto)")
    add("--dtype", default="auto", help="of the weights: auto (default), bfloat16, float16, float32")
    add("--batch-size", type=positive, default=8, metavar="N", help="turns written together (default: 8)")
    add(
        "--cache-gib",
        type=_size,
        default=2.0,
        metavar="N",
        help="memory for keys and values of conversations that may go on, and as much for clips (default: 2; 0: none)",
    )


def execute(args: argparse.Namespace) -> int:
    """Load the model and answer until Ctrl-C."""
    from vital_eval.engines.hf import load_engine
    from vital_eval.engines.openai_server import OpenAIServer

    memory = int(args.cache_gib * 2**30)
    engine = load_engine(args.checkpoint, args.device, args.dtype, args.batch_size, cache_bytes=memory)
    try:
        server = OpenAIServer(engine, args.host, args.port, clip_bytes=memory)
    except OSError as error:
        raise VitalError(
            f"cannot listen at {args.host}:{args.port} ({error.strerror})", "choose another --host or --port"
        ) from error
    # Batch systems end a job with SIGTERM; it deserves the same clean stop as Ctrl-C.
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        if args.host != _LOOPBACK:
            complain("there is no password: whoever reaches the address can use the server")
        say(f"{engine.info.model} at {server.address}, Ctrl-C ends it")
        _flush()
        server.serve()
    except KeyboardInterrupt:
        complain("ended")
    finally:
        signal.signal(signal.SIGTERM, before)
        server.close()
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _flush() -> None:
    """Hand the address to whoever waits for it at the other end of a pipe."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not a port")
    return int(text)


def _size(text: str) -> float:
    try:
        size = float(text)
    except ValueError:
        size = -1.0
    if not 0 <= size <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not a number of GiB")
    return size
