"""How many requests at a time: as many as still make a transfer clearly faster.

One connection to an object store gives 50 to 100 MB/s, so a fast network needs many; a server on the
same machine gives everything to a few, and each further one only costs. Nobody can tell beforehand
which it is, so it is measured while the transfer runs: four times as many are tried for as long as
that pays, and what did not pay is taken back. (Twice as many would be finer, and each trial takes time:
with 3.4 GB at 80 MB/s a connection the transfer took 2.33 s instead of 2.13 s, medians of 7.)
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

from helpers.storage import memory

FIRST = 8
_MOST = 64
_TIMES = 4  # as many at each trial
_EACH = 64 << 20  # bytes of memory that have to be available for each: the system buffers what arrives
_CLEAR = 1.2  # times as fast, to be worth it
_BEGUN = 0.75  # of the requests; a server may let some wait for a second or more
_WINDOW = 0.15  # seconds that a number is watched for
_LOOK = 0.03  # seconds between two looks


def wanted(tried: list[tuple[int, float]], most: int) -> int:
    """How many requests shall run next.

    Parameters
    ----------
    tried : list of (int, float)
        Each number that was tried and the bytes per second that it gave, oldest first.
    most : int

    Returns
    -------
    int
        Larger than the last one that was tried if a larger one is worth a trial; else what to stay at.

    Examples
    --------
    >>> wanted([(8, 640e6)], 64), wanted([(8, 640e6), (32, 2560e6)], 64), wanted([(8, 9e8), (32, 9e8)], 64)
    (32, 64, 8)
    """
    count, rate = tried[-1]
    if len(tried) > 1 and rate < _CLEAR * tried[-2][1]:
        return tried[-2][0]
    return min(_TIMES * count, max(count, most))


def most() -> int:
    """The bound: 64, or fewer where memory is short, but no fewer than there are at first."""
    return max(FIRST, min(_MOST, memory.available_bytes() // _EACH))


class Pieces:
    """The parts of an object that are still to be asked for, cut when they are taken.

    Large at first, since each request costs a delay and the server some work; smaller towards the
    end, so that all requests end at about the same time.

    Parameters
    ----------
    spans : iterable of (int, int)
    sizes : (int, int), optional
        The least and the most bytes of a piece; without them each span is one.
    """

    def __init__(self, spans: Iterable[tuple[int, int]], sizes: tuple[int, int] | None) -> None:
        self.spans, self.sizes, self._lock = deque(spans), sizes, threading.Lock()
        self.left = sum(stop - start for start, stop in self.spans)

    def take(self, requests: int) -> tuple[int, int] | None:
        """Where the next piece begins and where it has ended, for one of so many requests; None at the end."""
        with self._lock:
            if not self.spans:
                return None
            start, stop = self.spans.popleft()
            if self.sizes is not None:
                least, largest = self.sizes
                share = min(max(self.left // (2 * requests), least), largest)
                share -= share % least  # stores keep an object in parts of some MB: ask for whole ones
                if start + share < stop:
                    self.spans.appendleft((start + share, stop))
                    stop = start + share
            self.left -= stop - start
            return start, stop


class _Crew:
    """The threads of one transfer."""

    def __init__(self, pieces, fetch, fixed):
        self.pieces, self.fetch, self.fixed = pieces, fetch, fixed
        self.most = fixed or most()
        self.count = fixed or FIRST
        self.received = [0] * self.most  # by thread: one writer for each, so no lock
        self.tried, self.settled, self.mark = [], fixed is not None, None

    def work(self, index):
        """Fetch piece after piece, until there is none or one fewer is wanted."""
        while index < self.count and (piece := self.pieces.take(self.count)):
            self.fetch(piece, lambda size: self._report(index, size))

    def _report(self, index, size):
        self.received[index] += size

    def look(self):
        """Measure; whether more are wanted than there were."""
        if self.settled or sum(map(bool, self.received[: self.count])) < _BEGUN * self.count:
            return False  # a new connection takes a while to begin: that says nothing of its speed
        now, total = time.monotonic(), sum(self.received)
        if self.mark is None:
            self.mark = now, total
        since, before = self.mark
        if now - since < _WINDOW:
            return False
        self.tried.append((self.count, (total - before) / (now - since)))
        last, self.count, self.mark = self.count, wanted(self.tried, self.most), None
        self.settled = self.count <= last
        return not self.settled


def run(
    pieces: Pieces,
    fetch: Callable[[tuple[int, int], Callable[[int], None]], None],
    stopping: threading.Event,
    readers: int | None = None,
) -> None:
    """Fetch all pieces, several at a time.

    Parameters
    ----------
    pieces : Pieces
    fetch : callable
        Called by several threads with a piece and a function that takes the number of bytes that came.
    stopping : threading.Event
        Set here when one of them fails, so that the others end soon.
    readers : int, optional
        So many at a time; by default the number follows what is gained.

    Raises
    ------
    Exception
        The first that ``fetch`` raised.
    """
    crew = _Crew(pieces, fetch, readers)
    with ThreadPoolExecutor(crew.most) as pool:
        running = {pool.submit(crew.work, index) for index in range(crew.count)}
        try:
            while running:
                done, running = wait(running, None if crew.settled else _LOOK, FIRST_COMPLETED)
                for job in done:
                    job.result()
                first = crew.count
                if crew.look():
                    running |= {pool.submit(crew.work, index) for index in range(first, crew.count)}
        except BaseException:  # also Ctrl-C: let the others end soon
            stopping.set()
            raise
