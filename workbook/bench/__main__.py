"""``python -m workbook.bench``: time the loaders side by side on this machine."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from helpers.errors import ModelError
from workbook import paths
from workbook.bench import models, report, run, streaming
from workbook.bench.routes import ALL
from workbook.samples import servers


def arguments():
    parser = argparse.ArgumentParser(prog="python -m workbook.bench", description=__doc__)
    parser.add_argument(
        "--model", default="smollm2", help=f"{', '.join(models.NAMES)} or a Hugging Face directory"
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--routes", default=",".join(ALL), help="names separated by commas")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there")
    parser.add_argument("--png", type=Path, default=Path("build/bench.png"), help="where the picture goes")
    return parser.parse_args()


def main():
    given = arguments()
    routes = [name.strip() for name in given.routes.split(",")]
    if unknown := [name for name in routes if name not in ALL]:
        sys.exit(f"unknown route: {', '.join(unknown)}. Known: {', '.join(ALL)}")
    if given.rounds < 1:
        sys.exit("--rounds must be at least 1")
    if given.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            sys.exit("no CUDA device here: use --device cpu")
    good, skipped = run.usable(routes, given.device)
    for name, reason in skipped.items():
        print(f"{name}: {reason}", flush=True)
    if not good:
        sys.exit("none of these routes can run here")
    paths.CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.CACHE, prefix=".bench-") as scratch:
        print("preparing the files", flush=True)
        try:
            model = models.prepare(given.model, {ALL[name][1] for name in good}, Path(scratch))
        except ModelError as error:
            sys.exit(str(error))

        def keep(result):  # after every step: the next one may fail, and half an hour would be lost
            if given.json and result["runs"]:
                _write(given.json, result | {"skipped": skipped})

        result = run.measure(
            model,
            good,
            given.rounds,
            given.device,
            report=lambda line: print(line, flush=True),
            keep=keep,
        )
        keep(result)
        if not result.get("interrupted") and "helpers" in {ALL[name][1] for name in good}:
            print("saving, in turns with stock tensorizer", flush=True)
            result["saving"] = run.saving(model, given.rounds)
            keep(result)
            if (model.folder / "guide").exists() and servers.weed():
                print("loading from S3 on loopback, in turns with stock tensorizer", flush=True)
                result["streaming"] = streaming.measure(model, given.rounds)
                keep(result)
    if not result["runs"]:
        sys.exit("no round was finished")
    print("\n" + report.table(result))
    given.png.parent.mkdir(parents=True, exist_ok=True)
    import matplotlib

    matplotlib.use("Agg")
    report.picture(result, "cold").figure.savefig(given.png, dpi=120)
    print(f"\n{given.png} is ready.")
    if result.get("interrupted"):
        sys.exit(130)


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
