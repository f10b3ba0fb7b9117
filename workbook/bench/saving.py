"""How long saving takes: `serialise` against stock tensorizer, both flushed to the disk."""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from workbook.bench import loaders
from workbook.bench.files import Model


def main(hf, rounds):
    """Load a model, save it in turns with both, print the seconds as one line of JSON."""
    model = Model("", Path(hf).parent)
    loaded = model.model_class().from_pretrained(model.hf, **loaders.as_saved(model))
    ways = {"write_module": _stock, "serialise": _ours}
    times = {name: [] for name in ways}
    # beside the model: the same disk, and removed also after Ctrl-C
    with tempfile.TemporaryDirectory(dir=model.folder, prefix=".saving-") as place:
        for turn in range(rounds + 1):
            for name in list(ways)[:: -1 if turn % 2 else 1]:  # what one leaves to the disk, both meet
                seconds = ways[name](loaded, Path(place) / f"{name}-{turn}")
                if turn:  # the first one reads the model, which is only mapped, and imports
                    times[name].append(seconds)
    print(json.dumps(times))


def _stock(model, path):
    from tensorizer import TensorSerializer

    start = time.perf_counter()
    serialiser = TensorSerializer(str(path))
    serialiser.write_module(model)
    serialiser.close()
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    path.unlink()
    return seconds


def _ours(model, path):
    from helpers import serialise

    start = time.perf_counter()
    serialise(model, path, progress=False)
    seconds = time.perf_counter() - start
    (path / "model.tensors").unlink()
    return seconds


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main(sys.argv[1], int(sys.argv[2]))
