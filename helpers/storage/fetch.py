"""Read whole objects from a store: in parallel, resumed where a connection was cut, or not at all."""

import hashlib
import mmap
import os
import time
from collections.abc import Callable
from threading import Event
from typing import Any

from helpers.errors import CorruptFile, StorageError, storage_errors
from helpers.progress import progress_bar
from helpers.storage import pace, page_cache
from helpers.storage.http import Body, Changed, Interrupted, Store, get, receive

READERS = pace.FIRST  # requests at a time for small files, each of which takes one
# Bytes a request: at least what S3's guide to performance advises, so that its delay is small
# against it; of a large object more, since each request costs the server some work.
_PIECES = (8 << 20, 64 << 20)
_STEP = 1 << 20  # bytes received at a time
_TRIES = 5
_PAUSE = 0.2  # seconds before the second try, twice as long and more before each further one
_UNWANTED = "nobody waits for it any longer"
_CRAWL = (30, 64 << 10)  # seconds in which at least so many bytes must come


class Memory:
    """A writable buffer that begins at some byte of an object."""

    def __init__(self, buffer: Any, start: int = 0) -> None:
        self.view, self.start = memoryview(buffer), start

    def room(self, at: int, size: int) -> memoryview:
        """Where bytes from ``at`` on are received."""
        return self.view[at - self.start : at - self.start + size]

    def keep(self, at: int, count: int) -> None:
        """Nothing: they are where they shall be."""


class File:
    """An open file, written through a buffer that stays in the processor's cache.

    Receiving into a map of the file would take a page fault, and clear a page, for every 4 KiB:
    measured for a file in memory 1.0 s for each GB, against 0.4 s.
    """

    def __init__(self, file: int) -> None:
        self.file, self.buffer = file, memoryview(bytearray(_STEP))

    def room(self, at: int, size: int) -> memoryview:
        """Where bytes from ``at`` on are received."""
        return self.buffer[:size]

    def keep(self, at: int, count: int) -> None:
        """Write what was received."""
        done = 0
        while done < count:
            done += os.pwrite(self.file, self.buffer[done:count], at + done)


def patiently(name: str, attempt: Callable[[], Any], stopping: Event | None = None) -> Any:
    """Call ``attempt`` until it is not `Interrupted`, five times at most.

    Parameters
    ----------
    name : str
        What is read, for the message.
    attempt : callable
    stopping : threading.Event, optional
        Set by another thread that no longer needs it: there is no further try and no pause.

    Returns
    -------
    object
        What ``attempt`` returned.

    Raises
    ------
    StorageError
        Says what the last try met with.

    Examples
    --------
    >>> patiently("an object", lambda: 7)
    7
    """
    stopping, reason = stopping or Event(), _UNWANTED
    for turn in range(_TRIES):
        if stopping.wait(_PAUSE * (2**turn - 1)):
            break
        try:
            return attempt()
        except Interrupted as error:
            reason = str(error)
    raise StorageError(
        name, f"reading failed {turn + 1} times; the last error was: {reason}", "Check network and server."
    )


def small(store: Store, key: str, limit: int = 1 << 30) -> bytes:
    """The bytes of a small object.

    Parameters
    ----------
    store : helpers.storage.http.Store
    key : str
    limit : int

    Returns
    -------
    bytes

    Raises
    ------
    Missing
        There is no such object.
    StorageError
        The store refuses, or sends more than ``limit`` bytes.
    """

    def attempt():
        body, content, buffer = get(store, key), bytearray(), memoryview(bytearray(_STEP))
        with body.stream:
            while len(content) <= limit and (count := receive(body.stream, buffer)):
                content += buffer[:count]
        if len(content) > limit:
            raise StorageError(store.name(key), f"is larger than {limit:,} bytes", "Check what it is.")
        if body.length not in (None, len(content)):
            raise Interrupted(f"{len(content)} of {body.length} bytes came")
        return bytes(content)

    return patiently(store.name(key), attempt)


def probe(store: Store, key: str, length: int | None = None, stopping: Event | None = None) -> Body:
    """Length, version and whether the server can send parts, of an object.

    Parameters
    ----------
    store : helpers.storage.http.Store
    key : str
    length : int, optional
        What it should be, so that nothing is allocated for an object that is something else.
    stopping : threading.Event, optional
        Set by another thread that no longer needs it: ends soon, with a StorageError.

    Returns
    -------
    helpers.storage.http.Body
        Its stream is closed.

    Raises
    ------
    Missing
        There is no such object.
    CorruptFile
        It is truncated or extended.
    StorageError
        The store refuses, is too often interrupted, or ``stopping`` was set.
    """

    def attempt():
        try:
            body = get(store, key, (0, 64))
        except Changed:  # 416: there is no first byte
            return Body(None, 0, None, False)
        body.stream.close()
        return body

    found = patiently(store.name(key), attempt, stopping)
    if length is not None and found.length not in (None, length):
        said = f"is {'truncated' if found.length < length else 'extended'}: {found.length:,} bytes"
        raise CorruptFile(store.name(key), f"{said} instead of {length:,}", "Upload the model again.")
    return found


def whole(
    store: Store,
    key: str,
    into: Callable,
    length: int,
    found: Body,
    *,
    spans: list[tuple[int, int]] | None = None,
    readers: int | None = None,
    progress: bool = True,
    stopping: Event | None = None,
) -> None:
    """Fill memory or a file with an object.

    Parameters
    ----------
    store : helpers.storage.http.Store
    key : str
    into : callable
        Makes, for each piece, a `Memory` or a `File`.
    length : int
        Of the object.
    found : helpers.storage.http.Body
        From `probe`: every request makes sure that the object is still that one.
    spans : list of (int, int), optional
        Fill these parts alone; a server that sends no parts sends everything.
    readers : int, optional
        Requests at a time; by default as many as make it faster (`helpers.storage.pace`).
    progress : bool
        Show a bar if it takes longer than 1.5 s.
    stopping : threading.Event, optional
        Set by another thread that no longer needs it: ends soon, with a StorageError.

    Raises
    ------
    Changed
        The object was replaced meanwhile.
    Missing
        It was removed meanwhile.
    StorageError
        The store refuses, is too often interrupted, or ``stopping`` was set.
    """
    stopping = stopping or Event()
    if not found.partial:  # the server sends all or nothing
        spans, sizes = [(0, length)], None
    else:
        spans, sizes = [(0, length)] if spans is None else spans, _PIECES
    pieces = pace.Pieces(spans, sizes)
    with progress_bar(pieces.left, "fetch", progress) as bar:

        def fetch(piece, count):
            def report(size):
                count(size)
                bar.update(size)

            _piece(store, key, piece, into(), found, stopping, report)

        pace.run(pieces, fetch, stopping, readers)


def part(store: Store, key: str, start: int, stop: int, found: Body) -> bytearray:
    """The bytes of an object from ``start`` to ``stop``; arguments and errors as for `whole`."""
    if not found.partial:
        raise StorageError(store.name(key), "the server sends no parts of objects", "Load it whole.")
    buffer = bytearray(stop - start)
    _piece(store, key, (start, stop), Memory(buffer, start), found, Event(), lambda count: None)
    return buffer


def digest(store: Store, key: str, found: Body) -> str:
    """The SHA-256 of an object that is read through in parts and kept nowhere, in hexadecimal digits.

    Arguments and errors as for `part`.
    """
    hashed, length = hashlib.sha256(), found.length or 0
    for at in range(0, length, _PIECES[1]):
        hashed.update(part(store, key, at, min(at + _PIECES[1], length), found))
    return hashed.hexdigest()


def into_memory(store: Store, key: str, length: int | None = None, **options: Any) -> tuple[mmap.mmap, bool]:
    """The bytes of an object, in private memory.

    Parameters
    ----------
    store : helpers.storage.http.Store
    key : str
    length : int, optional
        What it must be; by default what the server says.
    **options
        ``spans``, ``readers``, ``progress``, ``stopping`` as for `whole`.

    Returns
    -------
    raw : mmap.mmap
        Anonymous; a child that is forked off has its own.
    is_one_version : bool
        Whether every part is known to be of one version of the object: the store names versions.

    Raises
    ------
    Missing, Changed
        It is not there, or was replaced meanwhile.
    CorruptFile
        It is empty, truncated or extended.
    StorageError
        As `whole`, or the server does not say how long it is.
    """
    found = probe(store, key, length, options.get("stopping"))
    length = found.length if length is None else length
    if length is None:
        raise StorageError(store.name(key), "the server does not say how long it is", "Check the server.")
    if length == 0:  # cannot be mapped
        raise CorruptFile(store.name(key), "is empty", "Upload it again.")
    # not shared with a child that is forked off, as is Python's default; of what is not fetched no memory is set aside
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | page_cache.NORESERVE
    raw = mmap.mmap(-1, length, flags=flags)
    whole(store, key, lambda: Memory(raw), length, found, **options)
    return raw, found.version is not None


def into_open_file(store: Store, key: str, file: int, length: int, **options: Any) -> bool:
    """Fetch an object of a known length into an open file.

    Parameters
    ----------
    store : helpers.storage.http.Store
    key : str
    file : int
        The descriptor of a file, on disk or in memory, that may be written.
    length : int
    **options
        ``readers``, ``progress``, ``stopping`` as for `whole`.

    Returns
    -------
    bool
        Whether every part is known to be of one version of the object: the store names versions.

    Raises
    ------
    Missing, Changed
        It is not there, or was replaced meanwhile.
    CorruptFile
        It is truncated or extended.
    StorageError
        As `whole`.
    OSError
        The file cannot be written.
    """
    found = probe(store, key, length, options.get("stopping"))
    whole(store, key, lambda: File(file), length, found, **options)
    return found.version is not None


def into_file(store: Store, key: str, path: str | os.PathLike, length: int, **options: Any) -> None:
    """Fetch an object of a known length into a new file; arguments and errors as for `into_open_file`.

    ``path`` must not exist. After an error what has come stands there, for the caller to remove. A file
    that cannot be written is a StorageError.
    """
    found = probe(store, key, length, options.get("stopping"))
    with storage_errors(path, "writing a copy"), open(path, "xb") as file:
        if hasattr(os, "posix_fallocate"):  # a full disk is said before everything is fetched
            os.posix_fallocate(file.fileno(), 0, length)
        whole(store, key, lambda: File(file.fileno()), length, found, **options)


def _piece(store, key, span, into, found, stopping, report):
    """Fetch a part of an object into memory or a file; go on where a connection was cut."""
    (start, stop), done = span, 0

    def attempt():
        nonlocal done
        done = done if found.partial else 0  # from the beginning
        rest = (start + done, stop) if found.partial else None
        body = get(store, key, rest, found.version)
        with body.stream:
            if (body.partial, body.length) != (found.partial, found.length):
                raise Changed
            since, mark = time.monotonic(), done
            while done < stop - start:
                at = start + done
                count = receive(body.stream, into.room(at, min(_STEP, stop - at)))
                into.keep(at, count)
                done += count
                report(count)
                if count == 0:
                    raise Interrupted(f"the body ended {stop - at} bytes early")
                if stopping.is_set():
                    raise Interrupted(_UNWANTED)
                if time.monotonic() - since > _CRAWL[0]:
                    if done - mark < _CRAWL[1]:
                        raise Interrupted(f"only {done - mark} bytes came in {_CRAWL[0]} seconds")
                    since, mark = time.monotonic(), done

    patiently(store.name(key), attempt, stopping)
