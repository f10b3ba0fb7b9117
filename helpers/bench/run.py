"""Rounds of measurements: routes in turns, cold and warm, each in a fresh process."""

import datetime
import importlib.util
import json
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version

from helpers.bench import pagecache
from helpers.bench.routes import ALL

REFERENCE = "from_pretrained"
_COLD = 0.02  # at most this share of a file may be left in the page cache
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


def measure(model, routes, rounds, device, states=("warm", "cold"), report=print):
    """Run all rounds; Ctrl-C ends them and keeps what is finished.

    Parameters
    ----------
    model : helpers.bench.models.Model
    routes : list of str
        Names of `helpers.bench.routes.ALL` that can run here.
    rounds : int
    device : str
    states : sequence of str
    report : callable
        Called with a line of progress.

    Returns
    -------
    dict
        Ready for JSON: machine, versions, date, storage limits and every measurement.
    """
    from helpers.machine import facts

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
    try:
        for turn in range(rounds):
            for state in states:
                if state == "cold":
                    result["storage"].append(_plain_read(model))
                for name in routes:
                    run = {"round": turn, "state": state, "route": name, **_one(model, name, device, state)}
                    result["runs"].append(run)
                    report(f"round {turn + 1}/{rounds}  {state}  {name:<22} {_summary(run)}")
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
    command = [sys.executable, "-m", "helpers.bench.saving", str(model.hf), str(rounds)]
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
    return {"bytes": path.stat().st_size, "seconds": pagecache.read_through(path)}


def _one(model, name, device, state):
    path = model.file(ALL[name][1])
    pagecache.evict(path) if state == "cold" else pagecache.read_through(path)
    left = pagecache.resident(path)
    arguments = {"name": model.name, "folder": str(model.folder), "route": name, "device": device}
    command = [sys.executable, "-m", "helpers.bench.child"]
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
