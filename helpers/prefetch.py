"""Start reading a model before the imports do, in a process of its own.

Importing torch and a model class takes seconds, in which the disk is idle. `prefetch` starts a
small process that pulls the files into the page cache meanwhile. A process, since a thread
would wait for the interpreter lock that the imports hold; ``readahead(2)`` in small steps,
since it fills the cache without copying, and one large request or ``posix_fadvise`` is cut
short by the kernel (both measured, see the timing notebook).

Standard library only, and little of it: this runs before everything else.
"""

import os
import sys

_STEP = 2 << 20  # bytes asked for at a time
_BLOCK = 8 << 20  # bytes read at a time where there is no readahead


def prefetch(path):
    """Begin to read a file or a directory into the page cache; return at once.

    Call it first, before the imports. It is a hint: a path that is missing, unreadable or
    removed meanwhile costs nothing and raises nothing. The process ends when it is done or
    when this interpreter ends, whichever comes first.

    Parameters
    ----------
    path : str or path-like
        A saved model, any directory of weights, or one file.

    Examples
    --------
    >>> prefetch("models/llama")
    """
    path = os.fspath(path)
    if not (os.path.exists(path) and sys.executable and hasattr(os, "posix_spawn")):
        return
    arguments = [sys.executable, "-I", "-S", os.path.abspath(__file__), path, str(os.getpid())]
    silence = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
    pid = os.posix_spawn(sys.executable, arguments, os.environ, file_actions=silence)

    import threading

    threading.Thread(target=_reap, args=(pid,), daemon=True).start()


def _reap(pid):
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:  # somebody else waited for it
        pass


def _weights_first(path):
    if os.path.isfile(path):
        return [path]
    found = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
    return sorted(found, key=lambda name: not name.endswith((".tensors", ".safetensors")))


def _warm(path, parent):
    """Read one file into the page cache, as long as the parent lives."""
    fd = os.open(path, os.O_RDONLY)
    size = os.fstat(fd).st_size
    readahead = _readahead()
    step = _STEP if readahead else _BLOCK
    for offset in range(0, size, step):
        if os.getppid() != parent:
            sys.exit()
        if readahead:
            readahead(fd, offset, step)
        else:
            os.pread(fd, step, offset)
    os.close(fd)


def _readahead():
    import ctypes

    call = getattr(ctypes.CDLL(None), "readahead", None)  # Linux alone has it
    if call is not None:
        call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_size_t]
    return call


if __name__ == "__main__":
    # the parent says who it is: asked for here, it could be gone already
    for file in _weights_first(sys.argv[1]):
        try:
            _warm(file, parent=int(sys.argv[2]))
        except OSError:  # gone or unreadable: a hint that does not help
            continue
