"""Make files cold or warm, and check that they are; one file, or whatever a start reads."""

import os
import time

from helpers.storage.page_cache import resident

__all__ = ["empty", "evict", "memory_copy_speed", "read_through", "resident", "stayed"]
_BLOCK = 8 << 20
_DROP = "/proc/sys/vm/drop_caches"  # https://docs.kernel.org/admin-guide/sysctl/vm.html#drop-caches
_BULK = 0.9  # of the bytes of many files: asking small files one by one takes longer than it tells


def evict(path):
    """Ask the kernel to drop a file from the page cache: flush it, then ``POSIX_FADV_DONTNEED``.

    Does nothing where the system has no such call (macOS); `resident` tells.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def empty(files):
    """Empty the page cache: the system's whole cache where that may be done, else these files.

    What a running process has mapped stays in either way; `stayed` tells. The way one by one leaves
    the files' metadata in memory too, so that what follows is somewhat faster than a first start.

    Parameters
    ----------
    files : sequence of path-like

    Returns
    -------
    str
        ``"drop_caches"`` or ``"evicted one by one"``.
    """
    if os.access(_DROP, os.W_OK):
        os.sync()
        with open(_DROP, "w") as control:
            control.write("3")
        return "drop_caches"
    for file in files:
        evict(file)
    return "evicted one by one"


def stayed(files):
    """The share of the bytes of many files that is in the page cache, from 0 to 1.

    Asked of the largest files, which hold nine tenths of the bytes. Linux tells it of files that
    one may write; others count as there.

    Parameters
    ----------
    files : sequence of path-like

    Returns
    -------
    float
    """
    sizes = sorted(((os.path.getsize(file), os.fspath(file)) for file in files), reverse=True)
    whole, asked, there = sum(size for size, _ in sizes), 0, 0.0
    for size, file in sizes:
        if asked >= _BULK * whole:
            break
        asked += size
        there += size * resident(file)
    return there / asked if asked else 0.0


def read_through(path):
    """Read a file once from its first byte to its last, in large blocks; the seconds it took."""
    start = time.perf_counter()
    buffer = bytearray(_BLOCK)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - start


def memory_copy_speed(size=256 << 20):
    """How fast memory is copied here, in bytes a second: the best of three."""
    source, target = bytearray(size), bytearray(size)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        target[:] = source
        times.append(time.perf_counter() - start)
    return size / min(times)
