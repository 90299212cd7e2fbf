"""An event loop in a thread of its own, for what must run beside the caller or outlive the caller's own loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

_T = TypeVar("_T")


class BackgroundLoop:
    """Runs coroutines until it is stopped, which leaving its context does too; what still runs then is cancelled.

    Objects that belong to one event loop (:class:`~vital_eval.footage.Videos`, say) must be used in here only.

    Args:
        name: of the thread. It never keeps the process alive.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        # Between the question whether it is open and handing something over, nobody may stop it: what is handed to a
        # stopped loop never ends, and whoever waits for it would wait for ever.
        self._gate = threading.Lock()
        self._open = True
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Start a coroutine; cancelling the future cancels it. Wait for it in any thread but the loop's own.

        Raises:
            RuntimeError: if the loop was stopped.
        """
        with self._gate:
            if self._open:
                return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        coroutine.close()
        raise RuntimeError("the loop was stopped")

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Start a coroutine and wait for what it returns or raises; a wait that is interrupted cancels it.

        Raises:
            RuntimeError: if the loop was stopped.
        """
        future = self.submit(coroutine)
        try:
            return future.result()
        finally:
            future.cancel()

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call a function in the loop, soon; nothing happens if it was stopped."""
        with self._gate:
            if self._open:
                self._loop.call_soon_threadsafe(function, *arguments)

    def stop(self) -> None:
        """Cancel whatever runs, wait until it and the loop's worker threads have ended, and end the thread."""
        with self._gate:
            if self._open:
                self._open = False
                self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        # Again, because what is cancelled may start something to clean up with.
        while left := asyncio.all_tasks(self._loop):
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def __enter__(self) -> Self:
        """Return the running loop."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()
