"""Make the start of a process faster: read ahead what it will read, and let it collect no garbage.

When a load costs nothing, a start is imports, libraries and page faults. This is for all of them,
and for any loader: the format of the weights does not matter.

Standard library only, and little of it: this runs before everything else.
"""

import gc
import os
import threading
from typing import Any

from helpers.prefetch import Reader, read_ahead, say_missing
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
      (3.6 s instead of 2.9 s for torch and a Llama class, 2 cores) and finds next to nothing in them.

    At its end the collector is as it was before, and what was imported is frozen (``gc.freeze``), so that
    later collections pass it by. So is all else that is alive at the end of the first block, its model too:
    it is freed when the last reference to it goes, unless it is in a reference cycle. What comes after that,
    such as a model that is loaded in a second block, is collected as usual.

    An exception in the block ends the reading, freezes and records nothing, and is raised as it is. Blocks
    may be nested and may run in several threads: the collector is put back at the end of the last one. A
    process that is forked off inside the block and leaves it ends nothing of what its parent has begun.

    What it cannot do makes a start slower at most: a source that does not exist, a recording that is
    missing, outdated or damaged, a cache directory that cannot be written (then a record in the log
    ``helpers`` says so).

    Parameters
    ----------
    source : str or path-like
        What will be loaded: a directory or a file of weights, of any kind (for a name on the hub
        ``huggingface_hub.snapshot_download(name)``, its directory: a name is not looked up); or an address
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
        self._owner = os.getpid()
        self._fetching: Any = None
        self._reader: Reader | None = None
        self._noted: dict[str, None] | None = None
        self._is_missing = False
        try:
            self._begin()
        except BaseException:
            self._end(has_failed=True)
            raise
        _pause()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        _resume(freeze=kind is None)
        self._end(has_failed=kind is not None)

    def _begin(self):
        path = os.path.expanduser(self.source)
        if is_remote(self.source):
            from helpers.storage import ahead

            self._fetching, path = ahead.begin(self.source, self.cache), ""
        else:
            self._is_missing = not os.path.exists(path)
        self._header, roots = recording.header(), recording.roots()
        # kept until the end: a relative source means another place once the block has changed the directory
        self._own, kept = recording.place(self.source), recording.usable(self.source)
        self._reader = read_ahead(path, (kept, self._header, os.pathsep.join(roots)) if kept else ())
        if kept != self._own or recording.files(self._own, self._header, roots) is None:
            self._noted = recording.begin()

    def _end(self, has_failed):
        """End what `_begin` began; in a process that was forked off inside the block all of that is its parent's."""
        is_own = os.getpid() == self._owner
        try:
            if self._noted is not None:
                recording.end(self._noted)
                if is_own and not has_failed:
                    _keep(self._own, self._header, self._noted)
        finally:
            if is_own and self._is_missing and not has_failed:  # else the load's own error is enough
                say_missing(self.source)
            if is_own and has_failed and self._reader:
                self._reader.stop()
            if self._fetching:
                self._fetching.end()


def _pause():
    """Switch the collector off, at the first of the blocks that are open."""
    global _open, _was_collecting
    with _lock:
        if _open == 0:
            _was_collecting = gc.isenabled()
            gc.disable()
        _open += 1


def _resume(freeze):
    """At the end of the last block: leave out what there is from later collections, and put the collector back."""
    global _open
    with _lock:
        _open -= 1
        if _open:
            return
        if freeze and not gc.get_freeze_count():  # once: what is garbage by then would be kept for good
            gc.freeze()
        (gc.enable if _was_collecting else gc.disable)()


def _keep(path, header, noted):
    """Write the recording; a start that succeeded stays one, whatever is in the way of that."""
    try:
        recording.write(path, header, recording.listed(noted))
    except Exception as error:
        import logging

        reason = getattr(error, "strerror", None) or error
        said = f"the next start cannot read its libraries ahead: {path} cannot be written ({reason})"
        logging.getLogger("helpers").warning("%s; set XDG_CACHE_HOME to a directory that can", said)
