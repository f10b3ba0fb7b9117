"""Make the start of a process faster: read ahead what it will read, and let it collect no garbage.

When a load costs nothing, a start is imports, libraries and page faults. This is for all of them,
and for any loader: the format of the weights does not matter.

Standard library only, and little of it: this runs before everything else.
"""

import gc
import os
import threading
from typing import Any

from helpers.prefetch import read_ahead
from helpers.storage import is_remote, recording

_lock = threading.Lock()
_open = 0  # blocks, over all threads
_was_collecting = False  # before the first of them


def cold_start(source: str | os.PathLike, *, cache: str | os.PathLike | None = None) -> "ColdStart":
    """Start faster: put this around the imports and the load of a service.

    Inside the block

    - a process of its own reads ahead what the imports will read, libraries first, then the weights
      (as `prefetch` does, with the same guard of the memory). What the imports read is recorded at the
      first start, for each source; it is recorded anew when packages change. The recording is a list
      of file names, with the parts of large libraries that were used, in the user's cache directory
      (``XDG_CACHE_HOME`` or ``~/.cache``).
      ``python -m helpers record SOURCE`` makes it while an image is built;
    - Python's cyclic garbage collector is paused: it takes a fifth of the time of the imports
      (3.6 s instead of 2.9 s for torch and a Llama class, 2 cores) and finds nothing in them.

    At its end the collector is as it was before, and what was imported is frozen (``gc.freeze``), so that
    later collections pass it by. An exception in the block ends the reading, freezes and records
    nothing, and is raised as it is. Blocks may be nested and may run in several threads: the
    collector is put back at the end of the last one.

    What it cannot do makes a start slower at most: a source that does not exist, a recording that is
    missing, outdated or damaged, a cache directory that cannot be written (then a record in the log
    ``helpers`` says so).

    Parameters
    ----------
    source : str or path-like
        What will be loaded: a directory or a file of weights, of any kind; or an address
        (``s3://bucket/prefix``, ``http(s)://host/prefix``) of a saved model, which is then fetched
        while the imports run: `deserialise` finds it in the block under the same address.
    cache : str or path-like, optional
        For an address, the directory that `deserialise` will get as ``cache=``.

    Returns
    -------
    context manager

    Examples
    --------
    >>> with cold_start("models/mine"):
    ...     from helpers import deserialise
    """
    return ColdStart(os.fspath(source), cache)


class ColdStart:
    """The block of a `cold_start`."""

    def __init__(self, source: str, cache: str | os.PathLike | None) -> None:
        self.source, self.cache = source, cache

    def __enter__(self) -> None:
        self._fetching: Any = None
        path = os.path.expanduser(self.source)
        if is_remote(self.source):
            from helpers.storage import ahead

            self._fetching, path = ahead.begin(self.source, self.cache), ""
        self._header, kept = recording.header(), recording.usable(self.source)
        roots = recording.roots()
        self._reader = read_ahead(path, (kept, self._header, os.pathsep.join(roots)) if kept else ())
        own = recording.place(self.source)
        is_good = kept == own and recording.files(own, self._header, roots) is not None
        self._recorded = None if is_good else recording.begin()
        _pause()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        _resume(freeze=kind is None)
        found = self._recorded() if self._recorded else None
        if self._fetching:
            self._fetching.end()
        if kind is not None:
            if self._reader:
                self._reader.stop()
        elif found is not None:
            _keep(recording.place(self.source), self._header, found)


def _pause():
    """Switch the collector off, at the first of the blocks that are open."""
    global _open, _was_collecting
    with _lock:
        if _open == 0:
            _was_collecting = gc.isenabled()
            gc.disable()
        _open += 1


def _resume(freeze):
    """At the end of the last block: leave out what there is from later collections, and switch it on again."""
    global _open
    with _lock:
        _open -= 1
        if _open:
            return
        if freeze:
            gc.freeze()
        if _was_collecting:
            gc.enable()


def _keep(path, header, found):
    try:
        recording.write(path, header, found)
    except OSError as error:
        import logging

        said = f"the next start cannot read its libraries ahead: {path} cannot be written ({error.strerror})"
        logging.getLogger("helpers").warning("%s; set XDG_CACHE_HOME to a directory that can", said)
