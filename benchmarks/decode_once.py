"""Frames decoded for ten questions on one long video in three modes: ours beside one decode per question per mode.

The video has 60 minutes (640 x 360, H.264, groups of 250 frames). In each of the modes direct, cot and tool, ten
questions look at all of it (2 fps, at most 256 frames of 384 x 384), and in the mode tool each also at ten seconds of
its own. Three ways, with the same decoder in the same kind of worker processes:

* peer: every episode decodes for itself, as harnesses do that loop over modes and questions;
* ours: the episodes share what the group holds (``Library``: one decode under way for all, kept until the last one);
* again: a second run over the frame store that the one before has filled.

What is counted are the packets handed to FFmpeg's decoders in all processes, one for each frame that is decoded (those
decoded to check the index, and those only to reach others, are among them). Pixels and times are compared episode by
episode. Wall-clock seconds depend on what else the machine does; the counts do not.

Run ``python benchmarks/decode_once.py`` (minutes, most of them the peer's), ``--quick`` for a video of one minute, and
``--repeats 3`` for medians and their spread; ways take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from decode_videos import CODECS, GROUP, RATE, write_video

from vital_eval.clip import Clip
from vital_eval.footage import Library
from vital_eval.protocol import View
from vital_eval.span import Span
from vital_eval.video.frame_store import StoreSettings
from vital_eval.video.worker import DecodeWorkers

MODES = ("direct", "cot", "tool")
QUESTIONS = 10
VIEW = View(fps=2.0, max_frames=256, min_pixels=4 * 28 * 28, max_pixels=384 * 384, clock=True)
CLIP_VIEW = View(fps=2.0, max_frames=64, min_pixels=4 * 28 * 28, max_pixels=224 * 224, clock=True)
FACTOR = 28
WORKERS = 2

#: The default decoder, which notes what it hands to FFmpeg.
_PLUGIN = """
from pathlib import Path
from vital_eval.video import sound_frames
from vital_eval.video.pyav_decoder import PyAVDecoder

NOTES = (Path(__file__).parent / "notes").open("ab", buffering=0)
plain = sound_frames.SoundFrames._packets

def counted(self):
    for packet in plain(self):
        if packet is not None and packet.size:
            NOTES.write(b".")  # appended whole, whoever else writes
        yield packet

sound_frames.SoundFrames._packets = counted

class Counting(PyAVDecoder):
    name = "counting"

def register(registries):
    registries.decoders.add("counting", lambda: Counting)
"""

#: What one episode saw: hashes of its clips.
Seen = tuple[str, ...]
Read = Callable[[Span | None, View], Awaitable[Clip]]


async def play(read: Read, mode: str, question: int, seconds: float) -> Seen:
    """Look at what an episode looks at."""
    clips = [await read(None, VIEW)]
    if mode == "tool":
        start = (seconds - 10) * question / QUESTIONS
        clips.append(await read(Span(start, start + 10), CLIP_VIEW))
    return tuple(fingerprint(clip) for clip in clips)


def fingerprint(clip: Clip) -> str:
    """Return a hash of frames, times and span."""
    facts = repr((clip.frames.shape, clip.timestamps, clip.span)).encode()
    return hashlib.sha256(facts + clip.frames.tobytes()).hexdigest()


async def peer(video: Path, plugin: Path, seconds: float) -> list[Seen]:
    """Decode for every episode."""
    seen = []
    with DecodeWorkers(WORKERS, 600, (plugin,)) as workers:
        reader = workers.reader(video.parent, "counting")
        for mode in MODES:
            # All questions of a mode at once, so that no worker idles.
            seen += await asyncio.gather(
                *(
                    play(lambda span, view: reader.read(video.name, span, view, FACTOR), mode, question, seconds)
                    for question in range(QUESTIONS)
                )
            )
    return seen


async def ours(video: Path, plugin: Path, seconds: float, store: StoreSettings | None) -> list[Seen]:
    """Share what is decoded."""
    workers = DecodeWorkers(WORKERS, 600, (plugin,), store)
    async with Library(workers, FACTOR, cache_bytes=4 * 2**30) as library:
        shelf = library.shelf(video.parent, "counting")
        shelf.hold(video.name)
        await shelf.prefetch(video.name, VIEW)

        async def episode(mode: str, question: int) -> Seen:
            footage = await shelf.open(video.name)
            return await play(footage.read, mode, question, seconds)

        seen = await asyncio.gather(*(episode(mode, question) for mode in MODES for question in range(QUESTIONS)))
        shelf.drop(video.name)
    return list(seen)


def measure(way: Callable[[], Awaitable[list[Seen]]], notes: Path) -> tuple[list[Seen], int, float]:
    """Return what the episodes saw, packets handed to decoders, and wall-clock seconds."""
    notes.write_bytes(b"")

    async def go() -> list[Seen]:
        return await way()

    begin = time.perf_counter()
    seen = asyncio.run(go())
    return seen, notes.stat().st_size, time.perf_counter() - begin


def compare(folder: Path, stores: Path, groups: int, repeats: int) -> None:
    """Measure and print."""
    video = write_video(folder, CODECS[0], groups).path
    seconds = groups * GROUP / RATE
    plugin, notes = folder / "plugin.py", folder / "notes"
    plugin.write_text(_PLUGIN, encoding="utf-8")
    episodes = QUESTIONS * len(MODES)
    print(f"{seconds / 60:g} minutes, {groups * GROUP:,} frames; {episodes} episodes; {WORKERS} workers")
    ratios, times = [], []
    for repeat in range(repeats):
        store = StoreSettings(stores / f"store{repeat}", 2**34)
        ways = {
            "peer": lambda: peer(video, plugin, seconds),
            "ours": lambda: ours(video, plugin, seconds, None),
            "ours, filling the frame store": lambda store=store: ours(video, plugin, seconds, store),
            "again": lambda store=store: ours(video, plugin, seconds, store),
        }
        found = {name: measure(way, notes) for name, way in ways.items()}
        expected, decoded, wall = found["peer"]
        for name, (seen, count, spent) in found.items():
            same = "equal frames and times" if seen == expected else "OTHER FRAMES"
            print(f"  {name:<30} {count:>10,} frames decoded {spent:>8.1f} s   {same}", flush=True)
            if seen != expected:
                raise SystemExit(f"{name}: other frames than the peer")
        ratios.append(decoded / found["ours"][1])
        times.append(wall / found["ours"][2])
        print(f"  peer / ours: {ratios[-1]:.1f} x frames decoded, {times[-1]:.1f} x seconds", flush=True)
    spread = f"{min(ratios):.1f} to {max(ratios):.1f}, seconds {min(times):.1f} to {max(times):.1f}"
    print(
        f"median of {repeats}: {statistics.median(ratios):.1f} x frames, {statistics.median(times):.1f} x seconds "
        f"({spread})"
    )


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a video of one minute")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep the video there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        compare(folder, Path(temporary), 6 if given.quick else 360, given.repeats)


if __name__ == "__main__":
    main()
