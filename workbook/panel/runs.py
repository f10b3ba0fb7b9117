"""One load or save at a time, in a process of its own: watched, cancelled, and told in words.

A process, so that imports are part of what is measured, so that a cancel works at any moment, and
so that nothing blocks the notebook's kernel.
"""

import contextlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from helpers.timeline import Phase

SAMPLE = "sample: SmolLM2"
STEPS = {
    "load": ("start", "imports", "load", "first token"),
    "serialise": ("start", "imports", "load", "serialise"),
}


class Request(NamedTuple):
    """What to do: the settings of the panel.

    Attributes
    ----------
    action : str
        ``"load"`` or ``"serialise"``.
    source : str
        A saved model (path or address), a Hugging Face directory or name, or `SAMPLE`.
    destination : str
        Where ``"serialise"`` saves.
    device, dtype : str
        ``"cpu"`` or ``"cuda"``; ``"as saved"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    mapped : str
        ``"by itself"``, ``"yes"`` or ``"no"``.
    readers : int
        0: by itself.
    verify, cold, prefetch : bool
    """

    action: str
    source: str
    destination: str = ""
    device: str = "cpu"
    dtype: str = "as saved"
    mapped: str = "by itself"
    readers: int = 0
    verify: bool = False
    cold: bool = False
    prefetch: bool = False


class Result(NamedTuple):
    """What came of it. ``error`` is in words, "" if all went well; then ``phases`` tell the time."""

    request: Request
    seconds: float
    phases: list
    bytes: int
    private: int
    note: str
    error: str


def models_in(folder):
    """The saved models in a directory, with `SAMPLE` before them.

    Parameters
    ----------
    folder : str or path-like

    Returns
    -------
    list of str
    """
    return [SAMPLE, *sorted(str(path.parent) for path in Path(folder).glob("*/model.json"))]


def destination(source, folder):
    """Where a model is saved: under its own name, or beside itself.

    Examples
    --------
    >>> destination("hub/llama", "models"), destination("models/llama", "models")
    ('models/llama', 'models/llama-saved')
    """
    name = "smollm2" if source == SAMPLE else Path(source).name
    place = Path(folder) / name
    return str(place.with_name(f"{name}-saved") if place == Path(source) else place)


def is_saved(source):
    """Whether a source is a model in this workbook's form; an address has to be one."""
    return "://" in source or (Path(source) / "model.json").exists()


def problem_with(request):
    """Why a request cannot be started, in words; "" if it can.

    Examples
    --------
    >>> problem_with(Request("load", ""))
    'Choose a model first.'
    """
    if not request.source.strip():
        return "Choose a model first."
    if request.action == "serialise" and "://" not in request.source and is_saved(request.source):
        return f"{Path(request.source)} is saved already: press Load."
    if request.prefetch and not Path(request.source).exists():
        return "Prefetch reads local files: choose a saved model on this disk."
    return ""


class Job:
    """A request that runs.

    Parameters
    ----------
    request : Request
    on_step : callable
        Called with the name of each step as it begins, from another thread.
    on_end : callable
        Called with the `Result`, once, from another thread.
    """

    def __init__(self, request, on_step=lambda name: None, on_end=lambda result: None):
        self.request, self.result = request, None
        self._on_step, self._on_end = on_step, on_end
        self._cancelled = False
        command = [sys.executable, "-m", "workbook.panel.child"]
        self._process = subprocess.Popen(
            [*command, json.dumps(request._asdict()), str(time.perf_counter())],
            stdin=subprocess.PIPE,  # closed with this kernel, however it ends: then the child ends too
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def cancel(self):
        """End the process now; the result says so."""
        self._cancelled = True
        self._process.kill()

    def wait(self):
        """Block until the job has ended; its `Result`."""
        self._thread.join()
        return self.result

    def _watch(self):
        said = {}
        errors = []
        reader = threading.Thread(target=lambda: errors.append(self._process.stderr.read()), daemon=True)
        reader.start()
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):  # a library prints something of its own
                message = json.loads(line)
                if "step" in message:
                    self._on_step(message["step"])
                else:
                    said = message
        self._process.wait()
        reader.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            pipe.close()
        self.result = self._judge(said, errors)
        self._on_end(self.result)

    def _judge(self, said, errors):
        empty = Result(self.request, 0.0, [], 0, 0, "", "")
        if self._cancelled:
            return empty._replace(error="Cancelled.")
        if "error" in said:
            return empty._replace(error=said["error"])
        if "seconds" not in said:
            last = ("".join(errors).strip().splitlines() or ["no reason given"])[-1]
            return empty._replace(error=f"The process ended with status {self._process.returncode}: {last}")
        return Result(
            self.request,
            said["seconds"],
            [Phase(*phase) for phase in said["phases"]],
            said["bytes"],
            said["private"],
            said["note"],
            "",
        )


def run(request):
    """Run a request and wait for it.

    Returns
    -------
    Result
    """
    if problem := problem_with(request):
        return Result(request, 0.0, [], 0, 0, "", problem)
    return Job(request).wait()


COLUMNS = (
    "model", "what", "device", "dtype", "mapped", "verify", "page cache", "prefetch", "seconds", "load",
    "private MB", "file MB", "note",
)  # fmt: skip


def row(result):
    """A result as a row of the table, by `COLUMNS`."""
    request = result.request
    ours = is_saved(request.source)  # the others' loaders know neither
    state = "cold" if request.cold else "as it was"
    load = sum(phase.seconds for phase in result.phases if phase.name == "load")
    name = request.source.partition("?")[0].rstrip("/").rpartition("/")[2]
    return (
        request.source if request.source == SAMPLE else name,
        request.action,
        request.device,
        request.dtype,
        request.mapped if ours else "n/a",
        ("yes" if request.verify else "no") if ours else "n/a",
        state,
        "yes" if request.prefetch else "no",
        f"{result.seconds:.2f}" if not result.error else "-",
        f"{load:.3f}" if not result.error else "-",
        f"{result.private / 1e6:.0f}" if not result.error else "-",
        f"{result.bytes / 1e6:.0f}" if not result.error else "-",
        result.error or result.note,
    )


def csv_of(results):
    """All results of this sitting as CSV text.

    Examples
    --------
    >>> csv_of([]).splitlines()[0].startswith("model,what,device")
    True
    """
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(map(row, results))
    return text.getvalue()
