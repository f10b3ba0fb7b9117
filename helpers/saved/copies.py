"""Bring a model from a store onto this machine: its small files alone, or a verified copy of all."""

import hashlib
import mmap
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from helpers.errors import CorruptFile, ModelError, NotAModel, StorageError
from helpers.format import manifest
from helpers.saved import directory as storage
from helpers.storage import atomic as commit
from helpers.storage import fetch
from helpers.storage.http import Changed, Missing, open_store

_TURNS = 3  # times that a model may be replaced while it is being read
_AGAIN = "Upload the model again."


def consistently(store, attempt):
    """Call ``attempt`` with the model's manifest; again if the model is replaced meanwhile.

    Parameters
    ----------
    store : helpers.storage.http.Store
    attempt : callable
        Called with the bytes of model.json.

    Returns
    -------
    object
        What ``attempt`` returned.

    Raises
    ------
    NotAModel
        There is no manifest.
    CorruptFile
        An object is missing or not what was saved.
    StorageError
        The store refuses, or the model changes again and again.
    """
    text = _manifest(store)
    for _ in range(_TURNS):
        try:
            return attempt(text)
        except (Changed, Missing, ModelError) as error:
            now, before = _manifest(store), text
            if now == before and isinstance(error, ModelError):
                raise
            if now == before and isinstance(error, Missing):
                raise CorruptFile(str(error), "is missing", _AGAIN) from None
            text = now
    raise StorageError(
        store.label,
        f"was replaced {_TURNS} times while it was read",
        "Try again when nobody writes there; give new versions a name of their own.",
    )


def _manifest(store):
    try:
        return fetch.small(store, manifest.NAME, manifest.LIMIT)
    except Missing:
        raise NotAModel(
            store.label,
            f"holds no saved model (no {manifest.NAME})",
            "Check the address, or save a model there first.",
        ) from None


def small_files(store, text, folder):
    """Write a model's manifest and all its files but weights into an empty directory, hashes checked.

    Parameters
    ----------
    store : helpers.storage.http.Store
    text : bytes
        Of the manifest.
    folder : pathlib.Path

    Returns
    -------
    helpers.format.manifest.Manifest

    Raises
    ------
    Missing, Changed, ModelError
    """
    record = manifest.parse(text, store.name(manifest.NAME))
    inside, home = store.under(record.folder), folder / record.folder
    (folder / manifest.NAME).write_bytes(text)

    def bring(item):
        name, digest = item
        content = fetch.small(inside, name)
        if hashlib.sha256(content).hexdigest() != digest:
            raise CorruptFile(inside.name(name), "is not what was saved", _AGAIN)
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(content)

    home.mkdir(parents=True, exist_ok=True)
    wanted = [item for item in record.files.items() if item[0] not in record.weights]
    with ThreadPoolExecutor(fetch.READERS) as pool:
        list(pool.map(bring, wanted))
    return record


def local_copy(source, cache, *, readers=None, progress=True):
    """A verified copy of a remote model in a directory; fetched if it is not there or is outdated.

    Whether it is outdated is told by the manifest, which holds a hash of everything: it is read at
    every call and compared. Several processes may call this at once: each copy is made apart and
    takes its place in one step.

    Parameters
    ----------
    source : str
    cache : str or path-like
        A directory, made if needed. Each source has a subdirectory in it.
    readers : int, optional
    progress : bool

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ModelError
        As `consistently`; or the copy's hashes are wrong; or there is no space.
    """
    store = open_store(source)
    words = re.sub(r"[^\w.-]+", "-", store.label.rpartition("/")[2]) or "model"
    place = Path(cache) / f"{words}-{hashlib.sha256(store.label.encode()).hexdigest()[:12]}"

    def attempt(text):
        if not _has(place, text):
            with commit.directory(place, overwrite=True, strangers=lambda _: ()) as folder:
                fill(store, text, folder, readers, progress)
        return place

    return consistently(store, attempt)


def _has(place, text):
    try:
        if (place / manifest.NAME).read_bytes() != text:
            return False
        storage.open_model(place, verify=False)
    except (OSError, ModelError):  # none, or damaged: fetch it again
        return False
    return True


def fill(store, text, folder, readers, progress):
    """Bring a whole model into an empty directory and check every hash; arguments as above."""
    from helpers.verify import check_weights

    record = small_files(store, text, folder)
    inside, home = store.under(record.folder), folder / record.folder
    for name in record.weights:
        length = manifest.read((home / name).parent).length if name != manifest.TENSORS else record.length
        _download(inside, name, home / name, length, readers, progress)
    try:
        check_weights(folder, progress=progress)
    except CorruptFile as error:  # named by where it came from: the copy is removed
        place = error.path.replace(str(home), inside.label)
        raise CorruptFile(place, error.problem, _AGAIN) from None


def _download(store, name, path, length, readers, progress):
    found = same_length(store, name, length)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        if hasattr(os, "posix_fallocate"):  # a full disk is said here, not by a signal at a mapped write
            os.posix_fallocate(fd, 0, length)
        else:
            os.ftruncate(fd, length)
        with mmap.mmap(fd, length) as raw:
            fetch.whole(store, name, raw, found, readers=readers, progress=progress)
    finally:
        os.close(fd)


def same_length(store, name, length):
    """Look at an object of weights, and check its length before anything is allocated.

    Raises
    ------
    CorruptFile
        It is truncated or extended.
    """
    found = fetch.probe(store, name)
    if found.length is not None and found.length != length:
        state = "truncated" if found.length < length else "extended"
        raise CorruptFile(
            store.name(name), f"is {state}: {found.length:,} bytes instead of {length:,}", _AGAIN
        )
    return found


def in_memory(store, name, length, **options):
    """The bytes of an object of weights, in private memory; options as for `fetch.whole`.

    Returns
    -------
    raw : mmap.mmap
        Anonymous.
    sure : bool
        Whether every part is known to be of one version of the object: the store names versions.

    Raises
    ------
    Missing, Changed, ModelError
    """
    found = same_length(store, name, length)
    raw = mmap.mmap(-1, length)
    fetch.whole(store, name, raw, found, **options)
    return raw, found.version is not None
