"""What a `Standby` gives: from a request to the first token, against ``from_pretrained`` in a fresh process.

    python -m workbook.bench.standby MODEL [FILE.json] [ROUNDS]

MODEL is a name of the benchmark (1.7b) or a Hugging Face directory. Both start warm, in turns. A Standby is a warm
pool: what it takes to get ready and the memory that it holds are measured beside.
"""

import json
import multiprocessing.connection
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from helpers import Standby
from workbook.bench import pagecache, run, scratch

COUNTS = (1, 2, 4)


def measure(model, rounds, counts=COUNTS):
    """Seconds to the first token both ways, and the memory of a Standby with so many replicas.

    Parameters
    ----------
    model : workbook.bench.models.Model
        With its files in the formats ``hf`` and ``helpers``.
    rounds : int
    counts : sequence of int

    Returns
    -------
    dict
        ``preload``: names of modules. ``rounds``: for each, ``from_pretrained`` (seconds from the start of a
        process), ``ready`` (seconds until the Standby had imported) and ``standby`` (seconds from the
        request), with the ``phases`` of the last. ``memory``: for each number of ``replicas``,
        ``server`` and ``each``, both with ``pss`` and ``private`` in bytes.

    Raises
    ------
    RuntimeError
        A process failed, or the first tokens differ.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # this process stays without torch
        preload = ["torch", pool.apply(_module, (model,)), "helpers.deserialise"]
    answers, said = multiprocessing.Pipe(duplex=False)
    found = {"preload": preload, "rounds": [], "memory": []}
    tokens = set()
    for _ in range(rounds):
        pagecache.read_through(model.file("hf"))
        fresh = run.start(model, "cpu", tempfile.gettempdir(), run.REFERENCE)
        if "failed" in fresh:
            raise RuntimeError(fresh["failed"])
        pagecache.read_through(model.file("helpers"))
        begun = time.perf_counter()
        with Standby(preload) as standby:
            ready = time.perf_counter() - begun
            warm = _first_token(standby, model, answers, said)
        tokens |= {fresh["token"], warm["token"]}
        times = {run.REFERENCE: fresh["total"], "ready": ready, "standby": warm["total"]}
        found["rounds"].append(times | {"phases": warm["phases"]})
    with Standby(preload) as standby:
        for running in range(1, max(counts) + 1):
            tokens.add(_first_token(standby, model, answers, said)["token"])
            if running in counts:
                taken = {
                    pid: {"pss": m.proportional, "private": m.private} for pid, m in standby.memory().items()
                }
                server = taken.pop(standby.server.pid)
                found["memory"].append({"replicas": running, "server": server, "each": [*taken.values()]})
    if len(tokens) > 1:
        raise RuntimeError(f"the two ways gave different first tokens: {tokens}")
    return found


def _module(model):
    """The module that the model's class is in."""
    return model.model_class().__module__


def _first_token(standby, model, answers, said):
    """What a new replica says with its first token; it stays."""
    process = standby.start(_replica, model, time.perf_counter(), said)
    multiprocessing.connection.wait([answers, process.sentinel])
    if not answers.poll():
        raise RuntimeError(f"a replica ended with exit code {process.exitcode}")
    return answers.recv()


def _replica(model, requested, said):
    from workbook.bench.child import first_token
    from workbook.bench.routes import ALL

    started = time.perf_counter()
    loaded = ALL["helpers mapped"][0](model, "cpu")
    filled = time.perf_counter()
    token, _ = first_token(loaded)
    finished = time.perf_counter()
    phases = {"fork": started - requested, "load": filled - started, "first token": finished - filled}
    said.send({"phases": phases, "total": finished - requested, "token": token})
    signal.pause()


def main(name, target=None, rounds=5):
    with scratch.prepared(name, {"hf", "helpers"}) as (model, _):
        result = {"model": name, "bytes": model.file("helpers").stat().st_size}
        result |= measure(model, int(rounds))
    from workbook.machine import facts  # imports torch, whose pages the server would have shared

    result["machine"] = facts()
    _print(result)
    if target:
        Path(target).write_text(json.dumps(result, indent=1) + "\n")


def _print(result):
    """The medians, and the memory."""
    for way, what in ((run.REFERENCE, "from start to first token"), ("standby", "from request to first token"),
                      ("ready", "until the Standby was ready, once")):  # fmt: skip
        print(f"{statistics.median(r[way] for r in result['rounds']):6.2f} s  {way}: {what}")
    ratio = statistics.median(r["standby"] / r[run.REFERENCE] for r in result["rounds"])
    print(f"{ratio:6.3f}    standby / {run.REFERENCE}, median of {len(result['rounds'])} rounds")
    for row in result["memory"]:
        each = statistics.mean(one["pss"] for one in row["each"])
        print(f"{row['replicas']} replicas: {row['server']['pss'] / 1e6:5.0f} MB server "
              f"({row['server']['private'] / 1e6:.0f} private), {each / 1e6:5.0f} MB each replica "
              f"({statistics.mean(one['private'] for one in row['each']) / 1e6:.0f} private)")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
