"""Start reading a model before the imports do, in a process of its own.

Importing torch and a model class takes seconds, in which the disk is idle. `prefetch` starts a
small process that pulls the files into the page cache meanwhile. A process, since a thread
would wait for the interpreter lock that the imports hold.

Standard library only, and little of it: this runs before everything else.
"""

import os
import sys
import threading

from helpers.storage import starts_python, without_secrets

_SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "storage", "read_ahead.py")


def prefetch(path: str | os.PathLike) -> None:
    """Begin to read a file or a directory into the page cache; return at once.

    Call it first, before the imports. It is a hint: a path that is missing, unreadable or
    removed meanwhile costs nothing and raises nothing; of one that does not exist a warning in the log
    ``helpers`` says so, since a name on the hub or an address is none. At most three quarters of the memory that
    is available are filled (of the machine's, and of the container's limit): the rest is for the
    process itself, which takes some 0.7 GB besides its weights for a language model, and pages
    beyond the limit would push out those read before them. It stops when others take the memory
    meanwhile. The process ends when it is done or when this interpreter ends, whichever comes
    first; a record in the log ``helpers`` then says what it did.

    Parameters
    ----------
    path : str or path-like
        A saved model, any directory of weights, or one file. ``~`` is expanded.

    Examples
    --------
    >>> prefetch("models/llama")
    """
    path = os.path.expanduser(os.fspath(path))
    if os.path.exists(path):
        read_ahead(path)
    else:
        say_missing(path)


class Reader:
    """A process that reads ahead. Its end is waited for, and its report logged, in a thread.

    Parameters
    ----------
    pid : int
    report : int
        Descriptor of a pipe that the process prints its report to.
    path : str
        Of the weights, for the log.
    """

    def __init__(self, pid: int, report: int, path: str) -> None:
        self._pid, self._ended, self._lock = pid, False, threading.Lock()
        threading.Thread(target=self._wait, args=(report, path), daemon=True).start()

    def stop(self) -> None:
        """End the process, if it still runs."""
        with self._lock:
            if not self._ended:
                try:
                    os.kill(self._pid, 15)
                except ProcessLookupError:  # it has ended, and somebody else waited for it
                    pass

    def _wait(self, report, path):
        with open(report) as pipe:
            said = pipe.read().split()
        try:
            if hasattr(os, "waitid"):  # so that `stop` never means another process of the same number
                os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
            with self._lock:
                self._ended = True
                os.waitpid(self._pid, 0)
        except ChildProcessError:  # somebody else waited for it
            self._ended = True
        if len(said) == 4:
            _log(path, *said)


def read_ahead(path: str, recording: tuple[str, ...] = ()) -> Reader | None:
    """Start the process that reads ahead.

    Parameters
    ----------
    path : str
        Of the weights; empty for none.
    recording : tuple of str
        What the imports will read: file, first line and folders, as ``storage/read_ahead.py`` takes them.

    Returns
    -------
    Reader or None
        None where the system cannot start it, or not lightly (see `helpers.storage.starts_python`).
    """
    if not starts_python():
        return None
    arguments = [sys.executable, "-I", "-S", _SCRIPT, str(os.getpid()), path, *recording]
    report, write = os.pipe()
    try:
        files: list = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 2)]
        files.append((os.POSIX_SPAWN_DUP2, write, 1))
        pid = os.posix_spawn(sys.executable, arguments, os.environ, file_actions=files)
    except OSError:  # no more processes, say: it is a hint
        os.close(report)
        return None
    finally:
        os.close(write)
    return Reader(pid, report, path)


def say_missing(source: str) -> None:
    """Log that nothing is read ahead of a path at which nothing is."""
    import logging  # here, since the rest does without

    named = without_secrets(source) if "://" in source else source
    said = "%s: there is no such file or directory, so no weights are read ahead. Check the path; %s"
    remedy = "for a name on the hub give its directory, huggingface_hub.snapshot_download(name)."
    logging.getLogger("helpers").warning(said, named, remedy)


def _log(path, done, whole, seconds, short):
    import logging  # here, since it is read only now that the imports are over

    level = logging.WARNING if int(short) else logging.INFO
    end = ": stopped, since memory runs short; the rest is read when it is used" if int(short) else ""
    said = f"read ahead {int(done):,} of {int(whole):,} bytes of {path} in {float(seconds):.1f} s{end}"
    logging.getLogger("helpers").log(level, said)
