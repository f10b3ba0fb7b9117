"""Which filesystem a file lies on, and whether that is a local disk.

Standard library only, and little of it: this runs before everything else.
"""

import os

# Where mapping is as good as reading. All else counts as a network mount: nfs, cifs, 9p, fuse.*, ceph, lustre…
_LOCAL = {
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "jfs", "reiserfs", "tmpfs", "ramfs",
    "overlay", "squashfs", "erofs", "fuseblk", "vfat", "exfat", "ntfs", "ntfs3", "iso9660",
}  # fmt: skip


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
    try:
        with open("/proc/self/mountinfo", "rb") as mounts:
            for line in mounts:  # "36 35 98:0 /root /mount/point rw … - ext3 /dev/root rw", proc(5)
                fields = line.split()
                if fields[2] == b"%d:%d" % (os.major(device), os.minor(device)):
                    return fields[fields.index(b"-") + 1].decode()
    except FileNotFoundError:
        pass
    return None
