"""The process that fetches a model for another one, which is importing meanwhile (`helpers.storage.ahead`).

It says what it has found, and each file of weights that is whole, in lines of JSON on the socket that
is its standard input. What is long (manifest, small files) and the weights come as files in memory, whose
descriptors go along with the first line. It ends when it is done, or when nobody listens any longer.
"""

import contextlib
import fcntl
import json
import mmap
import os
import select
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from helpers.errors import CorruptFile, ModelError, StorageError
from helpers.format import hashes, manifest
from helpers.format.head import check_head
from helpers.storage import atomic, cache, fetch, memory
from helpers.storage.address import open_store
from helpers.storage.http import Changed, Missing, Store
from helpers.storage.names import is_bare
from helpers.storage.page_cache import pull, within
from helpers.storage.saved_files import small_files, weights

_SHARE = 0.75  # of the memory that is available; the rest is for the process that loads
_GRACE = 1.0  # seconds for an unfinished copy to be removed by who makes it


class _Line:
    """The connection to the process that loads."""

    def __init__(self):
        self.socket = socket.socket(fileno=0)
        self.unfinished: Path | None = None  # the copy that is being made

    def found(self, identity, files, wanted):
        """Say what is there; wanted: the descriptors of the weights by path."""
        sizes = [(name, len(content)) for name, content in files.items()]
        listed = {"identity": len(identity), "files": sizes, "weights": list(wanted)}
        head = json.dumps(listed).encode()
        with open(_file("found"), "wb") as file:
            file.writelines([head, identity, *files.values()])
            file.flush()
            line = json.dumps({"found": len(head)}).encode() + b"\n"
            socket.send_fds(self.socket, [line], [file.fileno(), *wanted.values()])

    def say(self, **message):
        self.socket.sendall(json.dumps(message).encode() + b"\n")


def main(source: str, cache: str | None, parent: int) -> None:
    """Fetch a source, into a cache if one is named, and say so.

    Parameters
    ----------
    source : str
    cache : str or None
    parent : int
        The process that started this one, by its own word: asked for here, it could be gone already.
    """
    line, stopping = _Line(), threading.Event()
    threading.Thread(target=_watch, args=(line, parent, stopping), daemon=True).start()
    try:
        store = open_store(source)
        if cache is not None:
            _into_cache(line, store, cache, stopping)
        elif is_bare(source):
            _bare_file(line, store, stopping)
        else:
            _into_memory(line, store, stopping)
    except Exception as error:  # whatever it is, the load goes its own way and meets it there
        with contextlib.suppress(ConnectionError):  # nobody listens any longer
            line.say(failed=_words(error))


def _watch(line, parent, stopping):
    """End this process once the other one has ended, or closed the connection."""
    while os.getppid() == parent:  # a process that it forked off may hold the connection open
        try:
            if select.select([line.socket], [], [], 1)[0] and not line.socket.recv(1):
                break
        except ConnectionError:  # closed before everything was read
            break
    stopping.set()
    if line.unfinished is not None:
        time.sleep(_GRACE)
        _remove(line.unfinished)  # still there: those who write to it wait for a store that says nothing
    os._exit(1)


def _remove(copy):
    """Remove an unfinished copy, renamed first: what has got its final name in this instant stays whole."""
    unwanted = f"{copy}-unwanted"
    with contextlib.suppress(OSError):  # it is finished, or gone
        os.rename(copy, unwanted)
        shutil.rmtree(unwanted, ignore_errors=True)


def _words(error):
    """An error without anything secret: only our own are known to hold nothing of that kind."""
    if isinstance(error, Missing):
        return f"{error} is missing"
    if isinstance(error, Changed):
        return "it was replaced while it was fetched"
    return str(error) if isinstance(error, ModelError) else type(error).__name__


def _into_memory(line, store, stopping):
    text = fetch.small(store, manifest.NAME, manifest.LIMIT)
    record = manifest.parse(text, store.name(manifest.NAME))
    files = small_files(store, record)
    wanted = list(weights(record, files, store.label))
    _check_memory(store, sum(part.length for _, part in wanted))
    opened = {path: _file("weights") for path, _ in wanted}
    line.found(text, files, opened)
    for path, part in wanted:
        sure = fetch.into_open_file(store, path, opened[path], part.length, progress=False, stopping=stopping)
        _seal(opened[path])
        line.say(done=path, is_one_version=sure)


def _bare_file(line, store, stopping):
    found = fetch.probe(store, "")
    if not found.length:
        raise StorageError(store.label, "is empty, or of an unknown length", "It is loaded without this.")
    _check_memory(store, found.length)
    file = _file("weights")
    line.found(f"{found.length} {found.version}".encode(), {}, {"": file})
    sure = fetch.into_open_file(store, "", file, found.length, progress=False, stopping=stopping)
    _seal(file)
    line.say(done="", is_one_version=sure)


def _into_cache(line, store, place, stopping):
    """Make the copy that is wanted; read the one that is there ahead."""
    text = fetch.small(store, manifest.NAME, manifest.LIMIT)
    record = manifest.parse(text, store.name(manifest.NAME))
    line.found(text, {}, {})
    path = cache.directory_for(store.label, place)
    with cache.alone(path):
        is_there = _content(path / manifest.NAME) == text
        if not is_there:
            with atomic.directory(path, overwrite=True, strangers=lambda _: ()) as folder:
                line.unfinished = folder
                _fill(folder, store, text, record, stopping)
    line.say(done="", is_one_version=True)
    if is_there:
        room = within(memory.available_bytes)
        for file in sorted(path.rglob(manifest.TENSORS)):
            pull(file, lambda size: not stopping.is_set() and room(size))


def _fill(folder: Path, store: Store, text: bytes, record: manifest.Manifest, stopping: Any) -> None:
    """Fetch all files of a model into a directory and compare them with their hashes."""
    files = small_files(store, record)
    for name, content in (files | {manifest.NAME: text}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for path, part in weights(record, files, store.label):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        fetch.into_file(store, path, folder / path, part.length, progress=False, stopping=stopping)
        _check(folder / path, store.name(path), part)


def _check(path, label, record):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        check_head(label, raw, len(raw), record)
        if not record.encryption:
            with memoryview(raw) as data:
                hashes.compare(
                    label, lambda start, stop: data[start:stop], record.records, record.stated, progress=False
                )
        elif hashes.of_file(path) != record.files[manifest.TENSORS]:
            raise CorruptFile(label, "is not what was saved", "Upload the model again.")


def _content(path):
    try:
        return path.read_bytes()
    except OSError:
        return None


def _file(name):
    """A file without a name: in memory, or where the system has none such, in the temporary directory."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _seal(file):
    """Nobody can write to it or cut it any more, so whoever maps it is safe."""
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)


def _check_memory(store, needed):
    """Refuse what the system cannot hold, or hand over in memory."""
    if not (hasattr(os, "memfd_create") and os.path.exists("/proc/self/fd/0")):
        raise StorageError(store.label, "this system has no files in memory", "Pass cache= to fetch ahead.")
    available = int(memory.available_bytes() * _SHARE)
    if needed > available:
        said = f"its {needed:,} bytes of weights are more than the {available:,} of memory that may be used"
        raise StorageError(store.label, said, "Pass cache= to fetch ahead, or free some memory.")
