"""Where the time went: named phases, recorded in order.

A phase costs two clock reads. Without a `Timeline` around it, it records nothing, so the
package marks its own steps everywhere and a reader turns them on with one ``with``.
"""

import contextlib
import contextvars
import time
from collections.abc import Iterator
from typing import NamedTuple

_current: contextvars.ContextVar = contextvars.ContextVar("timeline", default=None)


class Phase(NamedTuple):
    """One step: its name, its start since the timeline's own start, its length (both in seconds)."""

    name: str
    start: float
    seconds: float


class Timeline:
    """Collect the phases that run inside the ``with`` block.

    Attributes
    ----------
    phases : list of Phase
        In the order in which they ended. Phases may nest.
    seconds : float
        Wall-clock time of the whole block.

    Examples
    --------
    >>> with Timeline() as timeline:
    ...     with phase("sleep"):
    ...         time.sleep(0.01)
    >>> [p.name for p in timeline.phases]
    ['sleep']
    """

    def __init__(self) -> None:
        self.phases: list[Phase] = []
        self.seconds = 0.0

    def __enter__(self) -> "Timeline":
        self._token = _current.set(self)
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        _current.reset(self._token)

    def __repr__(self) -> str:
        width = max([len(p.name) for p in self.phases], default=5)
        rows = [f"{p.name:<{width}}  {p.seconds:8.3f} s" for p in self.phases]
        return "\n".join([*rows, f"{'total':<{width}}  {self.seconds:8.3f} s"])


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Record the block under ``name`` in the `Timeline` around it, if there is one.

    Parameters
    ----------
    name : str
        What the block does, such as ``"map weights"``.

    Examples
    --------
    >>> with phase("nobody is listening"):
    ...     pass
    """
    timeline = _current.get()
    if timeline is None:
        yield
        return
    start = time.perf_counter()
    try:
        yield
    finally:
        now = time.perf_counter()
        timeline.phases.append(Phase(name, start - timeline._start, now - start))
