"""The server of a `Standby` and its replicas: multiprocessing's forkserver, with imports that are verified.

multiprocessing keeps one fork server for a program. Other parts of the program may use it (from Python
3.14 on it is the default), it leaves out what cannot be imported without a word (cpython issue
141860), and it is started again without a word when it has crashed. So a `Standby` has a server of its
own: a process started the "spawn" way, which imports, checks itself and then runs
``multiprocessing.forkserver.main``.

Of multiprocessing's private names this takes ``Process._Popen`` and ``Popen._launch``, where a way to start
is chosen, two attributes of ``ForkServer`` that say where the server is, and ``process._children``, the list
of what the end of a process ends. The sources of Python 3.11, 3.13 and 3.14 agree in them.

Standard library only.
"""

import contextlib
import gc
import importlib
import io
import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import traceback
from multiprocessing import connection, context, forkserver, popen_forkserver, reduction, spawn, util

from helpers.errors import ModelError, storage_errors, temporary_directory

_SETTLE = 1  # seconds that a thread gets to end; OpenBLAS ends its own within milliseconds


class Server(forkserver.ForkServer):
    """A fork server that imports these modules, as its parent sees it.

    Attributes
    ----------
    process : multiprocessing.Process
    report : multiprocessing.connection.Connection
        What `_serve` says while it gets ready.
    """

    def __init__(self, names):
        super().__init__()
        alive, self._alive = multiprocessing.Pipe(duplex=False)
        self.report, report = multiprocessing.Pipe(duplex=False)
        self._forkserver_alive_fd = self._alive.fileno()
        with socket.socket(socket.AF_UNIX) as listener, alive, report:
            self._folder = ""
            try:
                with storage_errors(temporary_directory(), "making a folder there"):
                    self._folder = tempfile.mkdtemp(prefix="standby-")  # open to this user alone
                self._forkserver_address = os.path.join(self._folder, "server")
                _listen(listener, self._forkserver_address)
                self.process = multiprocessing.get_context("spawn").Process(
                    target=_serve,
                    args=(listener, alive, names, report, self._folder),
                    name="Standby",
                    daemon=True,
                )
                self.process.start()
            except BaseException:
                self._release()
                raise

    def ensure_running(self):
        """Leave it as it is: whoever asks for a replica has to learn that the server has crashed."""

    def close(self):
        self.process.kill()  # it holds nothing that would have to be put in order
        self.process.join()
        self._release()

    def _release(self):
        self._alive.close()
        self.report.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _listen(listener, address):
    try:
        listener.bind(address)
        listener.listen()
    except OSError as error:
        raise ModelError(
            address,
            f"the server of a Standby cannot listen here: {error}",
            "Set TMPDIR to a short path on a local disk, such as /tmp.",  # the name of a socket has 107 bytes at most
        ) from error


def disown(server):
    """Forget a server and its replicas in a process that was forked off, whose end would else end its parent's."""
    known = multiprocessing.process._children  # type: ignore[attr-defined]
    own = [each for each in known if each is server.process or getattr(each, "server", None) is server]
    known.difference_update(own)


class Replica(context.ForkServerProcess):
    """A process that a `Server` forks; what it runs first, it runs as `run`."""

    def __init__(self, server, target, args):
        super().__init__(target=target, args=args)
        self.server = server
        self._parent_id, self._server_id = os.getpid(), server.process.pid

    def __getstate__(self):
        return self.__dict__ | {"server": None}  # which stays with the parent

    @staticmethod
    def _Popen(process):  # noqa: N802
        return _Popen(process)

    def run(self):
        threading.Thread(target=_end_with, args=(self._parent_id, self._server_id), daemon=True).start()
        gc.enable()
        _seed()
        super().run()


class _Popen(popen_forkserver.Popen):
    """Starts a replica by its own server, in the way that ``ForkServer.connect_to_new_process`` describes."""

    def _launch(self, process):
        message = io.BytesIO()
        context.set_spawning_popen(self)  # locks, queues and connections can be arguments
        try:
            reduction.dump(spawn.get_preparation_data(process.name), message)
            reduction.dump(process, message)
        finally:
            context.set_spawning_popen(None)
        self.sentinel, data = process.server.connect_to_new_process(self._fds)  # type: ignore[attr-defined]
        with open(data, "wb") as file:
            # the replica takes the end of this pipe for the end of its parent, so one copy stays open
            ends = (os.dup(data), self.sentinel)
            self.finalizer = util.Finalize(self, util.close_fds, ends)  # type: ignore[attr-defined]
            file.write(message.getbuffer())
        self.pid = forkserver.read_signed(self.sentinel)


def _serve(listener, alive, names, report, folder):
    """Import and check, say how it went, then fork whenever that is asked for.

    It sends (module, what is wrong, what to do, traceback): before each import with nothing wrong,
    and None when it is ready.
    """
    # Disabled here, frozen before the forks and enabled in each replica, with no collection between: so memory
    # stays shared, by the documentation of gc.freeze. Without it a collection in a replica writes to every
    # object and so copies its page: 130 MB a replica instead of 24, measured with torch and a Llama class.
    gc.disable()
    try:
        for name in ("__main__", *names):  # the program's own file has been imported by now
            report.send((name, "", "", ""))
            wrong = _import(name) or _unfit()
            if wrong:
                report.send((name, *wrong))
                return
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, ValueError, OSError):  # None, closed
                stream.flush()  # or each replica would print it again
        gc.freeze()
        report.send(None)
        report.close()
        forkserver.main(listener.detach(), alive.fileno(), [])
    finally:
        # where the parent was killed nobody else does
        shutil.rmtree(folder, ignore_errors=True)


def _import(name):
    """What is wrong with a module, if something is."""
    try:
        importlib.import_module(name)
    except (Exception, SystemExit) as error:
        return (
            f"it cannot be imported: {type(error).__name__}: {error}",
            "Check its name, and that this environment has it.",
            traceback.format_exc(),
        )
    return None


def _unfit():
    """What a fork would leave the replicas without, if there is something; a fork tries it.

    OpenBLAS ends its threads before a fork and starts new ones on demand. Those of libgomp, which come
    with the first operation of torch that is large enough, are missing in the child, which then waits for them
    for ever (pytorch issue 21956). CUDA cannot be used in a child once its parent has asked for it.
    """
    pid = os.fork()
    if pid == 0:
        lost = True
        try:
            torch = sys.modules.get("torch")
            # private, and what torch's own functions ask; its public is_initialized does not tell the two apart
            lost = torch is not None and torch.cuda._is_in_bad_fork()
        finally:
            os._exit(lost)
    lost = os.waitpid(pid, 0)[1] != 0
    end = time.monotonic() + _SETTLE
    while (count := threads(os.getpid())) > 1 and time.monotonic() < end:
        time.sleep(0.01)
    if count > 1:
        known = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
        return (
            f"its import left threads behind ({count - 1}{': ' if known else ''}{', '.join(known)}), "
            "which no replica would have",
            "Preload what defines things only; let the target start threads and compute.",
            "",
        )
    if lost:
        return (
            "its import asked for CUDA, which no replica could use then",
            "Set PYTORCH_NVML_BASED_CUDA_CHECK=1 before this program starts, or do not preload it.",
            "",
        )
    return None


def threads(pid):
    """How many threads a process has; outside of Linux, those that Python knows, of this process alone."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except FileNotFoundError:
        return threading.active_count() if pid == os.getpid() else 1


def _seed():
    """Draw new random state for what is imported. Python's own ``random`` does so by itself at a fork."""
    if "torch" in sys.modules:
        sys.modules["torch"].seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()


def _end_with(parent, server):
    """End this replica when its parent or its server ends, however they do.

    The pipe to the parent closes later than that if the parent has forked, and none leads to the
    server, so Linux is asked for both processes; elsewhere the server is looked at each second.
    """
    watched = [multiprocessing.parent_process().sentinel]  # type: ignore[union-attr]
    try:
        watched += [os.pidfd_open(pid) for pid in (parent, server)]
    except ProcessLookupError:
        os._exit(1)
    except (AttributeError, OSError):  # no such call on this system, or it is forbidden
        pass
    while not connection.wait(watched, timeout=1) and os.getppid() == server:
        pass
    os._exit(1)
