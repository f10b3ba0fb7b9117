"""How long saving takes: `serialise` against stock tensorizer, both flushed to the disk."""

import json
import os
import sys
import tempfile
import time
from pathlib import Path


def main(hf, rounds):
    """Load a model, save it in turns with both, print the seconds as one line of JSON."""
    from tensorizer import TensorSerializer

    from helpers import serialise
    from workbook.bench.models import class_of

    hf = Path(hf)
    cls = class_of(hf)
    kind = {"torch_dtype": "auto"} if hasattr(cls, "load_config") else {}
    model = cls.from_pretrained(hf, **kind)
    times = {"serialise": [], "write_module": []}
    # beside the model: the same disk, and removed also after Ctrl-C
    with tempfile.TemporaryDirectory(dir=hf.parent, prefix=".saving-") as place:
        for turn in range(rounds):
            start = time.perf_counter()
            serialiser = TensorSerializer(f"{place}/stock")
            serialiser.write_module(model)
            serialiser.close()
            with open(f"{place}/stock", "rb") as file:
                os.fsync(file.fileno())
            times["write_module"].append(time.perf_counter() - start)
            os.unlink(f"{place}/stock")
            start = time.perf_counter()
            serialise(model, f"{place}/ours-{turn}", progress=False)
            times["serialise"].append(time.perf_counter() - start)
            (Path(place) / f"ours-{turn}" / "model.tensors").unlink()
    print(json.dumps(times))


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main(sys.argv[1], int(sys.argv[2]))
