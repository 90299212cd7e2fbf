"""What is decoded ahead of its use, and how much of it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import closing

import pytest

from vital_eval.conversation import Conversation, Message, TextPart
from vital_eval.engines.background_loop import BackgroundLoop
from vital_eval.errors import DataError
from vital_eval.training.read_ahead import AHEAD_LESSONS, read_ahead
from vital_eval.training.supervised import Lesson


class Shelf:
    """Lessons of a size, and which of them were started and cancelled."""

    def __init__(self, sizes: list[int], *, ready: bool = True) -> None:
        self.started: list[int] = []
        self.futures: list[Future[Conversation]] = []
        self.lessons = [
            Lesson(str(number), f"{number}.mp4", 1, 1, size, lambda number=number: self._show(number, ready))
            for number, size in enumerate(sizes)
        ]

    def _show(self, number: int, ready: bool) -> Future[Conversation]:
        self.started.append(number)
        shown: Future[Conversation] = Future()
        if ready:
            shown.set_result((Message("user", (TextPart(str(number)),)),))
        self.futures.append(shown)
        return shown


def said(conversation: Conversation) -> str:
    (message,) = conversation
    assert isinstance(message, Message)
    (part,) = message.parts
    assert isinstance(part, TextPart)
    return part.text


def test_lessons_come_in_order_and_those_behind_have_been_started() -> None:
    shelf = Shelf([10] * 9)
    with closing(read_ahead(shelf.lessons, 30)) as shown:
        assert shelf.started == []
        assert said(next(shown)) == "0"
        # Three fit: while the first is used, two more are under way, and no fourth.
        assert shelf.started == [0, 1, 2]
        assert said(next(shown)) == "1"
        assert shelf.started == [0, 1, 2, 3]
        assert [said(one) for one in shown] == [str(number) for number in range(2, 9)]
    assert shelf.started == list(range(9))


def test_large_lessons_go_alone_and_small_ones_are_counted() -> None:
    large = Shelf([50, 50, 50])
    with closing(read_ahead(large.lessons, 30)) as shown:
        next(shown)
        assert large.started == [0]
        assert [said(one) for one in shown] == ["1", "2"]
    small = Shelf([0] * 100)
    with closing(read_ahead(small.lessons, 30)) as shown:
        next(shown)
        assert len(small.started) == AHEAD_LESSONS
    assert list(read_ahead([])) == []


def test_what_is_under_way_at_an_early_end_is_cancelled() -> None:
    shelf = Shelf([10] * 5, ready=False)
    shelf.lessons[0] = Shelf([10]).lessons[0]
    with closing(read_ahead(shelf.lessons, 30)) as shown:
        next(shown)
    assert [future.cancelled() for future in shelf.futures] == [True, True]


def test_the_background_works_beside_its_caller_and_ends_with_it() -> None:
    ended = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def where() -> str:
        return threading.current_thread().name

    async def fail() -> None:
        raise DataError("no such record")

    with BackgroundLoop("test") as background:
        left = background.submit(forever())
        assert background.run(where()) != threading.current_thread().name
        with pytest.raises(DataError, match="no such record"):
            background.run(fail())
        assert not ended.is_set()
    assert ended.is_set()
    assert left.cancelled()
