"""Facts about the machine that a measurement ran on, and about this process's memory."""

import os
import platform
import re
from pathlib import Path

import torch


def facts():
    """The facts that decide how fast a model loads here.

    Returns
    -------
    dict of str to str
        Processor (with the instructions that torch uses of it, on which the first token depends), cores,
        memory, GPU, Python and torch, in words.

    Examples
    --------
    >>> sorted(facts())
    ['GPU', 'Python', 'cores', 'memory', 'processor', 'torch']
    """
    import psutil  # tensorizer needs it, so it is there

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "processor": f"{_processor()} ({torch.backends.cpu.get_cpu_capability()})",
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "GPU": gpu,
        "Python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor():
    try:
        found = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def private_bytes():
    """Memory that belongs to this process alone, in bytes: what mapped files do not count towards.

    Linux counts it (the line ``Anonymous`` of ``/proc/self/smaps_rollup``). Elsewhere the unique
    set size stands in, which also counts pages of mapped files that no other process uses.

    Examples
    --------
    >>> private_bytes() > 1_000_000
    True
    """
    try:
        rollup = Path("/proc/self/smaps_rollup").read_text()
        return 1024 * int(re.search(r"^Anonymous: +(\d+)", rollup, re.M)[1])
    except OSError:
        import psutil

        return psutil.Process().memory_full_info().uss


def peak_bytes():
    """The most memory that this process ever held, mapped file pages included, in bytes.

    ``VmHWM`` on Linux. There ``getrusage`` would not do: a new process inherits its parent's peak.

    Examples
    --------
    >>> peak_bytes() > 1_000_000
    True
    """
    try:
        return 1024 * int(re.search(r"^VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(), re.M)[1])
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
