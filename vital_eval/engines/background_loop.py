"""An event loop in a thread of its own, for parts that must outlive the loop of whoever uses them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class BackgroundLoop:
    """Runs coroutines until it is stopped.

    Args:
        name: of the thread. It never keeps the process alive.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, _T]) -> concurrent.futures.Future[_T]:
        """Start a coroutine; cancelling the future cancels it.

        Raises:
            RuntimeError: if the loop was stopped.
        """
        if self._loop.is_closed():
            coroutine.close()
            raise RuntimeError("the loop was stopped")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call a function in the loop, soon; nothing happens if it was stopped."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def stop(self) -> None:
        """Cancel whatever runs, wait until it has ended, and end the thread."""
        if self._loop.is_closed():
            return
        self.submit(_cancel_all()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
