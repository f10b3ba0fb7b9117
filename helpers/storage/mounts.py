"""Make a file on network storage ready to be mapped.

A map reads what is touched, page by page, when it is touched. From a local disk that is as good as
reading (timing notebook); from a network mount it is up to 30 times slower (safetensors issue 562,
diffusers issue 12680). So a file there is read once through before its map is touched.
"""

import contextlib
import os

from helpers.errors import storage_errors
from helpers.storage import memory
from helpers.storage.page_cache import cached, pull
from helpers.timeline import phase

# Where mapping is as good as reading. All else counts as a network mount: nfs, cifs, 9p, fuse.*, ceph, lustre…
_LOCAL = {
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "jfs", "reiserfs", "tmpfs", "ramfs",
    "overlay", "squashfs", "erofs", "fuseblk", "vfat", "exfat", "ntfs", "ntfs3", "iso9660",
}  # fmt: skip


def may_map(path: str | os.PathLike) -> bool:
    """Whether mapping a file is wise: not if it lies on network storage and is larger than the memory.

    The page cache could not hold it, so pages would be fetched again and again, piece by piece.

    Examples
    --------
    >>> may_map(__file__)
    True
    """
    return not on_network(path) or os.path.getsize(path) < memory.available_bytes()


def ready(path: str | os.PathLike, spans: list[tuple[int, int]] | None = None) -> None:
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

    Examples
    --------
    >>> ready(__file__)
    """
    if spans is not None or (on_network(path) and not cached(path)):
        with phase("read ahead"), storage_errors(path, "reading the weights"):
            pull(path, spans=spans)


def on_network(path: str | os.PathLike) -> bool:
    """Whether a path lies on anything but a local disk, by the type of its mount.

    Examples
    --------
    >>> on_network("/dev/shm")
    False
    """
    return filesystem(path) not in _LOCAL | {None}


def filesystem(path: str | os.PathLike) -> str | None:
    """The type of the filesystem that holds a file or directory, as ``/proc/self/mountinfo`` names it.

    Parameters
    ----------
    path : str or path-like
        Symbolic links are followed.

    Returns
    -------
    str or None
        None where the system has no such list (macOS), or the device is not in it (btrfs gives each
        subvolume one of its own).

    Raises
    ------
    OSError
        There is nothing at ``path``.

    Examples
    --------
    >>> filesystem("/proc/self")
    'proc'
    """
    device = os.stat(path).st_dev  # not by the mount's path, which may be hidden, escaped or no text
    with contextlib.suppress(FileNotFoundError), open("/proc/self/mountinfo", "rb") as mounts:
        for line in mounts:  # "36 35 98:0 /root /mount/point rw … - ext3 /dev/root rw", proc(5)
            fields = line.split()
            if fields[2] == b"%d:%d" % (os.major(device), os.minor(device)):
                return fields[fields.index(b"-") + 1].decode()
    return None
