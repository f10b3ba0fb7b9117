"""Fetch a model from a store while the imports run, in a process of its own.

Here is what the process that will load does: `begin` starts the other one (`helpers.storage.fetcher`),
`find` gives a load what was begun for its source, `Fetching` hands over what has come. A file of
weights comes as the descriptor of a file in memory (``memfd_create(2)``), which has no name: nothing
is left of it when the last process that holds or maps it has ended, whatever ends that process.

Standard library only, and little of it: this runs before everything else.
"""

import os
import sys
from typing import Any, NamedTuple

from helpers.storage import starts_python

# Without -S it would import what the environment adds to each start. It gets the same path, and what it
# is asked for, through its standard input: arguments and environment can be read by others.
_CODE = (
    "import json, os, sys; asked = json.loads(sys.stdin.buffer.raw.readline()); "
    "sys.path[:] = asked.pop('path'); os.environ.update(asked.pop('environment')); "
    "from helpers.storage.fetcher import main; main(**asked)"
)
_FDS = 250  # descriptors in one message; Linux takes 253
_ENDED = "the process that fetches has ended"
_GRACE = 2.0  # seconds that the process has to remove an unfinished copy

_running: list["Fetching"] = []  # blocks may be nested


class Failed(Exception):
    """What was begun cannot be had; the words say why."""


class Found(NamedTuple):
    """What the process has found at its source.

    Attributes
    ----------
    identity : bytes
        What tells this model from another one: the manifest; of a bare file what the store says of it.
    files : dict of str to bytes
        All files but weights, by path; none where there is a cache.
    weights : dict of str to int
        The descriptor of each file of weights, by path, "" for a bare one; none where there is a cache.
    """

    identity: bytes
    files: dict[str, bytes]
    weights: dict[str, int]


class Fetching:
    """A process that fetches one source.

    Attributes
    ----------
    problem : str
        Why it has failed; "" as long as it has not.
    """

    def __init__(self, source: str, cache: str | os.PathLike | None = None) -> None:
        from threading import Lock

        self.source, self.cache, self.problem = source, _place(cache), ""
        self.owner, self._lock = os.getpid(), Lock()
        self._pid: int | None = None
        self._socket: Any = None
        self._found: Found | None = None
        self._done: dict[str, bool] = {}
        self._descriptors: list[int] = []
        self._unread = b""
        if not starts_python():
            self.problem = "this system starts no process in the way that is needed"
            return
        try:
            self._start()
        except OSError as error:
            self.problem = f"no process could be started ({error.strerror})"

    def _start(self):
        import json
        import socket

        ours, theirs = socket.socketpair()
        self._socket = ours
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        secret = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        asked = {
            "path": [*map(str, sys.path), root],
            "environment": secret,
            "source": self.source,
            "cache": self.cache,
            "parent": os.getpid(),
        }
        actions: list[tuple] = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)]
        actions += [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
        others = {name: value for name, value in os.environ.items() if name not in secret}
        with theirs:
            arguments = [sys.executable, "-I", "-S", "-c", _CODE]
            self._pid = os.posix_spawn(sys.executable, arguments, others, file_actions=actions)
        ours.sendall(json.dumps(asked).encode() + b"\n")

    def found(self) -> Found:
        """What is there; waits for it, not for the weights.

        Raises
        ------
        Failed
        """
        self._wait(lambda: self._found is not None)
        assert self._found is not None
        return self._found

    def wait(self, path: str) -> bool:
        """Wait for a file of weights, "" for a copy in a cache.

        Returns
        -------
        bool
            Whether every part of it is known to be of one version.

        Raises
        ------
        Failed
        """
        self._wait(lambda: path in self._done)
        return self._done[path]

    def _wait(self, is_there):
        with self._lock:  # of several threads that load one receives, for all
            while not is_there():
                if self.problem:
                    raise Failed(self.problem)
                try:
                    self._receive()
                except OSError:  # it has ended before it read what it was asked for
                    self.problem = _ENDED

    def _receive(self):
        """Wait for the next message and take it in."""
        import json
        import socket

        flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
        data, descriptors, _, _ = socket.recv_fds(self._socket, 1 << 16, _FDS, flags)
        self._descriptors += descriptors
        if not data:
            self.problem = _ENDED
        *lines, self._unread = (self._unread + data).split(b"\n")
        for message in map(json.loads, lines):
            if "found" in message:
                self._found = _read(message["found"], *self._descriptors)
            elif "done" in message:
                self._done[message["done"]] = message["is_one_version"]
            else:
                self.problem = message["failed"]

    def end(self) -> None:
        """End the process, if it still runs, and forget what came; what is mapped stays valid."""
        if self in _running:
            _running.remove(self)
        if os.getpid() != self.owner:  # forked off inside the block
            return
        if self._socket is not None:
            try:
                self._socket.shutdown(2)  # SHUT_RDWR: also wakes a thread that waits
            except OSError:  # the other end has gone
                pass
        with self._lock:
            self._let_go("the block in which it was fetched has ended")
        self._reap()

    def _let_go(self, why: str) -> None:
        """Close what this process holds of it; what is mapped stays valid, and the process that fetches as it is."""
        self.problem = self.problem or why
        if self._socket is not None:
            self._socket.close()
        self._found = None
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _reap(self):
        """Wait until the process has ended; make it, if it does not by itself."""
        import signal
        import time

        pid, self._pid = self._pid, None
        limit = time.monotonic() + (0 if self.cache is None else _GRACE)  # nothing in memory needs removing
        try:
            while pid is not None and os.waitpid(pid, os.WNOHANG)[0] == 0:
                if time.monotonic() > limit:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    return
                time.sleep(0.005)
        except ChildProcessError:  # somebody else waited for it
            pass


def begin(source: str, cache: str | os.PathLike | None = None) -> Fetching:
    """Begin to fetch a source; return at once.

    Parameters
    ----------
    source : str
        ``s3://…`` or ``http(s)://…``, as for `helpers.deserialise`.
    cache : str or path-like, optional
        Fetch into this directory, or read the copy that is there ahead; by default into memory.

    Returns
    -------
    Fetching
        Its ``end()`` must be called. That something has failed is said where it is loaded.

    Examples
    --------
    >>> fetching = begin("http://127.0.0.1:9/absent")
    >>> fetching.end()
    """
    fetching = Fetching(source, cache)
    _running.append(fetching)
    return fetching


def find(source: str, cache: str | os.PathLike | None = None) -> Fetching | None:
    """What was begun, in this process, for a source and a cache; None if nothing was."""
    wanted = source, _place(cache), os.getpid()  # a process that is forked off has no part in it
    return next((one for one in _running if (one.source, one.cache, one.owner) == wanted), None)


def _forked():
    """Let go, in a process that was forked off, what its parent fetches: else it would hold the memory as well."""
    while _running:
        _running.pop()._let_go("it is fetched for the process that this one was forked off")


if hasattr(os, "register_at_fork"):  # not Windows
    os.register_at_fork(after_in_child=_forked)


def _place(cache):
    return None if cache is None else os.path.abspath(os.path.expanduser(cache))


def _read(length, content, *descriptors):
    """What stands in the first file that came: a list of so many bytes, then what it lists."""
    import json

    with open(content, "rb", closefd=False) as file:
        file.seek(0)
        listed = json.loads(file.read(length))
        identity = file.read(listed["identity"])
        files = {name: file.read(size) for name, size in listed["files"]}
    return Found(identity, files, dict(zip(listed["weights"], descriptors, strict=True)))
