"""The page cache: bring files into it, and look what is in it.

What will be used whole is brought in by 2 MB at a time where the system can (Linux 5.14 with a filesystem
that keeps large pages: xfs, ext4 since 6.16): a map that is advised ``MADV_HUGEPAGE`` and then populated.
Page by page the same reading of 3.4 GB takes 1.9 s of the kernel's time instead of 0.15 s, which the
imports beside it miss on two cores. Elsewhere each step is read with ``sendfile(2)`` to ``/dev/null``, which
fills the cache without copying.

Then every page is touched. That matters on virtual machines: memory that was free for some seconds has
been given back to the host, and getting it again costs whoever touches it first 0.3 s and more for each
GB. Without it the load would pay that.

Standard library only, and little of it: it runs before everything else (see `helpers.prefetch`).
"""

import mmap
import os
import stat
import sys
from collections.abc import Callable

_STEP = 4 << 20  # bytes read at a time, then touched
_LOOK = 512 << 10  # bytes between two places at which to see what is there already
_SHARE = 0.75  # of the memory that is available; the rest is for the process that will use the files
_POPULATE_READ = 22  # of madvise(2), since Linux 5.14; Python 3.11 has no name for it
# A map may be larger than the memory. Python has had a name for this flag since 3.13; the number is Linux'.
NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
_LOWEST_BIT = bytes(byte & 1 for byte in range(256))


def pull(
    path: str | os.PathLike,
    wanted: Callable = lambda size: True,
    spans: list | None = None,
    whole: bool = False,
) -> int:
    """Bring one file into the page cache, from its first byte to its last, and into reach.

    Parameters
    ----------
    path : str or path-like
    wanted : callable
        Asked before every step, with the number of its bytes; ``False`` ends the work.
    spans : list of (int, int), optional
        Bring these parts alone, and let the system read nothing around them.
    whole : bool
        All of the file will be used, sooner or later, and it lies on a local disk: pass by what is there
        already, and read the rest in large pages where the system can, which may bring some MB around
        the parts that are named.

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
        with mmap.mmap(fd, size, access=mmap.ACCESS_READ) as raw:
            is_large = whole and _in_large_pages(raw)
            if not is_large:
                _advise(fd, 0, 0, "POSIX_FADV_RANDOM")  # nothing around what is asked for
            for offset, stop in [(0, size)] if spans is None else spans:
                while offset < stop and wanted(step := min(_STEP, stop - offset)):
                    if whole and _is_there(fd, offset, offset + step):
                        offset, total = offset + step, total + step
                        continue
                    if is_large:
                        raw.madvise(_POPULATE_READ, offset, step)
                        done = step
                    else:
                        _advise(fd, offset, step, "POSIX_FADV_WILLNEED")  # and all of that at once
                        done = _read(nowhere.fileno(), fd, offset, step)
                    if done == 0:  # cut short meanwhile
                        return total
                    raw[offset : offset + done : mmap.PAGESIZE]  # one byte of each page
                    offset, total = offset + done, total + done
    return total


def _advise(fd, offset, size, advice):
    """Say what will be read, where the system takes advice and has a name for it (not macOS)."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, offset, size, getattr(os, advice))


def _is_there(fd, start, stop):
    """Whether a part of a file seems to be in the page cache: asked at a few places, by reads that never wait.

    To go through pages that are there anyway would only slow down what runs beside it: a warm start of
    3.4 GB by 0.5 s and more, where two processors are two threads of one core.
    """
    try:
        return all(os.preadv(fd, [bytearray(1)], at, os.RWF_NOWAIT) for at in range(start, stop, _LOOK))
    except (AttributeError, OSError):  # not there, or the system does not tell
        return False


def _in_large_pages(raw):
    """Ask that what is read through a map be kept in pages of 2 MB; False where the system cannot do it."""
    try:
        raw.madvise(mmap.MADV_HUGEPAGE)
        raw.madvise(mmap.MADV_RANDOM)  # and nothing behind them
        raw.madvise(_POPULATE_READ, 0, mmap.PAGESIZE)
    except (AttributeError, OSError):  # not Linux, or an old one
        return False
    return True


def ask(path: str | os.PathLike, wanted: Callable, spans: list | None = None) -> None:
    """Ask the system to bring parts of a file into the page cache, and do not wait for it.

    For thousands of small files: waiting for each would leave the disk idle in between.

    Parameters
    ----------
    path : str or path-like
        Anything but a regular file is passed by.
    wanted : callable
        As for `pull`; asked once.
    spans : list of (int, int), optional
        The parts; all of the file by default.

    Raises
    ------
    OSError
        The file is gone or cannot be read.

    Examples
    --------
    >>> ask(__file__, lambda size: True)
    """
    if not hasattr(os, "posix_fadvise"):  # macOS
        pull(path, wanted, spans)
        return
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe of that name would be waited for
    try:
        found = os.fstat(fd)
        spans = [(0, found.st_size)] if spans is None else spans
        if stat.S_ISREG(found.st_mode) and wanted(sum(stop - start for start, stop in spans)):
            for start, stop in spans:
                os.posix_fadvise(fd, start, stop - start, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(fd)


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
        Whether so many bytes more have room. Counts those that have, over all files.

    Examples
    --------
    >>> room = within(lambda: 1000)
    >>> room(700), room(100), room(50)
    (True, False, True)
    """
    held = 0

    def room(size):
        nonlocal held
        most = available() * _SHARE  # asking takes 16 µs, reading a step a thousand times that
        if held + size > most:  # then it is not read, and does not count: what is smaller may fit
            return False
        held += size
        return True

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
    flags = mmap.MAP_PRIVATE | NORESERVE
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, flags=flags) as raw:
        start, vector = ctypes.c_char.from_buffer(raw), ctypes.c_char.from_buffer(pages)
        failed = ctypes.CDLL(None).mincore(ctypes.byref(start), ctypes.c_size_t(size), ctypes.byref(vector))
        del start, vector  # a map that is held cannot be closed
    if failed:
        raise OSError(f"mincore failed for {path}")
    return pages.translate(_LOWEST_BIT).count(1) / len(pages)  # the other bits mean nothing
