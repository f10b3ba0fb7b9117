"""The page cache: bring files into it, and look what is in it. Also a script that reads a model ahead.

Each step is read with ``sendfile(2)`` to ``/dev/null``, which fills the cache without copying,
and then every page of it is touched through a map. The touch matters on virtual machines: memory
that was free for some seconds has been given back to the host, and getting it again costs whoever
touches it first about 1 s for each GB. Without it the load would pay that. Measured beside the
imports (2 cores, 3.4 GB, a fresh process to the first token): this 5.8 to 6.5 s, ``sendfile`` alone
9.4 to 10.7 s, ``from_pretrained`` 9 to 11 s. ``readahead(2)`` and ``posix_fadvise(WILLNEED)`` held
the imports up, plain reads copy (6 to 7.7 s).

Standard library only, and little of it: ``python -I -S page_cache.py PATH PARENT`` runs before
everything else (see `helpers.prefetch`).
"""

import mmap
import os
import sys
from collections.abc import Callable

_STEP = 4 << 20  # bytes read at a time, then touched
_SHARE = 0.75  # of the memory that is available; the rest is for the process that will use the files
_LOWEST_BIT = bytes(byte & 1 for byte in range(256))


def pull(
    path: str | os.PathLike,
    wanted: Callable = lambda size: True,
    spans: list | None = None,
    touch: bool = True,
) -> int:
    """Bring one file into the page cache, from its first byte to its last, and into reach.

    Parameters
    ----------
    path : str or path-like
    wanted : callable
        Asked before every step, with the number of its bytes; ``False`` ends the work.
    spans : list of (int, int), optional
        Bring these parts alone, and let the system read nothing around them.
    touch : bool
        Also touch every page, so that its memory is at hand.

    Returns
    -------
    int
        How many bytes; fewer than asked for if ``wanted`` ended the work or the file was cut meanwhile.

    Raises
    ------
    OSError
        The file is gone, or cannot be read or mapped.

    Examples
    --------
    >>> pull(__file__) == os.path.getsize(__file__)
    True
    """
    total = 0
    with open(os.devnull, "wb", buffering=0) as nowhere, open(path, "rb", buffering=0) as file:
        fd, size = file.fileno(), os.fstat(file.fileno()).st_size
        if size == 0:  # cannot be mapped
            return 0
        advise = getattr(os, "posix_fadvise", lambda *_: None)  # not on macOS
        advise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # nothing around what is asked for
        with mmap.mmap(fd, size, access=mmap.ACCESS_READ) as raw:
            for offset, stop in [(0, size)] if spans is None else spans:
                while offset < stop and wanted(step := min(_STEP, stop - offset)):
                    advise(fd, offset, step, os.POSIX_FADV_WILLNEED)  # and all of that at once
                    done = _read(nowhere.fileno(), fd, offset, step)
                    if done == 0:  # cut short meanwhile
                        return total
                    if touch:
                        raw[offset : offset + done : mmap.PAGESIZE]  # one byte of each page
                    offset, total = offset + done, total + done
    return total


def _read(nowhere, fd, offset, size):
    """Read into the page cache; how many bytes."""
    try:
        return os.sendfile(nowhere, fd, offset, size)
    except OSError:  # a system or a filesystem that cannot: a real fault shows in the plain read too
        return len(os.pread(fd, size, offset))


def within(available: Callable[[], int]) -> Callable[[int], bool]:
    """What `pull` asks, to stop before it takes the memory that is needed elsewhere.

    Pages beyond that would push out those read before them, and the start would be slower than
    without reading ahead.

    Parameters
    ----------
    available : callable
        Gives the bytes that can be used, page cache included; asked again and again, since others
        take memory meanwhile.

    Returns
    -------
    callable
        Whether so many bytes more have room. Counts them, over all files.

    Examples
    --------
    >>> room = within(lambda: 1000)
    >>> room(700), room(100)
    (True, False)
    """
    held = 0

    def room(size):
        nonlocal held
        held += size
        return held <= available() * _SHARE  # asking takes 16 µs, reading a step a thousand times that

    return room


def cached(path: str | os.PathLike) -> bool:
    """Whether a file is in the page cache; False where the system does not tell.

    Linux tells it of files that one may write.

    Examples
    --------
    >>> cached(__file__) in (True, False)
    True
    """
    return sys.platform == "linux" and os.access(path, os.W_OK) and resident(path) == 1


def resident(path: str | os.PathLike) -> float:
    """The share of a file's pages that are in the page cache, from 0 to 1, by ``mincore(2)``.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    float

    Raises
    ------
    OSError
        The file cannot be mapped, or the system does not tell.

    Examples
    --------
    >>> 0 <= resident(__file__) <= 1
    True
    """
    import ctypes  # here, since the script does without it

    size = os.path.getsize(path)
    if size == 0:
        return 1.0
    pages = bytearray(-(-size // mmap.PAGESIZE))
    flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000)  # may be larger than the memory
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, flags=flags) as raw:
        start, vector = ctypes.c_char.from_buffer(raw), ctypes.c_char.from_buffer(pages)
        failed = ctypes.CDLL(None).mincore(ctypes.byref(start), ctypes.c_size_t(size), ctypes.byref(vector))
        del start, vector  # a map that is held cannot be closed
    if failed:
        raise OSError(f"mincore failed for {path}")
    return pages.translate(_LOWEST_BIT).count(1) / len(pages)  # the other bits mean nothing
