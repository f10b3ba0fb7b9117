"""What N processes with one model take together: pages that they share, and their own.

    python -m workbook.bench.memory MODEL [FILE.json]

MODEL is a name of the benchmark (1.7b) or a Hugging Face directory.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers.errors import StorageError
from workbook import places

WAYS = ("helpers mapped", "helpers read", "from_pretrained")
COUNTS = (1, 2, 4)
_EACH = 700 << 20  # bytes besides the weights

_REPLICA = r"""
import json, re, sys
from pathlib import Path
from workbook.bench.child import first_token
from workbook.bench.models import Model
from workbook.bench.routes import ALL
model = ALL[sys.argv[1]][0](Model("", Path(sys.argv[2])), "cpu")
print(json.dumps({"token": first_token(model)[0]}), flush=True)
sys.stdin.readline()
rollup = Path("/proc/self/smaps_rollup").read_text()
found = {key: 1024 * int(re.search(rf"^{key}: +(\d+)", rollup, re.M)[1]) for key in ("Pss", "Anonymous")}
print(json.dumps(found), flush=True)
sys.stdin.readline()
"""


def measure(model, ways=WAYS, counts=COUNTS):
    """Proportional and private memory of N replicas, all of which have computed a first token.

    Parameters
    ----------
    model : workbook.bench.models.Model
    ways : sequence of str
        Names of `workbook.bench.routes.ALL`.
    counts : sequence of int

    Returns
    -------
    list of dict
        ``way``, ``replicas``, ``pss`` and ``private``: bytes of all replicas together. The
        proportional set size counts a page that N processes share as 1/N for each.

    Raises
    ------
    StorageError
        Too little memory for the largest number, said before anything starts.
    """
    from helpers.storage import memory

    size = model.file("hf").stat().st_size
    needed = max(counts) * (_EACH + (size if "helpers read" in ways else 0)) + size
    if needed > memory.available_bytes():
        raise StorageError(
            "memory",
            f"{max(counts)} replicas need about {needed:,} bytes, {memory.available_bytes():,} are available",
            "Choose a smaller model or fewer replicas.",
        )
    found = []
    for way in ways:
        for count in counts:
            replicas = [_start(way, model.folder) for _ in range(count)]
            tokens = {json.loads(replica.stdout.readline())["token"] for replica in replicas}
            assert len(tokens) == 1, "replicas answered differently"
            for replica in replicas:
                replica.stdin.write("\n")
                replica.stdin.flush()
            said = [json.loads(replica.stdout.readline()) for replica in replicas]
            for replica in replicas:
                replica.communicate("\n")
            pss, private = (sum(one[key] for one in said) for key in ("Pss", "Anonymous"))
            found.append({"way": way, "replicas": count, "pss": pss, "private": private})
    return found


def _start(way, folder):
    command = [sys.executable, "-c", _REPLICA, way, str(folder)]
    quiet = os.environ | {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, env=quiet, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def main(name, target=None):
    from workbook.bench import models
    from workbook.machine import facts

    with tempfile.TemporaryDirectory(dir=places.CACHE, prefix=".bench-") as scratch:
        model = models.prepare(name, {"hf", "helpers"}, Path(scratch))
        result = {"model": name, "machine": facts(), "bytes": model.file("helpers").stat().st_size}
        result["memory"] = measure(model)
    for row in result["memory"]:
        print(f"{row['way']:<16} {row['replicas']} replicas: {row['pss'] / 1e9:6.2f} GB together, "
              f"{row['private'] / 1e9:6.2f} GB private")  # fmt: skip
    if target:
        Path(target).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
