"""Make a file cold or warm, and check that it is, without root."""

import ctypes
import mmap
import os
import time

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


def resident(path):
    """The share of a file's pages that are in the page cache, from 0 to 1, by ``mincore(2)``.

    Examples
    --------
    >>> 0 <= resident(__file__) <= 1
    True
    """
    size = os.path.getsize(path)
    if size == 0:
        return 1.0
    pages = -(-size // mmap.PAGESIZE)
    vector = (ctypes.c_ubyte * pages)()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as raw:
        start = ctypes.c_char.from_buffer(raw)
        failed = ctypes.CDLL(None).mincore(
            ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), vector
        )
        del start
    if failed:
        raise OSError(f"mincore failed for {path}")
    return sum(byte & 1 for byte in vector) / pages


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
