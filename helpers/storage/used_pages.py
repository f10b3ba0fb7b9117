"""Which parts of the libraries that this process maps it has used.

Linux keeps for each page of a process whether it is in its page table (``/proc/self/pagemap``, proc(5)): it gets
there when it is used, together with its neighbours of 64 KB.

Standard library only, and little of it: this runs before everything else.
"""

import os

_LEAST = 1 << 20  # bytes of a file; smaller ones are read whole
_GRAIN = 256 << 10  # bytes; parts that lie closer together are read as one
_PRESENT = 0x80  # of the last byte of the 8 that say what is known of a page


def by_file(folders: tuple[str, ...]) -> dict[str, list[tuple[int, int]]]:
    """The used parts of large files, by path: where each begins and ends, in bytes.

    Parameters
    ----------
    folders : tuple of str
        Those whose files are asked for.

    Returns
    -------
    dict of str to list of (int, int)
        Nothing where the system does not tell.

    Examples
    --------
    >>> all(start < stop for spans in by_file(("/usr/",)).values() for start, stop in spans)
    True
    """
    page, grains = os.sysconf("SC_PAGESIZE"), {}
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as table, open("/proc/self/maps", "rb") as lines:
            for line in lines:  # "start-stop rights offset device inode path"
                fields = line.rstrip(b"\n").split(None, 5)
                path = os.fsdecode(fields[5]) if len(fields) == 6 else ""
                if not path.startswith(folders):
                    continue
                start, stop = (int(bound, 16) for bound in fields[0].split(b"-"))
                said = os.pread(table.fileno(), (stop - start) // page * 8, start // page * 8)
                first = int(fields[2], 16) // page
                used = (first + i for i, last in enumerate(said[7::8]) if last & _PRESENT)
                grains.setdefault(path, set()).update(number * page // _GRAIN for number in used)
    except OSError:  # not Linux, or hidden from this process
        return {}
    return {path: _joined(found) for path, found in grains.items() if found and _is_large(path)}


def _is_large(path):
    try:
        return os.path.getsize(path) >= _LEAST
    except OSError:  # removed meanwhile
        return False


def _joined(grains):
    """Neighbouring parts as one."""
    spans = []
    for grain in sorted(grains):
        start, stop = grain * _GRAIN, (grain + 1) * _GRAIN
        if spans and spans[-1][1] == start:
            start = spans.pop()[0]
        spans.append((start, stop))
    return spans
