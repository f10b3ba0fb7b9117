"""Where copies of remote models are kept on this machine, and whose turn it is to make one."""

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path


def directory_for(label: str, cache: str | os.PathLike) -> Path:
    """The directory of one source's copy.

    Parameters
    ----------
    label : str
        Of the store: the address without secrets.
    cache : str or path-like
        ``~`` is expanded. Nothing is made.

    Returns
    -------
    pathlib.Path

    Examples
    --------
    >>> directory_for("s3://bucket/models/llama", "/var/cache/models").name
    'llama-80310872d8b3'
    """
    words = re.sub(r"[^\w.-]+", "-", label.rpartition("/")[2]) or "model"
    return Path(cache).expanduser() / f"{words}-{hashlib.sha256(label.encode()).hexdigest()[:12]}"


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other process or thread is in such a block for ``path``.

    Of many replicas that start with one cache the first fetches meanwhile, and the others find its
    copy. What holds them is a lock on an empty file beside ``path``, which stays there; the system
    takes the lock from a process that is killed. Where nothing can be written or locked (a cache
    that is read-only, some network filesystems) they all go on at once.

    Parameters
    ----------
    path : pathlib.Path
        Need not exist; the directory above it is made.

    Examples
    --------
    >>> import tempfile
    >>> with alone(Path(tempfile.mkdtemp()) / "copy"):
    ...     pass
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context(open(path.with_name(f".{path.name}.lock"), "w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            # not by closing alone: a child that was forked meanwhile has it open too
            held.callback(fcntl.flock, lock, fcntl.LOCK_UN)
        yield
