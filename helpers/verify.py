"""Check a saved model in place: every file and every tensor against its hash."""

import contextlib
import dataclasses
import tempfile
import time
from pathlib import Path

from helpers.errors import CorruptFile
from helpers.format import layout, manifest
from helpers.saved import directory as storage
from helpers.storage import is_remote
from helpers.storage import page_cache as readahead
from helpers.timeline import phase
from helpers.weights import encryption as keys
from helpers.weights import tensors


@dataclasses.dataclass(frozen=True, repr=False)
class Verified:
    """What `verify` found whole.

    Attributes
    ----------
    source : str
        Without user, password and query, where it is an address.
    tensors : int
    bytes : int
        Of the files of weights.
    seconds : float
    """

    source: str
    tensors: int
    bytes: int
    seconds: float

    def __repr__(self):
        size = f"{self.tensors} tensors, {self.bytes / 1e6:.1f} MB"
        return f"Verified({self.source!r}, {size}, {self.seconds:.2f} s)"


def verify(source, *, encryption=None, progress=True):
    """Check a saved model in place, without loading it.

    A remote model is read once through and kept nowhere. Of an encrypted one the files are checked
    without a key; with it, damaged tensors are named.

    Parameters
    ----------
    source : str or path-like
        As for `deserialise`.
    encryption : bytes or str, optional
        The key or the passphrase of an encrypted model.
    progress : bool
        Show a bar if it takes longer than 1.5 s.

    Returns
    -------
    Verified

    Raises
    ------
    NotAModel
        Nothing there, or no saved model.
    CorruptFile
        Names every damaged tensor, or the file that is missing, cut or not what was saved.
    EncryptionError
        A wrong key, or one for a plain model.
    StorageError
        The storage refuses.

    Examples
    --------
    >>> import tempfile, torch
    >>> from helpers import serialise
    >>> path = tempfile.mkdtemp() + "/linear"
    >>> _ = serialise(torch.nn.Linear(3, 2), path)
    >>> verify(path).tensors
    2
    """
    start = time.perf_counter()
    with phase("verify"):
        if is_remote(source):
            label, found = _remote(source, encryption, progress)
        else:
            path = storage.locate(source)[0]
            label = str(source)
            found = _bare(path, progress) if path.is_file() else check_weights(path, encryption, progress)
    return Verified(label, *found, time.perf_counter() - start)


def check_weights(path, encryption=None, progress=True):
    """Check a model in a directory; how many tensors and bytes of weights it has.

    Raises
    ------
    ModelError
        As `verify`.
    """
    top = storage.open_record(path, verify=True)
    if encryption is not None:
        keys.check(path, top.encryption, encryption)
    count, size, bad = 0, 0, []
    for place in [path, *(path / top.folder / name for name in top.children)]:
        record, raw = storage.open_model(place, verify=True)
        weights = place / record.folder / manifest.TENSORS
        readahead.ready(weights)
        with _gathered(bad):
            if record.encryption:
                _check_encrypted(weights, record, encryption)
            else:
                tensors.verify(weights, _slices(raw), _records(record), progress=progress)
        count, size = count + len(record.entries), size + record.length
    _raise(path, bad)
    return count, size


def _check_encrypted(path, record, encryption):
    if keys.digest(path) == record.files[manifest.TENSORS]:
        if encryption is not None and (wrong := keys.closed(path, record.entries, encryption)):
            raise keys.explain(path, [e for e in record.entries if e.name in wrong], encryption)
        return
    if encryption is not None:
        raise keys.explain(path, record.entries, encryption)
    raise CorruptFile(
        path,
        "is not what was saved",
        "Fetch the model again; with encryption= the damaged tensors are named.",
    )


def _bare(path, progress):
    raw, records = storage.open_bare(path)
    tensors.verify(path, _slices(raw), records, progress=progress)
    return len(records), len(raw)


def _records(record):
    return list(zip(record.entries, layout.starts(record.entries), strict=True))


def _slices(raw):
    return lambda start, stop: memoryview(raw)[start:stop]


@contextlib.contextmanager
def _gathered(errors):
    try:
        yield
    except CorruptFile as error:
        errors.append(error)


def _raise(path, errors):
    if len(errors) == 1:
        raise errors[0]
    if errors:
        parts = "; ".join(f"{error.path}: {error.problem}" for error in errors)
        raise CorruptFile(path, f"is damaged in several places: {parts}", errors[0].remedy)


def _remote(source, encryption, progress):
    from helpers.saved import copies
    from helpers.storage.http import open_store

    store = open_store(source)

    def attempt(text):
        with tempfile.TemporaryDirectory(prefix="model-") as scratch:
            top = copies.small_files(store, text, Path(scratch))
            if encryption is not None:
                keys.check(store.label, top.encryption, encryption)
            inside, home = store.under(top.folder), Path(scratch) / top.folder
            parts = [(inside, top)]
            parts += [(inside.under(name), manifest.read(home / name)) for name in top.children]
            bad = []
            for place, record in parts:
                with _gathered(bad):
                    _check_remote(place, record, encryption, progress)
            _raise(store.label, bad)
            return sum(len(record.entries) for _, record in parts), sum(record.length for _, record in parts)

    return store.label, copies.consistently(store, attempt)


def _check_remote(store, record, encryption, progress):
    from helpers.saved import copies
    from helpers.storage import fetch

    key = manifest.TENSORS
    found = copies.same_length(store, key, record.length)
    if not found.partial or encryption is not None:  # a key is used on a whole file
        raw, _ = copies.in_memory(store, key, record.length, progress=progress)
        if record.encryption:
            with tempfile.TemporaryDirectory(prefix="model-") as scratch:
                (Path(scratch) / key).write_bytes(raw)
                _check_encrypted(Path(scratch) / key, record, encryption)
            return
        pieces = _slices(raw)
    elif record.encryption:
        if fetch.digest(store, key, found) != record.files[key]:
            raise CorruptFile(store.name(key), "is not what was saved", "Upload the model again.")
        return
    else:

        def pieces(start, stop):
            return fetch.part(store, key, start, stop, found)

    prologue = len(layout.prologue(record.entries))
    storage.check_weights(store.name(key), bytes(pieces(0, prologue)), record.length, record)
    tensors.verify(store.name(key), pieces, _records(record), progress=progress)
