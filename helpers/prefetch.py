"""Start reading a model before the imports do, in a process of its own.

Importing torch and a model class takes seconds, in which the disk is idle. `prefetch` starts a
small process that pulls the files into the page cache meanwhile. A process, since a thread
would wait for the interpreter lock that the imports hold.

Each step is read with ``sendfile(2)`` to ``/dev/null``, which fills the cache without copying,
and then every page of it is touched through a map. The touch matters on virtual machines: memory
that was free for some seconds has been given back to the host, and getting it again costs whoever
touches it first about 1 s for each GB. Without it the load would pay that. Measured beside the
imports (2 cores, 3.4 GB, a fresh process to the first token): this 5.8 to 6.5 s, ``sendfile`` alone
9.4 to 10.7 s, ``from_pretrained`` 9 to 11 s. ``readahead(2)`` and ``posix_fadvise(WILLNEED)`` held
the imports up, plain reads copy (6 to 7.7 s).

Standard library only, and little of it: this runs before everything else.
"""

import os
import sys

_STEP = 1 << 20  # bytes read at a time, then touched


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


def pull(path, wanted=lambda: True, spans=None):
    """Bring one file into the page cache, from its first byte to its last, and into reach.

    Parameters
    ----------
    path : str or path-like
    wanted : callable
        Asked before every step; ``False`` ends the work.
    spans : list of (int, int), optional
        Bring these parts alone, and let the system read nothing around them.

    Raises
    ------
    OSError
        The file is gone, or cannot be read or mapped.

    Examples
    --------
    >>> pull(__file__)
    """
    import mmap  # here, since `import helpers.prefetch` stands before everything else

    nowhere = os.open(os.devnull, os.O_WRONLY)
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        if size == 0:  # cannot be mapped
            return
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM if spans else os.POSIX_FADV_SEQUENTIAL)
        with mmap.mmap(fd, size, access=mmap.ACCESS_READ) as raw:
            for offset, stop in spans or [(0, size)]:
                while offset < stop and wanted():
                    done = _read(nowhere, fd, offset, min(_STEP, stop - offset))
                    if done == 0:  # cut short meanwhile
                        return
                    raw[offset : offset + done : mmap.PAGESIZE]  # one byte of each page
                    offset += done
    finally:
        os.close(fd)
        os.close(nowhere)


def _read(nowhere, fd, offset, size):
    if sys.platform == "linux":  # elsewhere sendfile feeds sockets alone
        try:
            return os.sendfile(nowhere, fd, offset, size)
        except OSError:  # a filesystem that cannot: a real fault shows in the plain read too
            pass
    return len(os.pread(fd, size, offset))


if __name__ == "__main__":
    parent = int(sys.argv[2])  # said by the parent itself: asked for here, it could be gone already
    for file in _weights_first(sys.argv[1]):
        try:
            pull(file, wanted=lambda: os.getppid() == parent)
        except OSError:  # gone or unreadable: a hint that does not help
            continue
