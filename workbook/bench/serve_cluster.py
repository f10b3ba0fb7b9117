"""One cluster of Ray Serve, in which one more replica is measured in each state (`workbook.bench.scaling`)."""

import contextlib
import json
import logging
import sys
import time
from pathlib import Path

import psutil

from helpers.errors import ModelError
from workbook import replicas
from workbook.bench import pagecache
from workbook.bench.states import make_cold

# "idle" has as many idle workers as "preloaded", but they have imported nothing
WAYS = ("today", "idle", "preloaded")
STATES = ("warm", "cold", "none idle")
_IDLE = 3  # for the replica at the start, for "warm" and for "cold"
_TOKENS = [[2, 3, 4, 5, 6, 7, 8, 9]]
_STEP = 120  # seconds that one step may take


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
                make_cold(weights)
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
        "policy_function": "workbook.bench.serve_cluster:Wanted",
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
