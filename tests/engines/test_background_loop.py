"""The loop in a thread of its own ends when it is told to, and nobody is left waiting for it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from concurrent.futures import CancelledError, Future

import pytest

from vital_eval.engines.background_loop import BackgroundLoop


def test_leaving_cancels_what_runs_and_waits_for_worker_threads() -> None:
    ended = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            # Cleaning up may need the loop once more.
            await asyncio.create_task(asyncio.sleep(0))
            ended.append("task")

    def slow() -> None:
        time.sleep(0.2)
        ended.append("thread")

    with BackgroundLoop("test") as loop:
        pending = loop.submit(forever())
        worker = loop.submit(asyncio.to_thread(slow))
        loop.run(asyncio.sleep(0))
        loop.call(ended.append, "call")
    assert sorted(ended) == ["call", "task", "thread"]
    assert pending.cancelled()
    assert worker.done()
    assert "test" not in {thread.name for thread in threading.enumerate()}


def test_a_stopped_loop_takes_nothing_and_stops_twice() -> None:
    loop = BackgroundLoop("test")
    stoppers = [threading.Thread(target=loop.stop) for _ in range(4)]
    for stopper in stoppers:
        stopper.start()
    for stopper in stoppers:
        stopper.join(10)
        assert not stopper.is_alive()
    called: list[str] = []
    loop.call(called.append, "late")
    with pytest.raises(RuntimeError, match="stopped"):
        loop.run(asyncio.sleep(0))
    assert not called


def test_whoever_comes_while_it_stops_is_answered() -> None:
    for _ in range(20):
        loop = BackgroundLoop("test")
        futures: list[Future[None]] = []
        begun = threading.Event()

        def ask(loop: BackgroundLoop = loop, futures: list[Future[None]] = futures, begun=begun) -> None:
            while True:
                try:
                    futures.append(loop.submit(asyncio.sleep(0)))
                except RuntimeError:
                    return
                begun.set()

        asker = threading.Thread(target=ask)
        asker.start()
        assert begun.wait(10)
        loop.stop()
        asker.join(10)
        assert not asker.is_alive()
        for future in futures:
            with contextlib.suppress(CancelledError):
                future.result(10)
