"""How much memory is free. Standard library only where the system tells it in a file, or where psutil is missing."""

import os
from collections.abc import Iterator

_GROUPS = "/sys/fs/cgroup"
_NONE = 1 << 60  # what version 1 says where there is no limit is larger


def available_bytes() -> int:
    """Memory that can be used without swapping, page cache that can be given back included.

    The limits of the container count too, and those of the groups that it is in (cgroups, version 1 and 2).

    Returns
    -------
    int

    Examples
    --------
    >>> available_bytes() > 1_000_000
    True
    """
    try:
        free = 1024 * _stated("/proc/meminfo", "MemAvailable:")
    except OSError:  # not Linux
        return _elsewhere()
    return max(0, min([free, *_left()]))


def _elsewhere():
    """What psutil says; without it, as in the process that reads ahead, half of all there is."""
    try:
        import psutil
    except ImportError:
        # The standard library says how much memory there is, not how much is free. Half: the system and what else
        # runs leave about as much, and where they leave less, what was read too much is given back, not swapped.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return psutil.virtual_memory().available


def _left() -> Iterator[int]:
    """What each limit on this process leaves, page cache not counted: it is given back when needed."""
    for folder, limit, taken in _groups():
        try:
            if (most := _stated(f"{folder}/{limit}", "")) < _NONE:
                yield most - sum(_stated(f"{folder}/memory.stat", name) for name in taken)
        except (
            OSError,
            ValueError,
            StopIteration,
        ):  # no limit ("max" in version 2), or hidden from this container
            continue


def _groups():
    """(folder, file with the limit, names of what is taken) of each group of this process, to the root; cgroups(7)."""
    try:
        with open("/proc/self/cgroup") as lines:
            named = [line.rstrip("\n").split(":", 2) for line in lines]
    except OSError:
        return
    for _, controllers, path in named:
        if "memory" in controllers.split(","):
            root, files = f"{_GROUPS}/memory", ("memory.limit_in_bytes", ("total_rss ", "total_shmem "))
        elif not controllers:
            root, files = _GROUPS, ("memory.max", ("anon ", "shmem "))
        else:
            continue
        while True:  # inside a container the path may be the host's, then only the root is there
            yield root + path.rstrip("/"), *files
            if path in ("", "/"):
                break
            path = os.path.dirname(path)


def _stated(path, name):
    """The number behind ``name`` in one of the kernel's lists."""
    with open(path) as lines:
        return next(int(line.removeprefix(name).split()[0]) for line in lines if line.startswith(name))
