"""Read whole objects from a store: in parallel, resumed where a connection was cut, or not at all."""

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from helpers.errors import StorageError
from helpers.storage.http import Changed, Interrupted, get, receive
from helpers.weights.tensors import progress_bar

READERS = 8  # more than 2 gain nothing on loopback; storage with latency needs more (notebook 07)
# Bytes a request: at least what S3's guide to performance advises, so that its delay is small
# against it; of a large object more, since each request costs the server some work.
_PIECES = (8 << 20, 64 << 20)
_STEP = 1 << 20  # bytes received at a time
_TRIES = 5
_PAUSE = 0.2  # seconds before the second try, doubled for each further one
_CRAWL = (30, 64 << 10)  # seconds in which at least so many bytes must come
LARGEST_SMALL = 1 << 30  # bytes: what is fetched whole and is no weights (manifests, tokenizers)


def patiently(name, attempt):
    """Call ``attempt`` until it is not `Interrupted`, five times at most.

    Raises
    ------
    StorageError
        Says what the last try met with.
    """
    for turn in range(_TRIES):
        try:
            return attempt()
        except Interrupted as error:
            reason = str(error)
        if turn < _TRIES - 1:
            time.sleep(_PAUSE * 2**turn)
    raise StorageError(
        name, f"reading failed {_TRIES} times, at last: {reason}", "Check network and server, then try again."
    )


def small(store, key, limit=LARGEST_SMALL):
    """The bytes of a small object.

    Raises
    ------
    Missing
        There is no such object.
    StorageError
        The store refuses, or sends more than ``limit`` bytes.
    """

    def attempt():
        body = get(store, key)
        with body.stream:
            parts, size, buffer = [], 0, memoryview(bytearray(_STEP))
            while count := receive(body.stream, buffer):
                parts.append(bytes(buffer[:count]))
                size += count
                if size > limit:
                    raise StorageError(
                        store.name(key), f"is larger than {limit:,} bytes", "Check what lies there."
                    )
            if body.length is not None and size != body.length:
                raise Interrupted(f"{size} of {body.length} bytes came")
            return b"".join(parts)

    return patiently(store.name(key), attempt)


def probe(store, key):
    """Length, version and whether the server can send parts, of an object.

    Returns
    -------
    helpers.storage.http.Body
        Its stream is closed.
    """

    def attempt():
        body = get(store, key, 0, 64)
        body.stream.close()
        return body

    return patiently(store.name(key), attempt)


def whole(store, key, into, found, *, spans=None, readers=None, progress=True, stopping=None):
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
        Set by another thread that no longer needs it: returns soon, with the buffer half filled.

    Raises
    ------
    Changed
        The object was replaced meanwhile.
    Missing
        It was removed meanwhile.
    StorageError
        The store refuses, or is too often interrupted.
    """
    size, stopping, readers = len(into), stopping or threading.Event(), readers or READERS
    step = min(max(size // (2 * readers), _PIECES[0]), _PIECES[1])
    if not found.partial or spans is None:
        spans = [(0, size)]
    if not found.partial:  # the server sends all or nothing
        step = max(size, 1)
    pieces = [(at, min(at + step, stop)) for start, stop in spans for at in range(start, stop, step)]
    with (
        memoryview(into) as view,
        progress_bar(sum(stop - start for start, stop in pieces), "fetch", progress) as bar,
        ThreadPoolExecutor(readers) as pool,
    ):
        jobs = [
            pool.submit(_piece, store, key, view[start:stop], start, found, stopping, bar.update)
            for start, stop in pieces
        ]
        try:
            for job in jobs:
                job.result()
        except BaseException:  # also Ctrl-C: let the others end soon
            stopping.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def part(store, key, start, stop, found):
    """The bytes of an object from ``start`` to ``stop``; arguments and errors as for `whole`."""
    if not found.partial:
        raise StorageError(store.name(key), "the server sends no parts of objects", "Load it whole.")
    buffer = bytearray(stop - start)
    with memoryview(buffer) as view:
        _piece(store, key, view, start, found, threading.Event(), lambda count: None)
    return buffer


def digest(store, key, found):
    """The SHA-256 of an object that is read through and kept nowhere, in hexadecimal digits."""
    hashed = hashlib.sha256()
    for at in range(0, found.length, _PIECES[1]):
        hashed.update(part(store, key, at, min(at + _PIECES[1], found.length), found))
    return hashed.hexdigest()


def _piece(store, key, view, start, found, stopping, report):
    """Fill ``view`` with the object's bytes from ``start``; go on where a connection was cut."""
    done = 0

    def attempt():
        nonlocal done
        if stopping.is_set():
            return
        if found.partial:
            body = get(store, key, start + done, start + len(view), found.version)
        else:
            report(-done)
            done = 0
            body = get(store, key, version=found.version)._replace(partial=False)
        with body.stream:
            if (body.partial, body.length) != (found.partial, found.length):
                raise Changed
            for count in _arriving(body.stream, view[done:]):
                done += count
                report(count)
                if stopping.is_set():
                    return

    patiently(store.name(key), attempt)


def _arriving(stream, view):
    """Receive until a buffer is full; give the size of each step."""
    done, since, mark = 0, time.monotonic(), 0
    while done < len(view):
        count = receive(stream, view[done : done + _STEP])
        if count == 0:
            raise Interrupted(f"the body ended {len(view) - done} bytes early")
        done += count
        yield count
        if time.monotonic() - since > _CRAWL[0]:
            if done - mark < _CRAWL[1]:
                raise Interrupted(f"only {done - mark} bytes came in {_CRAWL[0]} seconds")
            since, mark = time.monotonic(), done
