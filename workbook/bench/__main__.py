"""``python -m workbook.bench``: time the loaders side by side on this machine."""

import argparse
import json
import sys
from pathlib import Path

from workbook.bench import models, pictures, report, run, scratch, streaming
from workbook.bench.routes import ALL, ON_CPU, ON_CUDA
from workbook.bench.states import STATES


def arguments():
    parser = argparse.ArgumentParser(prog="python -m workbook.bench", description=__doc__)
    parser.add_argument(
        "--model", default="smollm2", help=f"{', '.join(models.NAMES)} or a Hugging Face directory"
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--routes", help="names separated by commas; the default depends on the device")
    parser.add_argument("--states", default=",".join(STATES), help="names separated by commas")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there")
    parser.add_argument(
        "--png", type=Path, default=Path("build/bench.png"), help="where the pictures go, one for each state"
    )
    return parser.parse_args()


def main():
    given = arguments()
    usual = ON_CPU if given.device == "cpu" else ON_CUDA
    routes = _known("route", given.routes or ",".join(usual), ALL)
    states = _known("state", given.states, STATES)
    if given.rounds < 1:
        sys.exit("--rounds must be at least 1")
    if given.device == "cuda" and run.machine()["GPU"] == "none":
        sys.exit("no CUDA device here: use --device cpu")
    good, skipped = run.usable(routes, given.device)
    for name, reason in skipped.items():
        print(f"{name}: {reason}", flush=True)
    if not good:
        sys.exit("none of these routes can run here")
    print("preparing the files", flush=True)
    with scratch.prepared(given.model, {ALL[name].form for name in good}) as (model, _):

        def keep(result):  # after every step: the next one may fail, and an hour would be lost
            if given.json and result["runs"]:
                _write(given.json, result | {"skipped": skipped})

        result = run.measure(
            model,
            good,
            given.rounds,
            given.device,
            states,
            report=lambda line: print(line, flush=True),
            keep=keep,
        )
        result["skipped"] = skipped
        keep(result)
        # saving is the processor's and the disk's work, whatever the device
        if given.device == "cpu" and "helpers" in {ALL[name].form for name in good}:
            _turns(result, model, given.rounds, keep)
    if not result["runs"]:
        sys.exit("no round was finished")
    print("\n" + report.table(result))
    _draw(result, given.png)
    if result.get("interrupted"):
        sys.exit(130)
    if failed := result.get("failed"):
        sys.exit("\n".join(f"{what} failed: {reason}" for what, reason in failed.items()))


def _draw(result, target):
    """Save the pictures, where there is something to draw with."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        print("\nno pictures: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    target.parent.mkdir(parents=True, exist_ok=True)
    print()
    for path in pictures.save(result, target):
        print(f"{path} is ready.")


def _known(what, given, names):
    """The names in an argument; ends with a clear line where one is unknown."""
    found = [name.strip() for name in given.split(",")]
    if unknown := [name for name in found if name not in names]:
        sys.exit(f"unknown {what}: {', '.join(unknown)}. Known: {', '.join(names)}")
    return found


def _turns(result, model, rounds, keep):
    """What is measured in turns of its own; a part that fails is named and hides nothing of the others."""
    from workbook.samples import servers  # imports torch, which must not be mapped before

    parts = {"saving": run.saving}
    if (model.folder / "guide").exists() and servers.weed():
        parts["streaming"] = streaming.measure
    for name, measure in parts.items():
        if result.get("interrupted"):
            return
        print(f"{name}, in turns with stock tensorizer", flush=True)
        try:
            result[name] = measure(model, rounds)
        except KeyboardInterrupt:
            result["interrupted"] = True
        except Exception as error:  # whatever it is, it is told at the end, behind all that was measured
            said = (getattr(error, "stderr", None) or "").strip().splitlines()[-1:]
            result.setdefault("failed", {})[name] = " ".join([f"{type(error).__name__}: {error}", *said])
        keep(result)


def _write(path, result):
    """Write a result in one step, so that an interruption leaves the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(path)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
