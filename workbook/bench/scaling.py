"""One more replica on Ray Serve, from the request to its first token: with and without preloading.

    python -m workbook.bench.scaling MODEL [FILE.json] [ROUNDS]

MODEL is a name of the benchmark (1.7b) or a Hugging Face directory of a language model. In each
round each way gets a fresh cluster. Ray's autoscaler adds the replicas; a policy tells it how many
are wanted, where a service would let the load decide. In the state "cold" the weights are out of
the page cache, so no other replica maps them: it is the first replica on a machine.
"""

import contextlib
import json
import logging
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import psutil

from helpers.errors import ModelError
from workbook import paths, replicas
from workbook.bench import pagecache

# "idle" has as many idle workers as "preloaded", but they have imported nothing
WAYS = ("today", "idle", "preloaded")
STATES = ("warm", "cold", "none idle")
_IDLE = 3  # for the replica at the start, for "warm" and for "cold"
_TOKENS = [[2, 3, 4, 5, 6, 7, 8, 9]]
_STEP, _CLUSTER = 120, 400  # seconds that one step, and one whole cluster, may take


class Replica(replicas.Replica):
    """A replica that says in what state its process was when it became one."""

    def __init__(self, source):
        self.imported = "torch" in sys.modules
        super().__init__(source)

    def __call__(self, tokens):
        """The next tokens, the process, and whether it had torch before."""
        return *super().__call__(tokens), self.imported


class Wanted:
    """An autoscaling policy: as many replicas as a file says."""

    def __init__(self, path):
        self.path = path

    def __call__(self, context):
        """The number, and no state to keep."""
        return int(Path(self.path).read_text()), {}


def measure(model, rounds, keep=lambda runs: None):
    """All rounds; each cluster in a process of its own, of which nothing is left behind.

    Parameters
    ----------
    model : workbook.bench.models.Model
        With its files in the format ``helpers``.
    rounds : int
    keep : callable
        Called with the runs so far after every round.

    Returns
    -------
    list of dict
        For each round and way: ``states`` (what was measured in each), ``token``, ``idle`` and ``serve`` (proportional
        set size in bytes of each idle worker, and of each of Serve's own, before the first replica).

    Raises
    ------
    ModelError
        A cluster failed or took too long, or two replicas gave different tokens.
    """
    runs = []
    for turn in range(rounds):
        for way in WAYS:
            run = {"round": turn, "way": way, **_apart(way, str((model.folder / "helpers").resolve()))}
            print(f"round {turn + 1}/{rounds}  {way:<10}", *map(_shown, run["states"].items()), flush=True)
            runs.append(run)
        keep(runs)
        if len({run["token"] for run in runs}) > 1:
            raise ModelError(model.name, "replicas gave different first tokens", "Measure nothing with it.")
    return runs


def _apart(way, source):
    """What `cluster` prints, from a process of its own; it and all that it started are ended."""
    code = "import sys; from workbook.bench import scaling; scaling.cluster(*sys.argv[1:])"
    family, deadline = set(), time.monotonic() + _CLUSTER
    # Ray has its sockets in the folder, whose path must be short
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        child = psutil.Popen(
            [sys.executable, "-c", code, way, source, folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            while True:
                with contextlib.suppress(psutil.NoSuchProcess):
                    family |= set(child.children(recursive=True))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    out, err = child.communicate(timeout=1)
                    break
                if time.monotonic() > deadline:
                    raise ModelError("ray", f"took more than {_CLUSTER} s", "See what else runs here.")
        finally:
            _end(child, family)
    if child.returncode:
        reason = (err.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
        raise ModelError("ray", f"way {way!r} failed ({reason})", "Run it again.")
    return json.loads(out.strip().splitlines()[-1])


def _end(child, family):
    """Let a cluster end itself as on Ctrl-C; then end what is left of it."""
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
    left = psutil.wait_procs([child, *family], timeout=20)[1]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=10)


def cluster(way, source, folder):
    """Start a cluster, measure, end it, and print one line of JSON.

    Parameters
    ----------
    way : str
        Of `WAYS`.
    source : str
        A saved model.
    folder : str
        An empty directory for Ray's files.

    Raises
    ------
    ModelError
        A step takes too long, the weights do not become cold, or a worker was not what the way says.
    """
    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    quiet = {"address": "local", "include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(**_settings(way, source), **quiet, object_store_memory=100 << 20, _temp_dir=folder)
    try:
        _rest()
        result = {"idle": _pss("ray::IDLE"), "states": {}}
        weights, known = Path(source, "model.tensors"), set()
        wanted = Path(folder, "first")
        handle = _run(source, wanted, 1)
        (token,), pid, _ = handle.remote(_TOKENS).result(timeout_s=_STEP)
        known.add(pid)
        result |= {"token": token, "serve": _pss("ray::ServeController", "ray::ProxyActor")}
        for state in STATES:
            if state == "cold":
                serve.delete(wanted.name)
                wanted = Path(folder, "second")  # a new name, of which Ray remembers no requests
                handle = _run(source, wanted, 0)
                _make_cold(weights)
            else:
                pagecache.read_through(weights)
                _rest()
            found = result["states"][state] = _one_more(handle, wanted, known)
            if found["token"] != token:
                raise ModelError(f"{way}, {state}", "gave another first token", "Measure nothing with it.")
            if way == "preloaded" and (found["idle"], found["imported"]) != (state != "none idle", True):
                raise ModelError(
                    f"{way}, {state}", f"was measured as {found}", "Run it with nothing beside it."
                )
        print(json.dumps(result))
    finally:
        ray.shutdown()


def _settings(way, source):
    if way == "today":
        return {}
    found = replicas.preloaded(source, idle=_IDLE)
    if way == "idle":
        del found["_system_config"]["preload_python_modules"]
    return found


def _run(source, wanted, count):
    """A running application that begins with so many replicas, and gets as many as the file says."""
    from ray import serve

    _want(wanted, count)
    policy = {
        "policy_function": "workbook.bench.scaling:Wanted",
        "policy_kwargs": {"path": str(wanted)},
    }
    scaling = {"min_replicas": 0, "initial_replicas": count, "max_replicas": 2, "policy": policy}
    options = {
        "ray_actor_options": {"num_cpus": 0.25},
        "autoscaling_config": scaling | {"upscale_delay_s": 0},
    }
    deployed = serve.deployment(**options)(Replica).bind(source)
    return serve.run(deployed, name=wanted.name, route_prefix=None)


def _want(wanted, count):
    """Write the number in one go, since the policy may read at any time."""
    wanted.with_suffix(".new").write_text(str(count))
    wanted.with_suffix(".new").replace(wanted)


def _scale(wanted, count):
    """Ask for so many replicas and wait until they run."""
    from ray import serve

    _want(wanted, count)
    deadline = time.monotonic() + _STEP
    while True:
        states = serve.status().applications[wanted.name].deployments["Replica"].replica_states
        if states.get("RUNNING") == count:
            return
        if time.monotonic() > deadline:
            raise ModelError("ray", f"has {states} instead of {count} replicas", "See what else runs here.")
        time.sleep(0.02)


def _one_more(handle, wanted, known):
    """Seconds to the first token of one more replica, the token, was its worker idle, had it torch?"""
    count = int(wanted.read_text())
    ready = {worker.pid for worker in _workers("ray::IDLE")}
    start = time.perf_counter()
    _scale(wanted, count + 1)
    found = None
    while not found:
        for request in [handle.remote(_TOKENS) for _ in range(count + 1)]:  # all are awaited
            tokens, pid, imported = request.result(timeout_s=_STEP)
            seconds = time.perf_counter() - start
            if pid not in known:
                known.add(pid)
                found = {"seconds": seconds, "token": tokens[0], "idle": pid in ready, "imported": imported}
        if not found and seconds > _STEP:
            raise ModelError("ray", "the new replica gets no request", "See what else runs here.")
    return found


def _make_cold(weights):
    from workbook.bench import run

    pagecache.evict(weights)
    time.sleep(run._SETTLE)
    if (left := pagecache.resident(weights)) > run._COLD:
        raise ModelError(
            weights, f"is not cold: {left:.0%} of it stayed in the page cache", "See what maps it."
        )


def _workers(*names):
    """The processes of this cluster whose titles begin so."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if " ".join(process.cmdline()).startswith(names):
                found.append(process)
    return found


def _pss(*names):
    return [worker.memory_full_info().pss for worker in _workers(*names)]


def _rest():
    """Wait until Ray's workers have nothing left to do, imports above all."""
    deadline = time.monotonic() + _STEP
    spent, before = _spent(), -1.0
    while spent - before > 0.2:  # of a second, in each second
        if time.monotonic() > deadline:
            raise ModelError("ray", "its workers do not come to rest", "See what else runs here.")
        time.sleep(1)
        spent, before = _spent(), spent


def _spent():
    return sum(sum(worker.cpu_times()[:2]) for worker in psutil.Process().children(recursive=True))


def _shown(item):
    state, found = item
    return f"  {state} {found['seconds']:.2f} s{'' if found['idle'] else ' (new worker)'}"


def _print(runs):
    for state in STATES:
        today = statistics.median(run["states"][state]["seconds"] for run in runs if run["way"] == "today")
        for way in WAYS:
            found = [run["states"][state]["seconds"] for run in runs if run["way"] == way]
            middle = statistics.median(found)
            print(f"{state:<10} {way:<10} {middle:6.2f} s ({min(found):.2f} to {max(found):.2f}), "
                  f"{middle / today:.2f} x today's")  # fmt: skip
    for way in WAYS:
        for what in ("idle", "serve"):
            found = [size for run in runs if run["way"] == way for size in run[what]]
            if found:
                print(f"memory: each worker of {what!r}, {way}: {statistics.median(found) / 1e9:.3f} GB")


def main(name, target=None, rounds=5):
    from workbook.bench import models
    from workbook.machine import facts

    replicas.require_ray()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended either way, it ends its clusters
    paths.CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.CACHE, prefix=".bench-") as scratch:
        model = models.prepare(name, {"hf", "helpers"}, Path(scratch))
        result = {"model": name, "machine": facts(), "bytes": model.file("helpers").stat().st_size}
        result["ray"] = version("ray")

        def keep(runs):
            if target:
                Path(target).write_text(json.dumps(result | {"scaling": runs}, indent=1) + "\n")

        _print(measure(model, int(rounds), keep))


if __name__ == "__main__":
    main(*sys.argv[1:])
