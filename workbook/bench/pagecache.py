"""Make a file cold or warm, and check that it is, without root."""

import os
import time

from helpers.storage.page_cache import resident

__all__ = ["evict", "memory_copy_speed", "read_through", "resident"]
_BLOCK = 8 << 20


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
