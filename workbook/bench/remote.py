"""``python -m workbook.bench.remote``: a start from object storage, and one transfer, against others.

`starts`: a real store (SeaweedFS) on loopback; each start is a fresh process, timed from its spawn to
its first token, in turns: fetched ahead while it imports, `deserialise` alone, stock tensorizer. The
store shares the processors, so it is also measured how busy these are: where they always are, nothing
is left to overlap.

`transfers`: nginx, which limits each connection; one object into memory, in turns: as `cold_start`
fetches it, and by 32 curl processes with a part each. (nginx counts by whole seconds and sends the
first second's bytes of each request at once, so a limit says less than it seems to.) Timed is the transfer
alone: without the interpreter's start, with that of curl.
"""

import argparse
import contextlib
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STARTS = ("cold_start", "deserialise", "tensorizer")
TRANSFERS = ("helpers", "curl")
LIMIT = "80m"
CURLS = 32


def starts(model, rounds, report=print):
    """Seconds from spawn to first token, and how busy the processors are meanwhile, by way and round.

    Parameters
    ----------
    model : workbook.bench.models.Model
        With its files in the formats ``guide`` and ``helpers``.
    rounds : int
    report : callable
        Called with a line of progress.

    Returns
    -------
    seconds, busy : dict of str to list of float
        ``busy`` is the share of the time of all processors, the store's work included.

    Raises
    ------
    RuntimeError
        The ways gave different first tokens, or one of them fetched nothing ahead.
    StorageError
        The store does not start.
    """
    import boto3

    from workbook.samples.servers import object_store

    with object_store() as store:
        client = boto3.session.Session().client("s3")
        for form in ("guide", "helpers"):
            for path in (model.folder / form).iterdir():
                client.upload_file(str(path), store.bucket, f"{form}/{path.name}")
        os.sync()  # what the upload left to write would be written beside the first rounds
        seconds, busy, tokens = {name: [] for name in STARTS}, {name: [] for name in STARTS}, set()
        for turn in range(rounds):
            for name in STARTS:
                run = _start(name, store.bucket, model.hf)
                seconds[name].append(run["seconds"])
                busy[name].append(run["busy"])
                tokens.add(run["token"])
                said = f"{run['seconds']:6.2f} s to the first token, processors {run['busy']:.0%} busy"
                report(f"round {turn + 1}/{rounds}  {name:<12} {said}")
    if len(tokens) > 1:
        raise RuntimeError("the ways gave different models")
    return seconds, busy


def transfers(path, rounds, report=print):
    """Seconds that one object takes into memory, by way and round.

    Parameters
    ----------
    path : pathlib.Path
        A file of weights.
    rounds : int
    report : callable

    Returns
    -------
    dict of str to list of float

    Raises
    ------
    StorageError
        nginx is not installed or does not start.
    """
    from helpers.storage.page_cache import pull
    from workbook.samples.servers import web_server

    found = {name: [] for name in TRANSFERS}
    with web_server(path.parent, limit=LIMIT) as url:
        for turn in range(rounds):
            for name in TRANSFERS:
                pull(path)  # the disk is not what is measured
                one = _ours if name == "helpers" else _curl
                found[name].append(one(f"{url}/{path.name}", path.stat().st_size))
                report(f"round {turn + 1}/{rounds}  {name:<12} {found[name][-1]:6.2f} s")
    return found


def _start(name, bucket, hf):
    import psutil

    from workbook.bench.run import NO_GPU  # here: each start that is timed imports this file

    since = [str(time.perf_counter()), str(psutil.cpu_times().idle)]
    done = subprocess.run(
        [sys.executable, "-m", "workbook.bench.remote", "start", name, bucket, str(hf), *since],
        capture_output=True,
        text=True,
        env=os.environ | NO_GPU,
    )
    if done.returncode or "was not fetched ahead" in done.stderr:
        raise RuntimeError(f"{name}: {done.stderr[-500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _ours(url, size):
    command = [sys.executable, "-m", "workbook.bench.remote", "transfer", url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _curl(url, size):
    """By so many curl processes at once, into files on a memory filesystem."""
    step = -(-size // CURLS)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        start = time.perf_counter()
        running = []
        for at in range(0, size, step):
            wanted = f"{at}-{min(at + step, size) - 1}"
            running.append(subprocess.Popen(["curl", "-sf", "-r", wanted, "-o", f"{folder}/{at}", url]))
        codes = [process.wait() for process in running]
        seconds = time.perf_counter() - start
        came = sum(part.stat().st_size for part in Path(folder).iterdir())
    if any(codes) or came != size:
        raise RuntimeError(f"curl fetched {came} of {size} bytes, exit statuses {set(codes)}")
    return seconds


def start(name, bucket, hf, spawned, idle):
    """Load in one way, compute, print one line of JSON: what a fresh process runs.

    ``spawned`` and ``idle`` are the clock, and the seconds that the processors had been idle, at its spawn.
    """
    source = f"s3://{bucket}/helpers"
    with contextlib.ExitStack() as stack:
        if name == "cold_start":
            from helpers import cold_start

            stack.enter_context(cold_start(source))
        loaded = _stock(bucket, hf) if name == "tensorizer" else _helpers(source)
        from workbook.bench.child import first_token

        token = first_token(loaded)[0]
        seconds = time.perf_counter() - float(spawned)
        import psutil  # here, so that it is no part of the start

        unused = (psutil.cpu_times().idle - float(idle)) / (seconds * psutil.cpu_count())
        print(json.dumps({"seconds": seconds, "busy": 1 - unused, "token": token}))


def _helpers(source):
    from helpers import deserialise

    return deserialise(source, device="cpu", progress=False)


def _stock(bucket, hf):
    from workbook.bench import loaders, models

    model = models.Model("", Path(hf).parent)
    return loaders.tensorizer_from_store(model, f"s3://{bucket}/guide/model.tensors")


def transfer(url):
    """Fetch one object as `helpers.storage.fetcher` does, print the seconds."""
    from helpers.storage import fetch
    from helpers.storage.address import open_store

    start, store = time.perf_counter(), open_store(url)
    length = fetch.probe(store, "").length
    fetch.into_open_file(store, "", os.memfd_create("weights"), length, progress=False)
    print(json.dumps(time.perf_counter() - start))


def main():
    parser = argparse.ArgumentParser(prog="python -m workbook.bench.remote", description=__doc__)
    parser.add_argument("--model", default="135m")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there")
    given = parser.parse_args()
    from workbook.bench import scratch
    from workbook.machine import facts

    with scratch.prepared(given.model, {"guide", "helpers"}) as (model, _):
        path = model.file("helpers")
        seconds, busy = starts(model, given.rounds)
        result = {
            "model": given.model,
            "bytes": path.stat().st_size,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": facts(),
            "starts": seconds,
            "busy": busy,
            "limit": LIMIT,
            "transfers": transfers(path, given.rounds),
        }
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    for group in ("starts", "transfers"):
        medians = {name: statistics.median(seconds) for name, seconds in result[group].items()}
        first = next(iter(medians.values()))
        for name, seconds in medians.items():
            print(f"{group:<10} {name:<12} {seconds:6.2f} s   the first is {first / seconds:.2f} x of it")


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    ways = {"start": start, "transfer": transfer}
    if sys.argv[1:] and sys.argv[1] in ways:
        ways[sys.argv[1]](*sys.argv[2:])
    else:
        main()
