"""All-or-nothing writes: a new file or directory takes the old one's place in one step.

Everything is written to a hidden sibling, flushed to the disk, and renamed. Whoever looks sees
the old model or the new one, also after a crash, a full disk or a pulled plug.
"""

import contextlib
import ctypes
import errno
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from helpers.errors import StorageError, storage_errors

_PARTIAL = ".partial-"
_INSIDE = "Save to a directory inside it."


@contextlib.contextmanager
def directory(destination: str | os.PathLike, *, overwrite: bool, strangers: Callable) -> Iterator[Path]:
    """Fill a new directory, which becomes ``destination`` when the block ends without an error.

    Parameters
    ----------
    destination : str or path-like
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
        The destination exists (without overwrite, or with foreign files) or is a mount point, or the
        storage refuses.

    Examples
    --------
    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / "new"
    >>> with directory(place, overwrite=False, strangers=lambda folder: ()) as folder:
    ...     _ = (folder / "notes.txt").write_text("whole")
    >>> (place / "notes.txt").read_text()
    'whole'
    """
    final = Path(os.path.realpath(destination))
    with storage_errors(final, "writing the model"):
        _check_destination(final, overwrite, strangers)
        with _partial(final) as partial:
            yield partial
            for folder, _, names in os.walk(partial):
                for name in [*names, "."]:
                    _sync(os.path.join(folder, name))
            _replace_directory(partial, final, overwrite)
            _sync(final.parent)
            _remove(previous_of(final))


@contextlib.contextmanager
def file(destination: str | os.PathLike) -> Iterator[Path]:
    """Write a new file, which takes the place of ``destination`` when the block ends without an error.

    Parameters
    ----------
    destination : str or path-like
        Symbolic links are followed.

    Yields
    ------
    pathlib.Path
        Where to write; does not exist yet.

    Raises
    ------
    StorageError
        The storage refuses.

    Examples
    --------
    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / "notes.txt"
    >>> with file(place) as partial:
    ...     _ = partial.write_text("whole")
    >>> place.read_text()
    'whole'
    """
    final = Path(os.path.realpath(destination))
    with storage_errors(final, "writing the model"):
        _check_above(final)
        with _partial(final) as partial:
            yield partial / final.name
            _sync(partial / final.name)
            os.replace(partial / final.name, final)
            _sync(final.parent)


def check_destination(destination: str | os.PathLike, *, overwrite: bool, strangers: Callable) -> None:
    """Refuse early what `directory` would, as far as it may be looked at; arguments and errors are its own.

    Examples
    --------
    >>> import tempfile
    >>> check_destination(tempfile.mkdtemp(), overwrite=False, strangers=lambda folder: ())
    """
    final = Path(os.path.realpath(destination))
    with contextlib.suppress(OSError):  # which `directory` will say, if it comes to that
        _check_destination(final, overwrite, strangers)


def previous_of(final: str | os.PathLike) -> Path:
    """Where the old model stands for an instant, on filesystems that cannot exchange two names."""
    return Path(final).with_name(f".{Path(final).name}.previous")


def exists(label: str | os.PathLike) -> StorageError:
    """What to raise where a model stands that may not be replaced."""
    remedy = "Pass overwrite=True to replace it, or choose another destination."
    return StorageError(label, "exists already", remedy)


def refuse(label: str | os.PathLike, strangers: Collection[str]) -> None:
    """Refuse to save where files are that no save has written.

    Raises
    ------
    StorageError
        Names the first ten of them.
    """
    if strangers:
        said = f"holds what no save has written: {', '.join(sorted(strangers)[:10])}"
        remedy = "Move these away or choose another destination; overwrite=True replaces saved models only."
        raise StorageError(label, said, remedy)


def check_space(folder: Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises
    ------
    StorageError
        Names the directory above, since ``folder`` itself is removed then.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        said = f"no space left: {needed:,} bytes are needed, {free:,} are free"
        raise StorageError(folder.parent, said, "Free some space or choose another place.")


def _check_destination(final, overwrite, strangers):
    if os.path.ismount(final):  # it cannot be renamed, so nothing can take its place
        raise StorageError(final, "is a mount point", _INSIDE)
    _check_above(final)
    if not final.is_dir():
        if os.path.lexists(final):
            raise StorageError(final, "exists and is a file", "Choose another destination.")
    elif any(final.iterdir()):
        if not overwrite:
            raise exists(final)
        refuse(final, strangers(final))


def _check_above(final):
    above = next(folder for folder in final.parents if os.path.exists(folder))
    if not above.is_dir():
        raise StorageError(
            above, "is a file, so nothing can be saved below it", "Choose another destination."
        )


@contextlib.contextmanager
def _partial(final):
    """A hidden sibling of ``final``, locked for as long as it is being filled, removed in the end."""
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_of(final)
    with contextlib.ExitStack() as held:
        with _locked(final.parent):  # so that nobody sweeps it between its creation and its lock
            _sweep(final)
            partial.mkdir()
            held.enter_context(_locked(partial))
            held.callback(_remove, partial)
        yield partial


def _partial_of(final):
    return final.with_name(f".{final.name}{_PARTIAL}{secrets.token_hex(4)}")


def _sweep(final):
    """Remove what killed writers left: partial directories that nobody holds locked."""
    for stale in final.parent.glob(f".{glob.escape(final.name)}{_PARTIAL}*"):
        with contextlib.suppress(OSError), _opened(stale) as folder:  # gone, or held by who fills it
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(stale)


def _remove(folder):
    """Remove a directory as far as the storage lets it go, also one that was made read-only."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.is_dir() and not folder.is_symlink():
        for inside, _, _ in os.walk(folder):
            with contextlib.suppress(OSError):
                os.chmod(inside, 0o700)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(path):
    """Hold a directory locked, where its filesystem can lock."""
    with _opened(path) as folder:
        with contextlib.suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        try:
            yield
        finally:  # not by closing alone: a child that was forked meanwhile has it open too
            with contextlib.suppress(OSError):
                fcntl.flock(folder, fcntl.LOCK_UN)


def _sync(path):
    with _opened(path) as opened:
        os.fsync(opened)


@contextlib.contextmanager
def _opened(path):
    """A file descriptor, of a directory too; to close it gives up its lock."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _replace_directory(partial, final, overwrite):
    try:
        os.rename(partial, final)  # nothing there, or an empty directory
        return
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise StorageError(final, "is a mount point, or in use by the system", _INSIDE) from error
        if not (final.is_dir() and any(final.iterdir())):
            raise
    if not overwrite:
        raise exists(final)  # somebody else was faster
    if _exchange(partial, final):
        return  # the old model now bears the partial name and is removed with it
    previous = previous_of(final)
    _remove(previous)
    if previous.exists():  # NFS keeps what is still mapped; a later save sweeps it
        os.rename(previous, _partial_of(final))
    os.rename(final, previous)
    os.rename(partial, final)


def _exchange(one, other):
    """Swap two names in one step; whether system and filesystem can."""
    libc, one, other = ctypes.CDLL(None), os.fsencode(one), os.fsencode(other)
    if hasattr(libc, "renamex_np"):  # macOS; 2 is RENAME_SWAP
        return libc.renamex_np(one, other, 2) == 0
    at = -100  # AT_FDCWD: the names are whole paths; 2 is RENAME_EXCHANGE, of renameat2(2)
    return hasattr(libc, "renameat2") and libc.renameat2(at, one, at, other, 2) == 0
