"""What a machine with a GPU can tell in a few minutes: the tests marked ``gpu``, then the benchmark.

It needs a Python that has torch, and neither a network nor an environment of this project: what is missing
is installed from build/gpu-wheels (`make gpu-wheels`) into a folder that goes when it ends. Standard library
only. One JSON and a log are written to build/gpu, or to the directory that ``OUT`` names, after every part;
at its time limit, or at Ctrl-C, it ends the part that runs and keeps what there is.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from gpu_session import ROOT, Session

WHEELS = ROOT / "build" / "gpu-wheels"
OUT = Path(os.environ.get("OUT") or ROOT / "build" / "gpu")
NEEDED = ("torch", "tensorizer", "transformers", "diffusers", "safetensors", "psutil", "tqdm", "pytest")
LIMIT = 520  # seconds: nine minutes with all that begins and ends around it
TESTS = 150  # of them at most for the tests
LARGE = "7b"  # of it two formats have to do: four would take 54 GB of disk


def install(session, site):
    """Install what is missing; what is there stays, whatever its version."""
    installed, names = {}, []
    for wheel in sorted(WHEELS.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = version
            names.append(str(wheel))
        else:
            if found != version:
                session.say(f"{name} {found} is there, and used instead of {version}")
    if names:
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--no-compile",
        ]
        command += ["--disable-pip-version-check", "--target", str(site), *names]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            session.result["failed"]["installation"] = (done.stderr.strip().splitlines() or ["pip failed"])[
                -1
            ]
    if (WHEELS / "libsodium.so").exists() and (site / "libnacl").exists():
        shutil.copyfile(
            WHEELS / "libsodium.so", site / "libnacl" / "libsodium.so"
        )  # where libnacl looks last
    session.result["installed"] = installed
    session.say(f"installed for this run: {', '.join(installed) or 'nothing'}")


def environment(session, site):
    """The variables of every part."""
    paths = [str(ROOT), str(site), os.environ.get("PYTHONPATH", "")]
    session.environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TQDM_DISABLE": "1",
    }


def check(session):
    """What is there, and the names of needed packages that are not."""
    code = (
        "import importlib.metadata as m, importlib.util as u, json; from workbook.machine import facts; "
        "print(json.dumps({'machine': facts(), 'versions': {d.name: d.version for d in m.distributions()}, "
        f"'missing': [n for n in {NEEDED} if u.find_spec(n) is None]}}))"
    )
    said = session.run("check", ["-c", code], session.left(), quiet=True)
    try:
        found = json.loads(said.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return None
    session.result |= found
    if session.given.device != "cpu" and found["machine"]["GPU"] == "none":
        session.result["failed"]["check"] = "torch sees no CUDA device"
    for name in found["missing"]:
        session.result["skipped"][name] = "not installed, and no wheel of it in build/gpu-wheels"
    if shutil.which("nvidia-smi"):
        done = subprocess.run(["nvidia-smi"], capture_output=True, text=True)
        session.log.write(done.stdout)
    return found


def tests(session):
    """The tests marked ``gpu``: counts, and what each one that did not pass said."""
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text()]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        command = ["-m", "pytest", "-q", "-rs", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}"]
        command += ["--continue-on-collection-errors", *map(str, sorted(files))]
        session.run("tests", command, min(TESTS, session.left()))
        found = {"passed": 0, "failed": 0, "skipped": 0, "what": {}}
        if report.exists():
            for case in xml.etree.ElementTree.parse(report).iter("testcase"):
                outcome, reason = "passed", ""
                for child in case:
                    if child.tag in ("failure", "error", "skipped"):
                        outcome = "skipped" if child.tag == "skipped" else "failed"
                        reason = child.get("message") or ""
                found[outcome] += 1
                if reason:
                    found["what"][f"{case.get('classname')}::{case.get('name')}"] = f"{outcome}: {reason}"
        session.result["tests"] = found


def bus(session):
    """The limit: one large copy from pinned memory to the device."""
    said = session.run("bus", ["-m", "workbook.bench.bus", session.given.device], min(60, session.left()))
    try:
        session.result["bus"] = json.loads(said.strip().splitlines()[-1])
    except (ValueError, IndexError):
        pass  # what it said instead is its failure, noted already


def bench(session, model, seconds):
    """The benchmark with one model, its JSON as it is."""
    given = session.given
    routes = given.routes or (_of_two_formats() if model == LARGE else "")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.json"
        command = [
            "-m",
            "workbook.bench",
            "--model",
            model,
            "--device",
            given.device,
            "--rounds",
            str(given.rounds),
        ]
        command += ["--states", given.states, "--json", str(file), "--png", str(Path(folder) / "bench.png")]
        session.run(model, command + (["--routes", routes] if routes else []), seconds)
        if file.exists():
            session.result.setdefault("bench", {})[model] = json.loads(file.read_text())


def _of_two_formats():
    """The routes that read the checkpoint or what `serialise` saves."""
    sys.path.insert(0, str(ROOT))
    from workbook.bench.routes import ALL, ON_CUDA

    return ",".join(name for name in ON_CUDA if ALL[name].form in ("hf", "helpers"))


def run_all(session):
    """All parts in turn, as far as the time goes; the benchmarks share what is left."""
    parts = session.given.parts.split(",")
    models = [part for part in parts if part not in ("tests", "bus")]
    for part in parts:
        if session.left() < 5:
            session.result["skipped"][part] = "no time was left"
            continue
        session.say(f"\n== {part}, {session.left():.0f} s are left")
        begin = time.monotonic()
        if part == "tests":
            tests(session)
        elif part == "bus":
            bus(session)
        else:
            bench(session, part, session.left() / (len(models) - models.index(part)))
        session.result.setdefault("seconds", {})[part] = round(time.monotonic() - begin, 1)
        session.keep()


def summary(session):
    """The last lines: what passed, what failed, what was skipped or cut."""
    result = session.result
    if found := result.get("tests"):
        session.say(
            f"\ntests: {found['passed']} passed, {found['failed']} failed, {found['skipped']} skipped"
        )
    for name, found in result.get("bench", {}).items():
        runs = found["runs"]
        session.say(f"{name}: {sum('failed' not in run for run in runs)} of {len(runs)} starts were measured")
        for route, reason in found.get("skipped", {}).items():
            session.say(f"{name}: {route} was skipped: {reason}")
    for what in ("skipped", "failed"):
        for name, reason in result[what].items():
            session.say(f"{name} {'was skipped' if what == 'skipped' else 'failed'}: {reason}")
    if result["cut"]:
        session.say(f"cut short at the time limit: {', '.join(result['cut'])}")
    session.say(f"{OUT / 'gpu.json'} and gpu.log are written")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: a rehearsal")
    parser.add_argument("--parts", default="tests,bus,1.7b,7b", help="tests, bus, models of the benchmark")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for all of it")
    parser.add_argument("--routes", help="of the benchmark; by default those that tell most on a GPU")
    parser.add_argument("--rounds", type=int, default=3, help="of the benchmark, as far as the time goes")
    parser.add_argument("--states", default="warm,weights cold", help="of the benchmark")
    given = parser.parse_args()
    if find_spec("torch") is None:
        sys.exit(f"{sys.executable} has no torch: name a Python that has (make gpu PYTHON=…)")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    session = Session(given, OUT)
    with tempfile.TemporaryDirectory(prefix="gpu-site-") as site:
        try:
            install(session, Path(site))
            environment(session, Path(site))
            if check(session) and "check" not in session.result["failed"]:
                run_all(session)
        except KeyboardInterrupt:
            session.result["cut"].append("all")
        finally:
            session.keep()
            summary(session)
    failed = session.result["failed"] or session.result.get("tests", {}).get("failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
