"""Start reading a model before the imports do, in a process of its own.

Importing torch and a model class takes seconds, in which the disk is idle. `prefetch` starts a
small process that pulls the files into the page cache meanwhile. A process, since a thread
would wait for the interpreter lock that the imports hold.

Standard library only, and little of it: this runs before everything else.
"""

import os
import sys

_SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "storage", "page_cache.py")


def prefetch(path: str | os.PathLike) -> None:
    """Begin to read a file or a directory into the page cache; return at once.

    Call it first, before the imports. It is a hint: a path that is missing, unreadable or
    removed meanwhile costs nothing and raises nothing. At most three quarters of the memory that
    is available are filled. The process ends when it is done or when this interpreter ends,
    whichever comes first.

    Parameters
    ----------
    path : str or path-like
        A saved model, any directory of weights, or one file. ``~`` is expanded.

    Examples
    --------
    >>> prefetch("models/llama")
    """
    path = os.path.expanduser(path)
    if not (os.path.exists(path) and sys.executable and hasattr(os, "posix_spawn")):
        return
    arguments = [sys.executable, "-I", "-S", _SCRIPT, path, str(os.getpid())]
    silence = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
    pid = os.posix_spawn(sys.executable, arguments, os.environ, file_actions=silence)

    import threading

    threading.Thread(target=_reap, args=(pid,), daemon=True).start()


def _reap(pid):
    """Wait for the process, so that it leaves no entry in the system's table."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:  # somebody else waited for it
        pass
