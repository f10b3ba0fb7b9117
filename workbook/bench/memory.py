"""What N processes with one model take together: pages that they share, and their own.

    python -m workbook.bench.memory MODEL [FILE.json]

MODEL is a name of the benchmark (1.7b) or a Hugging Face directory.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

from helpers.errors import ModelError, StorageError

WAYS = ("helpers mapped", "helpers read", "from_pretrained")
COUNTS = (1, 2, 4)
_EACH = 700 << 20  # bytes besides the weights


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
            said = _together(way, model.folder, count)
            pss, private = (sum(one[key] for one in said) for key in ("Pss", "Anonymous"))
            found.append({"way": way, "replicas": count, "pss": pss, "private": private})
    return found


def _together(way, folder, count):
    """The memory of so many replicas while all of them are there; none is left, whatever happens."""
    with contextlib.ExitStack() as stack:
        replicas = [stack.enter_context(process("replica", way, folder)) for _ in range(count)]
        tokens = {answer(replica, way)["token"] for replica in replicas}
        assert len(tokens) == 1, "replicas answered differently"
        return counted(replicas, way)


@contextlib.contextmanager
def process(module, *arguments):
    """A process of a module of `workbook.bench` that answers line by line, for the length of the block."""
    command = [sys.executable, "-m", f"workbook.bench.{module}", *map(str, arguments)]
    quiet = os.environ | {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=quiet, text=True, **pipes) as started:
        try:
            yield started
        finally:
            started.kill()


def answer(replica, way):
    """The next line that a replica says.

    Raises
    ------
    ModelError
        It has ended instead.
    """
    line = replica.stdout.readline()
    if not line:
        raise ModelError(way, "a replica ended without an answer", "Read what it printed above.")
    return json.loads(line)


def counted(replicas, way):
    """What each of the replicas that have answered says of its memory; errors as `answer`."""
    for replica in replicas:
        replica.stdin.write("\n")
        replica.stdin.flush()
    return [answer(replica, way) for replica in replicas]


def main(name, target=None):
    from workbook.bench import scratch
    from workbook.machine import facts

    with scratch.prepared(name, {"hf", "helpers"}) as (model, _):
        result = {"model": name, "machine": facts(), "bytes": model.file("helpers").stat().st_size}
        result["memory"] = measure(model)
    for row in result["memory"]:
        print(f"{row['way']:<16} {row['replicas']} replicas: {row['pss'] / 1e9:6.2f} GB together, "
              f"{row['private'] / 1e9:6.2f} GB private")  # fmt: skip
    if target:
        Path(target).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
