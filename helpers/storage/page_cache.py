"""Make a file on network storage ready to be mapped.

A map reads what is touched, page by page, when it is touched. From a local disk that is as good as
reading (timing notebook); from a network mount it is up to 30 times slower (safetensors issue 562,
diffusers issue 12680). So a file there is read once through before its map is touched.
"""

import ctypes
import mmap
import os
import sys
from pathlib import Path

from helpers.errors import storage
from helpers.prefetch import pull
from helpers.storage import memory
from helpers.timeline import phase

# Where mapping is as good as reading. All else counts as a network mount: nfs, cifs, 9p, fuse.*, ceph, lustre…
_LOCAL = {
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "jfs", "reiserfs", "tmpfs", "ramfs",
    "overlay", "squashfs", "erofs", "fuseblk", "vfat", "exfat", "ntfs", "ntfs3", "iso9660",
}  # fmt: skip


def may_map(path):
    """Whether mapping a file is wise: not if it lies on network storage and is larger than the memory.

    The page cache could not hold it, so pages would be fetched again and again, piece by piece.

    Examples
    --------
    >>> may_map(__file__)
    True
    """
    return not on_network(path) or os.path.getsize(path) < memory.available_bytes()


def ready(path, spans=None):
    """Read a file on network storage into the page cache, unless it is there already.

    Of a file of which parts are wanted, these are read wherever it lies: a map would make the system
    read ahead and around them (up to some MB at each place that is touched).

    Parameters
    ----------
    path : str or path-like
    spans : list of (int, int), optional
        The parts that are wanted.

    Raises
    ------
    StorageError
        The file cannot be read.
    """
    if spans is not None or (on_network(path) and not cached(path)):
        with phase("read ahead"), storage(path, "reading the weights"):
            pull(path, spans=spans)


def cached(path):
    """Whether a file is in the page cache; False where the system does not tell.

    Linux tells it of files that one may write.
    """
    return sys.platform == "linux" and os.access(path, os.W_OK) and resident(path) == 1


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


def on_network(path):
    """Whether a path lies on anything but a local disk, by the type of its mount.

    Examples
    --------
    >>> on_network("/dev/shm")
    False
    """
    return filesystem(path) not in _LOCAL | {None}


def filesystem(path):
    """The type of the filesystem that holds a path, as ``/proc/self/mountinfo`` names it.

    Returns
    -------
    str or None
        None where the system has no such list (macOS).
    """
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return None
    path, found, longest = os.path.realpath(path), None, -1
    for line in mounts:  # "36 35 98:0 /root /mount/point rw … - ext3 /dev/root rw", proc(5)
        fields = line.split()
        point = fields[4].encode().decode("unicode_escape")  # a space is written \040
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:  # a later mount hides an earlier one
            found, longest = fields[fields.index("-") + 1], len(point)
    return found
