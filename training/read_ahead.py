"""Lessons in the order in which training needs them; those behind the current one are being decoded meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future

from vital_eval.conversation import Conversation

from .supervised import Lesson

#: Frames that may be decoded before their turn comes, in bytes: about 25 lessons of 128 frames of 224 x 224.
AHEAD_BYTES = 2**29
#: Lessons likewise. What decodes them takes turns, so more under way would only make the first one wait.
AHEAD_LESSONS = 32


def read_ahead(lessons: Iterable[Lesson], most_bytes: int = AHEAD_BYTES) -> Generator[Conversation, None, None]:
    """Yield what every lesson shows, in order.

    Args:
        lessons: in the order in which they are needed; drawn only as far as is read ahead.
        most_bytes: frames that may be under way or ready at a time, by :attr:`~.supervised.Lesson.nbytes`. A larger
            lesson goes alone.

    Raises:
        DataError: if a lesson cannot be shown any more.
    """
    under_way: deque[tuple[Future[Conversation], int]] = deque()
    ahead = 0
    try:
        for lesson in lessons:
            while under_way and (len(under_way) >= AHEAD_LESSONS or ahead + lesson.nbytes > most_bytes):
                future, size = under_way.popleft()
                ahead -= size
                yield future.result()
            under_way.append((lesson.show(), lesson.nbytes))
            ahead += lesson.nbytes
        while under_way:
            yield under_way.popleft()[0].result()
    finally:
        for future, _ in under_way:
            future.cancel()
