"""One more replica on Ray Serve, from the request to its first token: with and without preloading.

    python -m workbook.bench.scaling MODEL [FILE.json] [ROUNDS]

MODEL is a name of the benchmark (1.7b) or a Hugging Face directory of a language model. In each
round each way gets a fresh cluster. Ray's autoscaler adds the replicas; a policy tells it how many
are wanted, where a service would let the load decide. In the state "cold" the weights are out of
the page cache, so no other replica maps them: it is the first replica on a machine.
"""

import contextlib
import json
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
from workbook import replicas
from workbook.bench.serve_cluster import STATES, WAYS

_CLUSTER = 400  # seconds that one cluster may take


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
    """What `serve_cluster.cluster` prints, from a process of its own; it and all that it started are ended."""
    code = "import sys; from workbook.bench import serve_cluster; serve_cluster.cluster(*sys.argv[1:])"
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
    from workbook.bench import scratch
    from workbook.machine import facts

    replicas.require_ray()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended either way, it ends its clusters
    with scratch.prepared(name, {"hf", "helpers"}) as (model, _):
        result = {"model": name, "machine": facts(), "bytes": model.file("helpers").stat().st_size}
        result["ray"] = version("ray")

        def keep(runs):
            if target:
                Path(target).write_text(json.dumps(result | {"scaling": runs}, indent=1) + "\n")

        _print(measure(model, int(rounds), keep))


if __name__ == "__main__":
    main(*sys.argv[1:])
