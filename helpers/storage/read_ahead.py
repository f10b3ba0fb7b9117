"""The process that reads ahead: ``python -I -S read_ahead.py PARENT PATH [RECORDING HEADER ROOTS]``.

First what the imports of the start will read, if there is a recording of it, then the weights: both
want the disk, and the imports need theirs first. It ends when it is done or when its parent ends,
and prints one line: bytes of weights read, bytes there are, seconds, whether memory ran short.

Standard library only (see `helpers.prefetch` and `helpers.cold_start`).
"""

import mmap
import os
import sys
import threading
import time

# `python file.py` puts the file's folder first, where names such as http.py would hide the
# standard library's; -I leaves it out, and here it comes last.
sys.path.append(os.path.dirname(os.path.abspath(__file__)))
import filesystems
import memory
import page_cache
import recording

_THREADS = 3  # for the libraries: thousands of small files; where each lies is itself read from the disk
# For the weights: processes, since touching pages holds the interpreter lock, and bytes a step. Two keep
# the disk busy in pages of 2 MB; with more of them each small read of the imports waits behind theirs (all cold,
# 3.4 GB, 4 rounds in turns: 6.5 s to the first token with two, 7.2 s with eight).
_PROCESSES, _STEP = 2, 4 << 20
_NICE = 19  # the imports keep their core: without it they take a fifth longer
_WEIGHTS = (".tensors", ".safetensors", ".gguf", ".bin", ".pt", ".flashpack")


def main(parent: int, path: str, recorded: str = "", first: str = "", roots: str = "") -> None:
    """Read the libraries, then the weights."""
    os.nice(_NICE)
    room = page_cache.within(memory.available_bytes)
    if recorded:
        listed = recording.files(recorded, first, tuple(roots.split(os.pathsep))) or []
        _libraries(listed, lambda size: os.getppid() == parent and room(size))
    if path:
        began = time.monotonic()
        steps = _steps(path)
        done, short = _weights(steps, parent, room)
        print(done, sum(size for *_, size in steps), time.monotonic() - began, int(short))


def _libraries(listed, wanted):
    """Ask for the files, or the parts of them that are used, in their order, some at a time."""
    left = iter(listed)

    def work():
        for name, spans in left:
            try:
                page_cache.ask(name, wanted, spans)
            except OSError:  # gone, or no longer a file: a hint that does not help
                continue

    threads = [threading.Thread(target=work) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _steps(path):
    """(file, offset, bytes) of all files of a model, those of its weights before the others."""
    places = [path, *_base(path)]
    found = [
        os.path.join(folder, name)
        for place in places
        for folder, _, names in os.walk(place)
        for name in names
    ] or [path]
    found.sort(key=lambda name: (not name.endswith(_WEIGHTS), name))
    sizes = [(name, os.path.getsize(name)) for name in found if os.path.isfile(name)]
    return [(name, at, min(_STEP, size - at)) for name, size in sizes for at in range(0, size, _STEP)]


def _base(path):
    """Where the base of saved adapters is (see `helpers.families.adapters`); nothing for any other model."""
    try:
        with open(os.path.join(path, "base.json")) as file:
            import json

            said = json.load(file)
        places = [os.path.join(path, said["relative"]), said["path"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [os.path.realpath(place) for place in places if os.path.isdir(place)][:1]


def _weights(steps, parent, room):
    """Read the steps by some processes in turns; how many bytes were read, and whether memory ran short."""
    count = max(1, min(_PROCESSES, len(steps)))
    said = memoryview(mmap.mmap(-1, 16 * count)).cast(
        "q"
    )  # shared with the processes: bytes done, memory short
    own, processes = os.getpid(), []

    def work(turn, alive):
        def wanted(size):
            if not alive():
                return False
            fits = room(size * count)  # the others take as much
            said[count + turn] |= not fits
            return fits

        for name, spans in _by_file(steps[turn::count]):
            try:
                whole = not filesystems.on_network(name)
                said[turn] += page_cache.pull(name, wanted, spans, whole)
            except OSError:  # gone or unreadable: a hint that does not help
                continue

    for turn in range(1, count):
        if (pid := os.fork()) == 0:
            work(turn, lambda: os.getppid() == own)
            os._exit(0)
        processes.append(pid)
    work(0, lambda: os.getppid() == parent)
    while processes and os.getppid() == parent:  # if it ends so does this process, and then the others
        processes = [pid for pid in processes if os.waitpid(pid, os.WNOHANG) == (0, 0)]
        time.sleep(0.005)
    return sum(said[:count]), any(said[count:])


def _by_file(steps):
    """The steps of each file together, as `page_cache.pull` takes them."""
    spans = {}
    for name, at, size in steps:
        spans.setdefault(name, []).append((at, at + size))
    return spans.items()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
