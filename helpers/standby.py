"""Replicas that begin where the imports have ended. Standard library only."""

import contextlib
import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from helpers.errors import ModelError
from helpers.forked import Replica, Server, disown, threads

_GRACE = 5  # seconds that replicas get to end at the end of the block, before they are killed


class Memory(NamedTuple):
    """The memory of one process, in bytes.

    Attributes
    ----------
    proportional : int
        A page that N processes share counts as 1/N (Linux: Pss).
    private : int
        Pages that no other process has.
    """

    proportional: int
    private: int


class Standby:
    """A warm pool: a process that has imported, and replicas that are forked from it on request.

    It is for replicas that are started again and again, or in numbers: the imports are paid once,
    when the block is entered, and their memory is held, once, for as long as the block lasts. It
    does not make the first start faster.

    Inside the block `start` gives replicas. At its end those that still run are terminated, as by
    ``multiprocessing.Pool``: join those whose work you want. Replicas end with this process and with
    the server, even if these are killed.

    Parameters
    ----------
    preload : iterable of str
        Names of modules. Their import must neither leave threads behind nor compute with torch nor
        ask for CUDA, for that does not survive a fork; it is checked.

    Attributes
    ----------
    server : multiprocessing.Process or None
        The process that has imported, inside the block.

    Raises
    ------
    ModelError
        On entering the block: a module cannot be imported, its import does something that does not survive
        a fork, or the path of the temporary directory is too long for a socket. Nothing is left running. At
        the end of the block: the server has crashed and `start` had no occasion to say so.

    Notes
    -----
    As with every process of multiprocessing that is not simply forked, a script enters the block
    under ``if __name__ == "__main__"``; the server imports the script's own file too, so that replicas
    need not, and the same rules hold for it. Replicas get the working directory and ``sys.path`` of the
    moment of their start, but the environment variables of the moment the block was entered. The random
    state of torch, numpy and ``random`` is drawn anew in each; a generator that a module makes for
    itself when it is imported is the same in all.

    It is for Linux and macOS. On macOS threads that Python does not know are not seen, and the
    system's own libraries may not survive a fork.

    Examples
    --------
    >>> with Standby(preload=["torch"]) as standby:  # doctest: +SKIP
    ...     process = standby.start(serve, "models/llama")
    ...     process.join()
    """

    def __init__(self, preload: Iterable[str]) -> None:
        if isinstance(preload, str):
            raise TypeError("preload is a list of names of modules")
        self._preload = tuple(preload)
        self._server: Server | None = None
        self._said = False

    @property
    def server(self) -> multiprocessing.process.BaseProcess | None:
        return None if self._server is None else self._server.process

    def __enter__(self) -> "Standby":
        self._said = False
        self._owner, self._server = os.getpid(), Server(self._preload)
        try:
            self._get_ready(self._server)
        except BaseException:
            self._close(self._server)
            raise
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if os.getpid() != self._owner:  # forked off inside the block: server and replicas are its parent's
            disown(self._server)
            return
        try:
            if kind is None and not self._said:
                self._alive()
        finally:
            self._close(self._server)

    def start(self, target: Callable, *args: object) -> multiprocessing.process.BaseProcess:
        """Start a replica: a process that has the preloaded modules and runs ``target(*args)``.

        Parameters
        ----------
        target : callable
            A function that can be imported by its name.
        *args
            Anything that can be pickled, and the queues, locks and connections of multiprocessing.

        Returns
        -------
        multiprocessing.Process
            Started. Its exit code reads 255 if the server crashes, which ends it too.

        Raises
        ------
        ModelError
            The block is not entered, or the server has crashed or has more than one thread by now.
        pickle.PicklingError, AttributeError
            The target or an argument cannot be pickled.

        Examples
        --------
        >>> replicas = [standby.start(serve, "models/llama") for _ in range(4)]  # doctest: +SKIP
        """
        server = self._alive()
        if (count := threads(server.process.pid)) > 1:
            raise ModelError(
                "Standby",
                f"its server (process {server.process.pid}) has {count} threads by now, which no replica would have",
                f"Look for what starts threads later among {', '.join(self._preload)}, and do not preload it.",
            )
        process = Replica(server, target, args)
        try:
            process.start()
        except (EOFError, OSError):
            server.process.join(1)  # if it has crashed this moment
            self._alive()
            raise
        return process

    def memory(self) -> dict[int, Memory]:
        """What the server and its replicas take now, by their process ids (`server` says which is the server's).

        Returns
        -------
        dict of int to Memory

        Raises
        ------
        ModelError
            The block is not entered, the server has crashed, or the system is not Linux, which
            alone counts shared pages.

        Examples
        --------
        >>> standby.memory()[standby.server.pid].private  # doctest: +SKIP
        16297984
        """
        server = self._alive()
        found = {}
        for process in (server.process, *self._running()):
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                found[process.pid] = _memory(process.pid)
        return found

    def _get_ready(self, server):
        """Wait until the server has imported everything."""
        name = "__main__"
        while True:
            try:
                said = server.report.recv()
            except EOFError:
                server.process.join()
                raise ModelError(
                    name,
                    f"the server of a Standby ended while it imported this (exit code {server.process.exitcode})",
                    "Read what it printed above; a script enters the block under if __name__ == '__main__'.",
                ) from None
            if said is None:
                return
            name, problem, remedy, details = said
            if problem:
                error = ModelError(name, problem, remedy)
                if details:
                    error.add_note(details)
                raise error

    def _alive(self):
        """The server.

        Raises
        ------
        ModelError
            There is none, or it has ended.
        """
        server = self._server
        if server is None:
            raise ModelError("Standby", "is not open", "Use it inside its with block.")
        if not server.process.is_alive():
            self._said = True
            raise ModelError(
                "Standby",
                f"its server (process {server.process.pid}) has ended with exit code {server.process.exitcode}; "
                "replicas that ran have ended with it",
                "Enter a new block; the system's log says if memory had run out.",
            )
        return server

    def _running(self):
        """Replicas of this server that have not ended."""
        return [p for p in multiprocessing.active_children() if getattr(p, "server", None) is self._server]

    def _close(self, server):
        """End replicas and server."""
        replicas = self._running()
        for process in replicas:
            process.terminate()
        end = time.monotonic() + _GRACE
        for process in replicas:
            process.join(max(0, end - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()
        server.close()
        self._server = None


def _memory(pid):
    """What Linux counts for a process."""
    try:
        counted = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except FileNotFoundError:
        if Path("/proc/self/smaps_rollup").exists():
            raise ProcessLookupError from None
        raise ModelError("Standby", "its memory is counted on Linux alone", "Leave it out here.") from None
    said = {name: 1024 * int(kib) for name, kib in re.findall(r"^(\w+): +(\d+) kB", counted, re.M)}
    if not said:  # it has ended, and is waited for
        raise ProcessLookupError
    return Memory(said["Pss"], said["Private_Clean"] + said["Private_Dirty"])
