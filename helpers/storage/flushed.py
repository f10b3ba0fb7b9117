"""Write a file to the disk while it grows, so that the last flush has little left to wait for."""

import contextlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

_PAUSE = 0.03  # seconds between two flushes: tens of megabytes


@contextlib.contextmanager
def flushed(descriptor: int) -> Iterator[None]:
    """Flush an open file again and again in a thread, and once more when the block ends without an error.

    Left to itself, the system keeps what is written in memory, and one flush at the end waits for all of it.

    Parameters
    ----------
    descriptor : int
        Stays open for the whole block.

    Raises
    ------
    OSError
        The disk refuses, now or in the thread: the system reports an error of the disk once, so no later
        flush would repeat it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryFile(buffering=0) as file, flushed(file.fileno()):
    ...     file.write(b"on the disk when the block has ended")
    36
    """
    ended = threading.Event()

    def again_and_again() -> None:
        while not ended.wait(_PAUSE):
            os.fsync(descriptor)

    with ThreadPoolExecutor(1) as pool:
        flushing = pool.submit(again_and_again)
        try:
            yield
        finally:
            ended.set()
    flushing.result()
    os.fsync(descriptor)
