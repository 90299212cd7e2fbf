"""What is still to be played, and by whom: the driver's queue. No clock, no network, no record."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from vital_eval.player import Job
from vital_eval.record import Key

#: An episode whose worker is lost so often is given up. Most likely it is the one that kills them.
MOST_LOSSES = 3


class Desk:
    """Hands out episodes in portions, group by group: a worker that has begun a group gets the rest of it.

    Nobody hoards: portions shrink towards the end, and what a worker has begun but not taken goes to others as soon as
    nothing else is left. An episode whose worker was lost is handed out again; after the second loss it is suspected of
    having done it, and a worker has at most one suspect under way, so that the next loss tells which one it was.

    Args:
        groups: episodes that look at the same video.
    """

    def __init__(self, groups: Iterable[Sequence[Job]]) -> None:
        self._groups: deque[deque[Job]] = deque(deque(group) for group in groups if group)
        self._begun: dict[str, deque[Job]] = {}
        self._suspects: deque[Job] = deque()
        self._under_way: dict[Key, str] = {}
        self._losses: Counter[Key] = Counter()
        self._waiting = sum(map(len, self._groups))

    @property
    def waiting(self) -> int:
        """Episodes that nobody has taken."""
        return self._waiting

    @property
    def finished(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not self._under_way and not self._waiting

    def take(self, worker: str, room: int, workers: int) -> tuple[Job, ...]:
        """Return episodes of one group for a worker; none if there is nothing for it now.

        Args:
            worker: who asks.
            room: how many it can take, at least 1.
            workers: how many share the work.
        """
        portion = self._suspect(worker) or self._next(worker, min(room, max(1, self._waiting // (2 * workers))))
        for job in portion:
            self._under_way[job.key] = worker
        self._waiting -= len(portion)
        return portion

    def finish(self, job: Job) -> None:
        """Note that the record of an episode has come; it is never handed out again."""
        del self._under_way[job.key]

    def lose(self, job: Job) -> bool:
        """Note that the worker was lost that had an episode under way.

        Returns:
            Whether it is handed out again; if not, it is given up and counts as finished.
        """
        del self._under_way[job.key]
        self._losses[job.key] += 1
        losses = self._losses[job.key]
        if losses >= MOST_LOSSES:
            return False
        if losses == MOST_LOSSES - 1:
            self._suspects.append(job)
        else:
            self._groups.appendleft(deque([job]))
        self._waiting += 1
        return True

    def dismiss(self, worker: str) -> None:
        """Take back what a worker has begun but not taken."""
        rest = self._begun.pop(worker, None)
        if rest:
            self._groups.appendleft(rest)

    def _suspect(self, worker: str) -> tuple[Job, ...]:
        if not self._suspects:
            return ()
        busy = any(who == worker and self._losses[key] == MOST_LOSSES - 1 for key, who in self._under_way.items())
        return () if busy else (self._suspects.popleft(),)

    def _next(self, worker: str, most: int) -> tuple[Job, ...]:
        begun = self._begun.get(worker)
        if not begun:
            begun = self._groups.popleft() if self._groups else self._half_of_the_longest()
            self._begun[worker] = begun
        return tuple(begun.popleft() for _ in range(min(most, len(begun))))

    def _half_of_the_longest(self) -> deque[Job]:
        """Take the later half of what some worker has most of; a second decode of its video costs less than waiting."""
        longest = max(self._begun.values(), key=len, default=deque[Job]())
        return deque(reversed([longest.pop() for _ in range((len(longest) + 1) // 2)]))
