"""All-or-nothing writes: a new file or directory takes the old one's place in one step.

Everything is written to a hidden sibling, flushed to the disk, and renamed. Whoever looks sees
the old model or the new one, also after a crash, a full disk or a pulled plug.
"""

import contextlib
import ctypes
import fcntl
import glob
import os
import shutil
import sys
import tempfile
from pathlib import Path

from helpers.errors import StorageError, storage

_PARTIAL = ".partial-"
_PREVIOUS = ".previous"


@contextlib.contextmanager
def directory(destination, *, overwrite, strangers):
    """Fill a new directory, which becomes ``destination`` when the block ends without an error.

    Parameters
    ----------
    destination : path-like
        Symbolic links are followed.
    overwrite : bool
        Whether an existing directory may be replaced.
    strangers : callable
        Called with the existing directory; returns the names of the files in it that no save has
        written, so that nobody loses a file of their own.

    Yields
    ------
    pathlib.Path
        The empty directory to fill.

    Raises
    ------
    StorageError
        The destination exists (without overwrite, or with foreign files), or the storage refuses.
    """
    final = Path(os.path.realpath(destination))
    _check_destination(final, overwrite, strangers)
    with storage(final, "writing the model"), _partial(final) as partial:
        yield partial
        for folder, _, names in os.walk(partial):
            for name in [*names, "."]:
                _sync(os.path.join(folder, name))
        _replace_directory(partial, final, overwrite)
        _sync(final.parent)
        shutil.rmtree(previous_of(final), ignore_errors=True)


@contextlib.contextmanager
def file(destination):
    """Write a new file, which takes the place of ``destination`` when the block ends without an error.

    Yields
    ------
    pathlib.Path
        Where to write; does not exist yet.

    Raises
    ------
    StorageError
        The storage refuses.
    """
    final = Path(os.path.realpath(destination))
    with storage(final, "writing the model"), _partial(final) as partial:
        yield partial / final.name
        _sync(partial / final.name)
        os.replace(partial / final.name, final)
        _sync(final.parent)


@contextlib.contextmanager
def _partial(final):
    """A hidden sibling of ``final``, locked for as long as it is being filled, removed in the end."""
    final.parent.mkdir(parents=True, exist_ok=True)
    with _locked(final.parent):  # so that nobody sweeps it between its creation and its lock
        _sweep(final)
        partial = Path(tempfile.mkdtemp(prefix=f".{final.name}{_PARTIAL}", dir=final.parent))
        held = _locked(partial)
        held.__enter__()
    try:
        os.chmod(partial, 0o777 & ~_umask())
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        held.__exit__(None, None, None)


@contextlib.contextmanager
def _locked(folder, wait=True):
    fd = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:  # held by another, or a network filesystem that cannot lock
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def _check_destination(final, overwrite, strangers):
    if not os.path.lexists(final):
        return
    if not final.is_dir():
        raise StorageError(final, "exists and is a file", "Choose another destination.")
    with storage(final, "looking at the destination"):
        if not any(final.iterdir()):
            return
    if not overwrite:
        raise _exists(final)
    if foreign := strangers(final):
        raise StorageError(
            final,
            f"holds what no save has written: {', '.join(sorted(foreign)[:10])}",
            "Move these away or choose another destination; overwrite=True replaces saved models only.",
        )


def _exists(final):
    return StorageError(
        final, "exists already", "Pass overwrite=True to replace it, or choose another destination."
    )


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sweep(final):
    """Remove what killed writers left: partial directories that nobody holds locked."""
    for stale in final.parent.glob(f".{glob.escape(final.name)}{_PARTIAL}*"):
        with contextlib.suppress(FileNotFoundError), _locked(stale, wait=False) as abandoned:
            if abandoned:
                shutil.rmtree(stale, ignore_errors=True)


def _replace_directory(partial, final, overwrite):
    try:
        os.rename(partial, final)  # nothing there, or an empty directory
        return
    except OSError:
        if not final.is_dir():
            raise
    if not overwrite:
        raise _exists(final)  # somebody else was faster
    if _exchange(partial, final):
        return  # the old model now bears the partial name and is removed with it
    shutil.rmtree(previous_of(final), ignore_errors=True)
    os.rename(final, previous_of(final))
    os.rename(partial, final)


def previous_of(final):
    """Where the old model stands for an instant, on filesystems that cannot exchange two names."""
    final = Path(final)
    return final.with_name(f".{final.name}{_PREVIOUS}")


def _exchange(one, other):
    """Swap two names in one step; False where the system or the filesystem cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    one, other = os.fsencode(one), os.fsencode(other)
    if sys.platform == "linux" and hasattr(libc, "renameat2"):
        at_cwd, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE: renameat2(2)
        return libc.renameat2(at_cwd, one, at_cwd, other, exchange) == 0
    if sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        return libc.renamex_np(one, other, 2) == 0  # RENAME_SWAP
    return False
