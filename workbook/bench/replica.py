"""One replica of a memory measurement: ``python -m workbook.bench.replica ROUTE FOLDER``.

It loads, computes a first token and says it; at a line on its input it counts its memory and says
that; at the next line, or when its input is closed, it ends.
"""

import json
import re
import sys
from pathlib import Path

from workbook.bench.child import first_token
from workbook.bench.models import Model
from workbook.bench.routes import ALL


def main(route, folder):
    """Be a replica until told to end."""
    model = ALL[route][0](Model("", Path(folder)), "cpu")
    print(json.dumps({"token": first_token(model)[0]}), flush=True)
    if sys.stdin.readline():
        print(json.dumps(memory()), flush=True)
        sys.stdin.readline()


def memory():
    """The proportional set size and the anonymous memory of this process, in bytes."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return {key: 1024 * int(re.search(rf"^{key}: +(\d+)", rollup, re.M)[1]) for key in ("Pss", "Anonymous")}


if __name__ == "__main__":
    main(*sys.argv[1:])
