"""Rounds of measurements: routes in turns, in each state, each in a fresh process."""

import datetime
import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version

from workbook.bench import pagecache
from workbook.bench.files import FORMATS
from workbook.bench.routes import ALL, trick_of
from workbook.bench.states import STATES, bring, check_possible

REFERENCE = "from_pretrained"
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}  # in the environment of what is measured on the CPU
PACKAGES = (
    "torch", "transformers", "diffusers", "tensorizer", "safetensors", "runai-model-streamer",
    "fastsafetensors", "flashpack", "instanttensor",
)  # fmt: skip


def usable(routes, device):
    """Routes that can run here, and the reason for each that cannot."""
    good, reasons = [], {}
    for name in routes:
        package = ALL[name].package
        if importlib.util.find_spec(package) is None:
            reasons[name] = f"not installed (pip install {package.replace('_', '-')})"
        elif device == "cpu" and ALL[name].device == "cuda":
            reasons[name] = "runs on CUDA only"
        else:
            good.append(name)
    return good, reasons


def measure(model, routes, rounds, device, states=STATES, report=print, keep=lambda result: None):
    """Run all rounds; Ctrl-C ends them and keeps those that are finished, and of the first whatever there is.

    Parameters
    ----------
    model : workbook.bench.models.Model
    routes : list of str
        Names of `workbook.bench.routes.ALL` that can run here.
    rounds : int
    device : str
    states : sequence of str
        Of `workbook.bench.states.STATES`.
    report : callable
        Called with a line of progress.
    keep : callable
        Called with what is found so far after every start, so that a crash later loses nothing.

    Returns
    -------
    dict
        Ready for JSON: machine, versions, date, limits of the storage and of the way to a GPU, every measurement.

    Raises
    ------
    StorageError
        ``all cold`` is asked for in a process that has imported torch.
    RuntimeError
        The reference route cannot run, which shows what a start reads and what its first token is.
    """
    check_possible(states)
    result = {
        "model": model.name,
        "device": device,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "bytes": {name: model.file(ALL[name].form).stat().st_size for name in routes},
        "memory_copy": pagecache.memory_copy_speed(),
        "storage": [],
        "runs": [],
    }
    if device != "cpu":
        result["bus"] = _said("-m", "workbook.bench.bus", device)
    with tempfile.TemporaryDirectory(prefix="bench-") as recordings:
        begin = functools.partial(start, model, device, recordings)
        files = libraries(model, routes)
        reference = None
        try:
            if REFERENCE not in routes:
                reference = begin(REFERENCE)
                if "failed" in reference:
                    raise RuntimeError(f"{REFERENCE}, which the others are judged by: {reference['failed']}")
                report(f"its first token, to judge the others by  {REFERENCE}: {_summary(reference)}")
            for name in routes:
                if trick_of(name) == "cold_start":
                    first = _summary(begin(name))
                    report(f"first start, to record what the imports read  {name}: {first}")
            for turn in range(rounds):
                if set(states) - {"warm"} and (read := _plain_read(model)):
                    result["storage"].append(read)
                for state in states:
                    for name in routes:
                        run = {"round": turn, "state": state, "route": name}
                        run |= _one(model, name, state, files, begin)
                        result["runs"].append(run)
                        _judge(result["runs"], reference)
                        report(f"round {turn + 1}/{rounds}  {state:<12}  {name:<34} {_summary(run)}")
                        keep(result)
        except KeyboardInterrupt:
            report("interrupted: the rounds that are finished are kept, and what there is of the first")
            result["interrupted"] = True
            last = max((run["round"] for run in result["runs"]), default=0)
            whole = len(routes) * len(states)
            if last and sum(run["round"] == last for run in result["runs"]) < whole:
                result["runs"] = [run for run in result["runs"] if run["round"] < last]
    _judge(result["runs"], reference)
    return result


def machine():
    """`workbook.machine.facts`, found by another process: that imports torch.

    Returns
    -------
    dict of str to str
    """
    return _said("-c", "import json; from workbook.machine import facts; print(json.dumps(facts()))")


def saving(model, rounds):
    """Seconds that `serialise` and stock ``write_module`` take, both flushed, in turns.

    Returns
    -------
    dict of str to list of float

    Raises
    ------
    RuntimeError
        One of them failed.
    """
    return _said("-m", "workbook.bench.saving", model.hf, rounds)


def _said(*arguments):
    """What a Python process prints last, as JSON.

    Raises
    ------
    RuntimeError
        It failed, with the last line that it said.
    """
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(_reason(done.stderr, done.returncode))
    return json.loads(done.stdout.strip().splitlines()[-1])


def _reason(said, status):
    """The last line that a failed process said."""
    return (said.strip().splitlines() or [f"exit status {status}"])[-1]


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _plain_read(model):
    """Seconds of a plain sequential cold read of the weights: the storage's own limit. None where they stayed."""
    path = model.file("helpers" if (model.folder / "helpers").exists() else "hf")
    if "failed" in bring("weights cold", path, ()):
        return None
    return {"bytes": path.stat().st_size, "seconds": pagecache.read_through(path)}


def libraries(model, routes):
    """The files besides the weights that a start by one of these routes reads, as seen in another process.

    They are put into the page cache before every run, unless all is to be cold: otherwise the rows
    would differ by what the system happens to have thrown out since the last one.

    Returns
    -------
    list of str

    Raises
    ------
    RuntimeError
        The reference route cannot run.
    """
    packages = sorted({ALL[name].package for name in routes})
    return _said("-m", "workbook.bench.libraries", model.folder, *packages)


def _one(model, name, state, files, begin):
    """One measurement; none is made where the state is not reached."""
    form = ALL[name].form
    # what other routes have left would fill the memory, and the last ones would read into a full one
    for other in FORMATS:
        if other != form and model.file(other).exists():
            pagecache.evict(model.file(other))
    small = [
        path for path in {*model.hf.iterdir(), *(model.folder / form).iterdir()} if path.suffix == ".json"
    ]
    reached = bring(state, model.file(form), [*files, *small])
    return reached if "failed" in reached else reached | begin(name)


def start(model, device, recordings, name):
    """A fresh process that loads by a route and computes a first token, timed from its spawn.

    Parameters
    ----------
    model : workbook.bench.models.Model
    device : str
    recordings : str
        The directory for what ``cold_start`` records; each route has its own in it.
    name : str
        Of the route.

    Returns
    -------
    dict
        What `workbook.bench.child` measured, or ``failed`` with the reason.
    """
    # what cold_start recorded for one route is not another route's, nor this user's
    own = os.environ | {"XDG_CACHE_HOME": os.path.join(recordings, name)}
    if device == "cpu":
        own |= NO_GPU
    arguments = {"name": model.name, "folder": str(model.folder), "route": name, "device": device}
    command = [sys.executable, "-m", "workbook.bench.child"]
    spawned = time.perf_counter()
    child = subprocess.Popen(
        [*command, json.dumps(arguments | {"spawned": spawned})],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=own,
    )
    try:
        out, err = child.communicate()
    except BaseException:
        child.kill()
        child.wait()
        raise
    if child.returncode != 0:
        return {"failed": _reason(err, child.returncode)}
    return json.loads(out.strip().splitlines()[-1])


def _judge(runs, reference=None):
    """A route whose first token is not the reference's gets no time."""
    reference = reference or next((r for r in runs if r["route"] == REFERENCE and "token" in r), None)
    for run in runs:
        if reference and "token" in run and "failed" not in run:
            close = abs(run["score"] - reference["score"]) <= 0.02 * abs(reference["score"]) + 1e-3
            if run["token"] != reference["token"] or not close:
                run["failed"] = "wrong result"


def _summary(run):
    return run.get("failed") or f"{run['total']:6.2f} s to the first token"
