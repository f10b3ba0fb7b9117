"""One load, save or check at a time, in a process of its own: watched, cancelled, and told in words.

A process, so that imports are part of what is measured, so that a cancel works at any moment, and
so that nothing blocks the notebook's kernel.
"""

import contextlib
import json
import subprocess
import sys
import threading
import time
from typing import NamedTuple

from helpers.timeline import Phase
from workbook.panel import sources
from workbook.panel.child import in_words
from workbook.panel.request import Request, problem_with
from workbook.panel.sources import SAMPLE

__all__ = ["SAMPLE", "STEPS", "Job", "Request", "Result", "run"]

_SETTLE = 5  # seconds: memory that was freed just now is at hand at once, which it is not at a real start
STEPS = {
    "load": ("imports", "load", "first token"),
    "serialise": ("imports", "load", "serialise"),
    "verify": ("imports", "verify"),
}


class Result(NamedTuple):
    """What came of it.

    Attributes
    ----------
    request : Request
    seconds : float
        From the start of the process to the first token, or to the end of what was done.
    phases : list of helpers.timeline.Phase
    bytes : int
        Of the weights.
    private : int
        Memory of the process that no other process shares.
    note : str
    error : str
        In words; "" if all went well.
    """

    request: Request
    seconds: float
    phases: list
    bytes: int
    private: int
    note: str
    error: str


def failed(request, error):
    """The result of what did not run."""
    return Result(request, 0.0, [], 0, 0, "", error)


class Job:
    """A request that runs.

    Parameters
    ----------
    request : Request
    on_step : callable
        Called with the name of each step as it begins, from another thread.
    on_end : callable
        Called with the `Result`, once, from another thread.
    on_bytes : callable
        Called now and then with the bytes that the step has done, and all that it will do.
    """

    def __init__(
        self,
        request,
        on_step=lambda name: None,
        on_end=lambda result: None,
        on_bytes=lambda done, total: None,
    ):
        self.request, self.result, self.process = request, None, None
        self._on_step, self._on_end, self._on_bytes = on_step, on_end, on_bytes
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def cancel(self):
        """End the process now; the result says so."""
        with self._lock:
            self._stopping.set()
            self._kill()

    def _kill(self):
        if self.process:
            self.process.kill()

    def wait(self):
        """Block until the job has ended; its `Result`."""
        self._thread.join()
        return self.result

    def _work(self):
        try:
            self.result = self._outcome()
        except Exception as error:  # else whoever waits for the end would wait for ever
            self._kill()
            self.result = failed(
                self.request, in_words(error, sources.without_signature(self.request.source))
            )
        self._on_end(self.result)

    def _outcome(self):
        request, note = self.request, ""
        if request.source == SAMPLE:
            self._on_step("the sample")
            made = self._begin(sources.sample_process)
            out, error = made.communicate() if made else ("", "")
            if not out:
                return self._judged(made, {}, error, note)
            request = request._replace(source=out.splitlines()[-1])
        if request.cold_start and not sources.is_recorded(request.source):
            note = "made the recording for cold_start, so let the next start count"
        if request.cold:
            self._on_step("taking the weights out of the page cache")
            note = "; ".join(filter(None, [note, sources.make_cold(request.source)]))
            self._on_step("five seconds after the weights were taken out")
            self._stopping.wait(_SETTLE)
        process = self._begin(lambda: _child(request))
        said, error = self._listen(process) if process else ({}, "")
        return self._judged(process, said, error, note)

    def _begin(self, start):
        """The next process; None after a cancel."""
        with self._lock:
            self.process = None if self._stopping.is_set() else start()
            return self.process

    def _listen(self, process):
        """The last message of a process, and what it wrote to stderr; steps and bytes are passed on."""
        said, errors = {}, []
        reader = threading.Thread(target=lambda: errors.append(process.stderr.read()), daemon=True)
        reader.start()
        for line in process.stdout:
            with contextlib.suppress(ValueError):  # a library prints something of its own
                message = json.loads(line)
                if not isinstance(message, dict):
                    continue
                if "step" in message:
                    self._on_step(message["step"])
                elif "done" in message:
                    self._on_bytes(message["done"], message["total"])
                else:
                    said = message
        process.wait()
        reader.join()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()
        return said, "".join(errors)

    def _judged(self, process, said, error, note):
        request = self.request
        if self._stopping.is_set():
            return failed(request, "Cancelled.")
        if "error" in said:
            return failed(request, said["error"])
        if "seconds" not in said:
            last = (error.strip().splitlines() or ["no reason given"])[-1]
            return failed(request, f"The process ended with status {process.returncode}: {last}")
        phases = [Phase(*phase) for phase in said["phases"]]
        return Result(request, said["seconds"], phases, said["bytes"], said["private"], note, "")


def _child(request):
    command = [sys.executable, "-m", "workbook.panel.child", json.dumps(request._asdict())]
    return subprocess.Popen(
        [*command, str(time.perf_counter())],
        stdin=subprocess.PIPE,  # closed with this kernel, however it ends: then the child ends too
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(request):
    """Run a request and wait for it.

    Parameters
    ----------
    request : Request

    Returns
    -------
    Result

    Examples
    --------
    >>> run(Request("load", "../not/here")).error
    '../not/here: there is no such directory. Check the path.'
    """
    request = request._replace(source=sources.located(request.source))
    if problem := problem_with(request):
        return failed(request, problem)
    return Job(request).wait()
