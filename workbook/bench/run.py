"""Rounds of measurements: routes in turns, cold and warm, each in a fresh process."""

import datetime
import importlib.util
import json
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version

from helpers.storage.page_cache import pull
from workbook.bench import pagecache
from workbook.bench.routes import ALL

REFERENCE = "from_pretrained"
_COLD = 0.02  # at most this share of a file may be left in the page cache
# Seconds between emptying the cache and a cold start. A virtual machine gives memory that is free
# back to its host within seconds; a start right behind the emptying would still find it at hand,
# which a service's start never does. Measured: without the pause all cold rows are up to 2 x faster.
_SETTLE = 5
PACKAGES = (
    "torch", "transformers", "diffusers", "tensorizer", "safetensors", "runai-model-streamer",
    "fastsafetensors", "flashpack", "instanttensor",
)  # fmt: skip


def usable(routes, device):
    """Routes that can run here, and the reason for each that cannot."""
    good, reasons = [], {}
    for name in routes:
        package = ALL[name][2]
        if importlib.util.find_spec(package) is None:
            reasons[name] = f"not installed (pip install {package.replace('_', '-')})"
        elif name == "InstantTensor" and device == "cpu":
            reasons[name] = "runs on CUDA only"
        else:
            good.append(name)
    return good, reasons


def measure(model, routes, rounds, device, states=("warm", "cold"), report=print, keep=lambda result: None):
    """Run all rounds; Ctrl-C ends them and keeps what is finished.

    Parameters
    ----------
    model : workbook.bench.models.Model
    routes : list of str
        Names of `workbook.bench.routes.ALL` that can run here.
    rounds : int
    device : str
    states : sequence of str
    report : callable
        Called with a line of progress.
    keep : callable
        Called with what is found so far after every round, so that a crash later loses nothing.

    Returns
    -------
    dict
        Ready for JSON: machine, versions, date, storage limits and every measurement.
    """
    from workbook.machine import facts

    result = {
        "model": model.name,
        "device": device,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": facts(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "bytes": {name: model.file(ALL[name][1]).stat().st_size for name in routes},
        "memory_copy": pagecache.memory_copy_speed(),
        "storage": [],
        "runs": [],
    }
    code = libraries(model)
    try:
        for turn in range(rounds):
            for state in states:
                if state == "cold":
                    result["storage"].append(_plain_read(model))
                for name in routes:
                    run = {
                        "round": turn,
                        "state": state,
                        "route": name,
                        **_one(model, name, device, state, code),
                    }
                    result["runs"].append(run)
                    report(f"round {turn + 1}/{rounds}  {state}  {name:<22} {_summary(run)}")
            _judge(result["runs"])
            keep(result)
    except KeyboardInterrupt:
        report("interrupted: the rounds that are finished are kept")
        result["interrupted"] = True
        last = max((run["round"] for run in result["runs"]), default=0)
        whole = len(routes) * len(states)
        if sum(run["round"] == last for run in result["runs"]) < whole:
            result["runs"] = [run for run in result["runs"] if run["round"] < last]
    _judge(result["runs"])
    return result


def saving(model, rounds):
    """Seconds that `serialise` and stock ``write_module`` take, both flushed, in turns.

    Returns
    -------
    dict of str to list of float
    """
    command = [sys.executable, "-m", "workbook.bench.saving", str(model.hf), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _plain_read(model):
    """Seconds of a plain sequential cold read of the weights: the storage's own limit."""
    path = model.file("helpers" if (model.folder / "helpers").exists() else "hf")
    pagecache.evict(path)
    time.sleep(_SETTLE)
    return {"bytes": path.stat().st_size, "seconds": pagecache.read_through(path)}


def libraries(model):
    """The files that importing the model's class reads: code, and shared libraries.

    They are put into the page cache before every run, cold ones too: otherwise the rows would
    differ by what the system happens to have thrown out since the last one.
    """
    command = [sys.executable, "-m", "workbook.bench.libraries", str(model.folder)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _one(model, name, device, state, code=()):
    for file in code:
        pull(file)
    path = model.file(ALL[name][1])
    prepare = pagecache.evict if state == "cold" else pagecache.read_through
    prepare(path)
    left = pagecache.resident(path)
    if state == "cold":
        time.sleep(_SETTLE)
    arguments = {"name": model.name, "folder": str(model.folder), "route": name, "device": device}
    command = [sys.executable, "-m", "workbook.bench.child"]
    spawned = time.perf_counter()
    child = subprocess.Popen(
        [*command, json.dumps(arguments | {"spawned": spawned})],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = child.communicate()
    except BaseException:
        child.kill()
        child.wait()
        raise
    if child.returncode != 0:
        reason = (err.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
        return {"failed": reason, "resident": left}
    run = json.loads(out.strip().splitlines()[-1]) | {"resident": left}
    if state == "cold" and left > _COLD:
        run["failed"] = f"not cold: {left:.0%} of the file stayed in the page cache"
    return run


def _judge(runs):
    """A route whose first token is not the reference's gets no time."""
    reference = next((r for r in runs if r["route"] == REFERENCE and "token" in r), None)
    for run in runs:
        if reference and "token" in run and "failed" not in run:
            close = abs(run["score"] - reference["score"]) <= 0.02 * abs(reference["score"]) + 1e-3
            if run["token"] != reference["token"] or not close:
                run["failed"] = "wrong result"


def _summary(run):
    return run.get("failed") or f"{run['total']:6.2f} s to the first token"
