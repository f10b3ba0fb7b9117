"""How much memory is free. Standard library only, where the system tells it in a file."""


def available_bytes() -> int:
    """Memory that can be used without swapping, page cache that can be given back included.

    The limit of a container (cgroup version 2) counts too.

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
        import psutil

        return psutil.virtual_memory().available
    try:
        limit = _stated("/sys/fs/cgroup/memory.max", "")  # "max" if there is none
        return max(0, min(free, limit - _stated("/sys/fs/cgroup/memory.stat", "anon ")))
    except (OSError, ValueError):
        return free


def _stated(path, name):
    """The number behind ``name`` in one of the kernel's lists."""
    with open(path) as lines:
        return next(int(line.removeprefix(name).split()[0]) for line in lines if line.startswith(name))
