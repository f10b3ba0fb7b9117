"""Read whole objects from a store: in parallel, resumed where a connection was cut, or not at all."""

import hashlib
import mmap
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

from helpers.errors import CorruptFile, StorageError, storage_errors
from helpers.progress import progress_bar
from helpers.storage.http import Body, Changed, Interrupted, Store, get, receive

READERS = 8  # more than 2 gain nothing on loopback; storage with latency needs more (notebook 09)
# Bytes a request: at least what S3's guide to performance advises, so that its delay is small
# against it; of a large object more, since each request costs the server some work.
_PIECES = (8 << 20, 64 << 20)
_STEP = 1 << 20  # bytes received at a time
_TRIES = 5
_PAUSE = 0.2  # seconds before the second try, twice as long and more before each further one
_UNWANTED = "nobody waits for it any longer"
_CRAWL = (30, 64 << 10)  # seconds in which at least so many bytes must come


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
        name, f"reading failed {turn + 1} times, at last: {reason}", "Check network and server."
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
    store: Store, key: str, into: Any, found: Body, *, spans=None, readers=None, progress=True, stopping=None
) -> None:
    """Fill a buffer with an object.

    Parameters
    ----------
    store : helpers.storage.http.Store
    key : str
    into : writable buffer
        As long as the object.
    found : helpers.storage.http.Body
        From `probe`: every request makes sure that the object is still that one.
    spans : list of (int, int), optional
        Fill these parts alone; a server that sends no parts sends everything.
    readers : int, optional
        Requests at a time.
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
    size, stopping, readers = len(into), stopping or Event(), readers or READERS
    step, view = min(max(size // (2 * readers), _PIECES[0]), _PIECES[1]), memoryview(into)
    if not found.partial:  # the server sends all or nothing
        step, spans = size, None
    spans = [(0, size)] if spans is None else spans
    pieces = [
        (at, view[at : min(at + step, stop)]) for start, stop in spans for at in range(start, stop, step)
    ]
    total = sum(len(piece) for _, piece in pieces)
    with progress_bar(total, "fetch", progress) as bar, ThreadPoolExecutor(readers) as pool:
        try:
            list(pool.map(lambda piece: _piece(store, key, piece, found, stopping, bar.update), pieces))
        except BaseException:  # also Ctrl-C: let the others end soon
            stopping.set()
            raise


def part(store: Store, key: str, start: int, stop: int, found: Body) -> bytearray:
    """The bytes of an object from ``start`` to ``stop``; arguments and errors as for `whole`."""
    if not found.partial:
        raise StorageError(store.name(key), "the server sends no parts of objects", "Load it whole.")
    buffer = bytearray(stop - start)
    _piece(store, key, (start, memoryview(buffer)), found, Event(), lambda count: None)
    return buffer


def digest(store: Store, key: str, found: Body) -> str:
    """The SHA-256 of an object that is read through and kept nowhere, in hexadecimal digits.

    Arguments and errors as for `whole`; ``found`` must say a length.
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
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    raw = mmap.mmap(-1, length, flags=flags)
    whole(store, key, raw, found, **options)
    return raw, found.version is not None


def into_file(store: Store, key: str, path: str | os.PathLike, length: int, **options: Any) -> None:
    """Fetch an object of a known length into a new file.

    Parameters
    ----------
    store : helpers.storage.http.Store
    key : str
    path : str or path-like
        Must not exist. After an error what has come stands there, for the caller to remove.
    length : int
    **options
        ``readers``, ``progress`` as for `whole`.

    Raises
    ------
    Missing, Changed
        It is not there, or was replaced meanwhile.
    CorruptFile
        It is truncated or extended.
    StorageError
        As `whole`, or the file cannot be written.
    """
    found = probe(store, key, length)
    with storage_errors(path, "writing a copy"), open(path, "xb+") as file:
        if hasattr(os, "posix_fallocate"):  # a full disk is said here, not by a signal at a mapped write
            os.posix_fallocate(file.fileno(), 0, length)
        file.truncate(length)
        raw = mmap.mmap(file.fileno(), length)
    # Never closed by hand: after an error its traceback holds slices of it, and closing would raise another.
    whole(store, key, raw, found, **options)


def _piece(store, key, piece, found, stopping, report):
    """Fill a view with the object's bytes from a start, both in ``piece``; go on where a connection was cut."""
    (start, view), done = piece, 0

    def attempt():
        nonlocal done
        done = done if found.partial else 0  # from the beginning
        rest = (start + done, start + len(view)) if found.partial else None
        body = get(store, key, rest, found.version)
        with body.stream:
            if (body.partial, body.length) != (found.partial, found.length):
                raise Changed
            since, mark = time.monotonic(), done
            while done < len(view):
                count = receive(body.stream, view[done : done + _STEP])
                done += count
                report(count)
                if count == 0:
                    raise Interrupted(f"the body ended {len(view) - done} bytes early")
                if stopping.is_set():
                    raise Interrupted(_UNWANTED)
                if time.monotonic() - since > _CRAWL[0]:
                    if done - mark < _CRAWL[1]:
                        raise Interrupted(f"only {done - mark} bytes came in {_CRAWL[0]} seconds")
                    since, mark = time.monotonic(), done

    patiently(store.name(key), attempt, stopping)
