"""How long a run takes beside lock-step batches, and beside the least that its work allows; how long the loop stalls.

Run ``python benchmarks/scheduling.py`` where vital-eval is installed; ``--quick`` for a smaller one. No model and no
video is needed: an engine with SLOTS places serves each turn in a time drawn from a lognormal distribution, DECODERS
workers decode in times that grow with the length of the video, and everything between them is vital-eval's own runner,
player, schedule, episode loop and run log.

* ``ours``: the runner with its default number of episodes under way for that engine (twice its places).
* ``lock-step``: what public harnesses do, with the same engine: batches of as many episodes as it has places; the main
  process decodes the videos of a batch, the whole batch generates, its tools are decoded in line, and so on until the
  slowest member is done; every question of every mode decodes its video again. ``free decode`` is the same peer with
  decoding that takes no time: what waiting for the slowest member costs alone.
* ``bound``: no schedule can be faster: the largest of engine seconds / places, decode seconds / decoders with every
  clip decoded once, and the longest single episode.

Times are those of a clock that jumps to the next event, so they are exact and the machine's load does not matter. One
more run has real sleeps, scaled down: it shows what the loop itself costs and the longest time it was held up, beside
the same of a loop with next to no work in another process at that time, which is the machine's share.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import heapq
import multiprocessing
import random
import selectors
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vital_eval.clip import Clip
from vital_eval.conversation import AssistantTurn
from vital_eval.data_root import TaskData
from vital_eval.engine import EngineInfo, FrameGeometry, GenerationRequest
from vital_eval.episode import Footage, run_episode
from vital_eval.generation import FinishReason, Generation
from vital_eval.plan import RunPlan, TaskPlan, make_manifest, make_plan
from vital_eval.player import Job, jobs_of
from vital_eval.presets import preset
from vital_eval.protocol import Mode, View
from vital_eval.registry import Registries
from vital_eval.run_log import RunLog
from vital_eval.runner import Settings, run
from vital_eval.sample import Sample, Target
from vital_eval.span import Span
from vital_eval.task import Answer, AnswerKind, Metric, Scores, Task, Unparsed

SLOTS = 8
DECODERS = 2
MODES = (Mode.DIRECT, Mode.COT, Mode.TOOL)
#: Seconds of video that one worker decodes in a second, and what a clip for a tool costs: measured with PyAV on
#: 640 x 360 H.264.
DECODE_RATE = 110.0
CLIP_SECONDS = 0.15
#: Bytes of one frame, for the bound on clips in memory.
FRAME_BYTES = 384 * 384 * 3

INFO = EngineInfo("slots", "slots", "slots", FrameGeometry(32, 2))

_CALL = '<tool_call>{"name": "get_video_clip_frame", "arguments": {"start_time": 1, "end_time": 3}}</tool_call>'
_ANSWER = "<answer>A</answer>"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Workload:
    """What is to be done. Times are in seconds, ``median`` and ``sigma`` those of lognormal distributions.

    Attributes:
        name: for the table.
        videos: number of videos.
        questions: on each of them; each is asked in every mode.
        video_median: length of a video.
        video_sigma: likewise; lengths are cut at an hour.
        turn_median: time of a turn in the engine.
        turn_sigma: likewise.
        annotated: whether the annotation tells lengths; without them videos keep the order of the file.
        scale: everything takes this many times as long.
    """

    name: str
    videos: int
    questions: int
    video_median: float = 60.0
    video_sigma: float = 1.2
    turn_median: float = 4.0
    turn_sigma: float = 1.0
    annotated: bool = True
    scale: float = 1.0


class Costs:
    """How long everything takes under one seed, whoever asks and in whatever order."""

    def __init__(self, load: Workload, seed: int) -> None:
        self.load, self._seed = load, seed
        self.lengths = {f"v{index}": self._length(index) for index in range(load.videos)}

    def _length(self, index: int) -> float:
        return min(
            3600.0, self._draw(f"video {index}").lognormvariate(np.log(self.load.video_median), self.load.video_sigma)
        )

    def _draw(self, name: str) -> random.Random:
        return random.Random(f"{self._seed} {name}")  # noqa: S311 - nothing secret

    def opening(self, video: str) -> float:
        """Return the time to decode a whole video."""
        return self.load.scale * self.lengths[video] / DECODE_RATE

    @property
    def clip(self) -> float:
        """The time to decode a clip for a tool."""
        return self.load.scale * CLIP_SECONDS

    def turn(self, episode: str, number: int) -> float:
        """Return the time of a turn in the engine."""
        draw = self._draw(f"turn {episode} {number}")
        return self.load.scale * draw.lognormvariate(np.log(self.load.turn_median), self.load.turn_sigma)

    def calls(self, episode: str, mode: Mode) -> int:
        """Return how many tools an episode calls: 0, 1 or 2 in the tool mode."""
        return self._draw(f"calls {episode}").randrange(3) if mode is Mode.TOOL else 0


class Quiz(Task):
    """A task that needs no files."""

    name = "quiz"
    title = "Quiz"
    metrics = (Metric("accuracy", "accuracy", "this file"),)
    primary = "accuracy"

    def annotation_files(self) -> tuple[str, ...]:
        """Return none."""
        return ()

    def samples(self, folder: Path) -> tuple[Sample, ...]:
        """Return none: the plan brings its own."""
        return ()

    def answer_kind(self, sample: Sample) -> AnswerKind:
        """Return that a letter is wanted."""
        return AnswerKind.OPTION

    def parse(self, text: str, sample: Sample) -> Answer | Unparsed:
        """Take the letter."""
        return Answer(text, letter=text.strip()[:1])

    def score(self, answer: Answer | None, sample: Sample) -> Scores:
        """Return 1 for the right letter."""
        return {"accuracy": float(answer is not None and answer.letter == sample.target.letter)}


def make_work(costs: Costs) -> RunPlan:
    """Return the plan of a workload."""
    load = costs.load
    samples = tuple(
        Sample(
            id=f"{video}/{question}",
            task=Quiz.name,
            video=video,
            duration=length if load.annotated else None,
            question="What happens?",
            target=Target(letter="A"),
            cluster=video,
            options=("this", "that"),
        )
        for video, length in costs.lengths.items()
        for question in range(load.questions)
    )
    protocols = tuple(preset("vital", mode, "mmvu") for mode in MODES)
    return make_plan((TaskPlan(TaskData(Quiz(), Path("/nowhere"), "0", samples), protocols),), Registries())


class Slots:
    """An engine with continuous batching: a turn waits for one of SLOTS places, then takes its own time."""

    def __init__(self, costs: Costs, modes: Mapping[str, Mode]) -> None:
        self._costs, self._modes = costs, modes
        self._places = asyncio.Semaphore(SLOTS)
        self.busy = 0.0

    @property
    def info(self) -> EngineInfo:
        """Return who answers."""
        return INFO

    async def generate(self, request: GenerationRequest) -> Generation:
        """Write one turn."""
        number = sum(isinstance(entry, AssistantTurn) for entry in request.conversation)
        seconds = self._costs.turn(request.episode, number)
        async with self._places:
            await asyncio.sleep(seconds)
        self.busy += seconds
        call = number < self._costs.calls(request.episode, self._modes[request.episode])
        return Generation((1,), _CALL if call else _ANSWER, FinishReason.STOP_STRING, 1, seconds=seconds)

    def release(self, episode: str) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""


class SimulatedLibrary:
    """Decodes nothing, on DECODERS workers; reads of episodes overtake prefetches. Holds what is held."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self._idle = DECODERS
        self._queue: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0
        self._held: dict[str, int] = {}
        self._clips: dict[str, asyncio.Task[Clip]] = {}
        self.busy = 0.0

    def shelf(self, folder: Path, decoder: str) -> SimulatedLibrary:
        """Return itself: there is one folder."""
        return self

    async def open(self, video: str) -> Footage:
        """Return a footage; probing is free."""
        length = self._costs.lengths[video]

        async def read(span: Span | None, view: View) -> Clip:
            return await (self._whole(video, 0) if span is None else self._decode(self._costs.clip, span, 0))

        return Footage(length, length, read)

    async def weigh(self, video: str, view: View) -> int:
        """Return the bytes of the whole video under a view."""
        return FRAME_BYTES * min(view.max_frames, 1 + int(view.fps * self._costs.lengths[video]))

    async def prefetch(self, video: str, view: View) -> int:
        """Decode ahead."""
        await self._whole(video, 1)
        return await self.weigh(video, view)

    def hold(self, video: str) -> None:
        """Keep the clip of a video from now on."""
        self._held[video] = self._held.get(video, 0) + 1

    def drop(self, video: str) -> None:
        """Take a hold back."""
        self._held[video] -= 1
        if not self._held[video]:
            self._clips.pop(video, None)

    async def close(self) -> None:
        """Do nothing."""

    async def _whole(self, video: str, rank: int) -> Clip:
        if video not in self._clips:
            length = self._costs.lengths[video]
            self._clips[video] = asyncio.ensure_future(
                self._decode(self._costs.opening(video), Span(0.0, length), rank)
            )
        return await asyncio.shield(self._clips[video])

    async def _decode(self, seconds: float, span: Span, rank: int) -> Clip:
        if not self._idle:
            self._count += 1
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._queue, (rank, self._count, turn))
            await turn
        else:
            self._idle -= 1
        await asyncio.sleep(seconds)
        self.busy += seconds
        if self._queue:
            heapq.heappop(self._queue)[2].set_result(None)
        else:
            self._idle += 1
        return _clip(span)


def _clip(span: Span) -> Clip:
    return Clip(np.zeros((1, 2, 2, 3), np.uint8), (span.start,), span)


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next event; work for threads is done at once and takes no time."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Return the simulated seconds."""
        return self._now

    def jump(self, seconds: float) -> None:
        """Move the clock."""
        self._now += seconds

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., _T], *args: Any
    ) -> asyncio.Future[_T]:
        """Call it here and now."""
        future: asyncio.Future[_T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events:
            if timeout is None:
                raise RuntimeError("everything waits for something that will not happen")
            self._loop.jump(timeout)
        return events


async def play_ours(costs: Costs, plan: RunPlan, log: RunLog, settings: Settings, modes: Mapping[str, Mode]) -> float:
    """Return the seconds of a run."""
    begin = asyncio.get_running_loop().time()
    tally = await run(plan, Slots(costs, modes), log, settings, library=SimulatedLibrary(costs))
    if tally.owed:
        raise SystemExit(f"{tally.owed} episodes are owed: {tally.infra}")
    return asyncio.get_running_loop().time() - begin


@contextlib.contextmanager
def _log(plan: RunPlan) -> Iterator[RunLog]:
    manifest = make_manifest(plan, INFO, "simulated")
    with tempfile.TemporaryDirectory() as name, RunLog.open(Path(name) / "run", manifest) as log:
        yield log


async def play_in_step(costs: Costs, plan: RunPlan, modes: Mapping[str, Mode], *, decoding: bool) -> float:
    """Return the seconds of lock-step batches, mode after mode."""
    engine = Slots(costs, modes)
    jobs = sorted(jobs_of(plan), key=lambda job: MODES.index(job.attempt.protocol.mode))
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for start in range(0, len(jobs), SLOTS):
        batch = _Batch(costs, engine, decoding=decoding)
        await batch.play(jobs[start : start + SLOTS])
    return loop.time() - begin


class _Batch:
    """Plays episodes in step: nobody goes on before all have generated, and everybody waits for every decode."""

    def __init__(self, costs: Costs, engine: Slots, *, decoding: bool) -> None:
        self._costs, self._engine, self._decoding = costs, engine, decoding
        self._left = 0
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    async def play(self, jobs: list[Job]) -> None:
        self._left = len(jobs)
        await asyncio.gather(*(self._play(job) for job in jobs))

    async def _play(self, job: Job) -> None:
        video = job.attempt.sample.video
        length = self._costs.lengths[video]

        async def read(span: Span | None, view: View) -> Clip:
            await self._inline(self._costs.opening(video) if span is None else self._costs.clip)
            return _clip(span or Span(0.0, length))

        async def open_footage() -> Footage:
            return Footage(length, length, read)

        await run_episode(job.attempt, self, open_footage)  # type: ignore[arg-type]
        self._left -= 1
        self._step()

    async def _inline(self, seconds: float) -> None:
        # One after the other, while nobody generates.
        async with self._turn:
            await asyncio.sleep(seconds if self._decoding else 0.0)

    @property
    def _turn(self) -> asyncio.Lock:
        if not hasattr(self, "_lock"):
            self._lock = asyncio.Lock()
        return self._lock

    async def generate(self, request: GenerationRequest) -> Generation:
        """Wait until every other member of the batch is here, or done."""
        here: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(here)
        self._step()
        await here
        return await self._engine.generate(request)

    def _step(self) -> None:
        if len(self._waiting) == self._left:
            for each in self._waiting:
                each.set_result(None)
            self._waiting.clear()

    def release(self, episode: str) -> None:
        """Do nothing."""


def _modes(plan: RunPlan) -> dict[str, Mode]:
    return {job.attempt.episode: job.attempt.protocol.mode for job in jobs_of(plan)}


def bound(costs: Costs, plan: RunPlan) -> tuple[float, str]:
    """Return the seconds below which no schedule can be, and what they are owed to."""
    engine = longest = 0.0
    decode = sum(costs.opening(video) for video in costs.lengths)
    for job in jobs_of(plan):
        episode = job.attempt.episode
        calls = costs.calls(episode, job.attempt.protocol.mode)
        turns = sum(costs.turn(episode, number) for number in range(calls + 1))
        engine += turns
        decode += calls * costs.clip
        longest = max(longest, costs.opening(job.attempt.sample.video) + turns + calls * costs.clip)
    return max((engine / SLOTS, "engine"), (decode / DECODERS, "decode"), (longest, "one episode"))


def simulate(make: Callable[[], Coroutine[Any, Any, float]]) -> float:
    """Run a coroutine under the jumping clock."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(make())


def measure(load: Workload, seeds: int, settings: Settings) -> None:
    """Print one workload: medians over seeds, least and largest."""
    ratios, free, over, walls = [], [], [], []
    because = ""
    for seed in range(seeds):
        costs = Costs(load, seed)
        plan = make_work(costs)
        modes = _modes(plan)
        with _log(plan) as log:
            ours = simulate(partial(play_ours, costs, plan, log, settings, modes))
        step = simulate(partial(play_in_step, costs, plan, modes, decoding=True))
        least, because = bound(costs, plan)
        walls.append((ours, step, least))
        ratios.append(step / ours)
        free.append(simulate(partial(play_in_step, costs, plan, modes, decoding=False)) / ours)
        over.append(ours / least)
    ours, step, least = (statistics.median(column) for column in zip(*walls, strict=True))
    print(f"{load.name}: {load.videos} videos x {load.questions} questions x {len(MODES)} modes")
    print(f"  ours {ours:.0f} s, lock-step {step:.0f} s, bound {least:.0f} s ({because}); medians of {seeds} seeds")
    print(f"  lock-step / ours {_spread(ratios)}; with free decode {_spread(free)}; ours / bound {_spread(over)}")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


class WatchedSelector(selectors.DefaultSelector):
    """Notes for how long a loop did not look for events, and how much processor time its thread had meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._since: tuple[float, float] | None = None
        self.stretches: list[tuple[float, float]] = []

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Look for events."""
        if self._since is not None:
            self.stretches.append((time.perf_counter() - self._since[0], time.thread_time() - self._since[1]))
        events = super().select(timeout)
        self._since = time.perf_counter(), time.thread_time()
        return events


def run_watched(work: Coroutine[Any, Any, _T]) -> tuple[_T, list[tuple[float, float]]]:
    """Run a coroutine; return its result and the stretches without a look for events, shortest first."""
    selector = WatchedSelector()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        result = runner.run(work)
        return result, sorted(selector.stretches)


async def _tick(stop: Any) -> None:
    while not stop.is_set():
        # About the work of one step of a real loop.
        sum(range(2_000))
        await asyncio.sleep(0.005)


def _other_loop(stop: Any, longest: Any) -> None:
    longest.value = run_watched(_tick(stop))[1][-1][0]


def measure_for_real(load: Workload, settings: Settings) -> None:
    """Print one run with real sleeps."""
    costs = Costs(load, 0)
    plan = make_work(costs)
    modes = _modes(plan)
    context = multiprocessing.get_context("spawn")
    stop, longest = context.Event(), context.Value("d", 0.0)
    other = context.Process(target=_other_loop, args=(stop, longest))
    with _log(plan) as log:
        expected = simulate(partial(play_ours, costs, plan, log, settings, modes))
    with _log(plan) as log:
        other.start()
        cpu = time.process_time()
        seconds, stretches = run_watched(play_ours(costs, plan, log, settings, modes))
        cpu = time.process_time() - cpu
        stop.set()
        other.join()
    wall, own = [stretch[0] for stretch in stretches], [stretch[1] for stretch in stretches]
    print(f"real clock: {plan.episodes} episodes in {seconds:.1f} s, {seconds / expected:.2f} x the simulated time")
    print(f"  {1000 * cpu / plan.episodes:.2f} ms of processor time an episode")
    print(
        f"  loop held up for {1000 * max(own):.1f} ms of processor time at most; by the clock "
        f"{1000 * wall[-1]:.1f} ms, {1000 * wall[int(0.999 * len(wall))]:.1f} ms in 99.9 % of {len(wall)} rounds "
        f"(on a busy machine mostly waits for one; a loop of small steps beside it {1000 * longest.value:.1f} ms)"
    )


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer videos and seeds")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    many, seeds = (30, 2) if given.quick else (60, given.seeds)
    settings = Settings(concurrency=2 * SLOTS, decode_workers=DECODERS)
    loads = [
        Workload("short videos", many, 3, video_median=30.0),
        Workload("mixed videos", many, 3),
        Workload("mixed videos, lengths not annotated", many, 3, annotated=False),
        Workload("an hour each, one question", many, 1, video_median=3600.0, video_sigma=0.0),
        Workload("quick turns, decode counts", many, 3, video_median=300.0, turn_median=0.3),
    ]
    for load in loads:
        measure(load, seeds, settings)
    measure_for_real(Workload("real", many, 3, scale=0.03), settings)


if __name__ == "__main__":
    main()
