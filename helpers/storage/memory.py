"""How much memory is free."""

import re
from pathlib import Path


def available_bytes():
    """Memory that can be used without swapping, page cache that can be given back included.

    The limit of a container (cgroup version 2) counts too.

    Examples
    --------
    >>> available_bytes() > 1_000_000
    True
    """
    import psutil

    free = psutil.virtual_memory().available
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())  # "max" if there is none
        held = re.search(r"^anon (\d+)", Path("/sys/fs/cgroup/memory.stat").read_text(), re.M)
        return max(0, min(free, limit - int(held[1])))
    except (OSError, ValueError):
        return free
