"""The files that a start reads besides the weights: ``python -m workbook.bench.libraries FOLDER PACKAGE …``."""

import contextlib
import importlib
import json
import os
import sys
from pathlib import Path

from workbook.bench import loaders
from workbook.bench.child import first_token
from workbook.bench.files import Model

_NO_DISK = ("/proc/", "/sys/", "/dev/")


def main(folder, *packages):
    """Make one start, import what the other loaders need, print the paths of all files read as JSON.

    An audit hook sees every file that Python opens: source and byte code, metadata, data. What the
    system's loader maps by itself, shared libraries, stands in ``/proc/self/maps``.
    """
    found = {getattr(module, "__cached__", None) for module in list(sys.modules.values())}  # before the hook
    sys.addaudithook(lambda event, told: found.add(told[0]) if event == "open" else None)
    model = Model("", Path(folder))
    first_token(loaders.from_pretrained(model, "cpu"))
    for package in packages:
        with contextlib.suppress(Exception):  # one that cannot be imported here: its own route will say so
            importlib.import_module(package)
    from helpers import deserialise  # noqa: F401 - what a load imports counts too

    maps = Path("/proc/self/maps")
    if maps.exists():
        found |= {line.split(maxsplit=5)[-1] for line in maps.read_text().splitlines()}
    names = {os.path.abspath(name) for name in found if isinstance(name, str) and os.path.isfile(name)}
    own = str(model.folder.resolve()) + os.sep
    print(json.dumps(sorted(n for n in names if not os.path.realpath(n).startswith((own, *_NO_DISK)))))


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main(*sys.argv[1:])
