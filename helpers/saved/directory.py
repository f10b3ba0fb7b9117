"""A saved model on a local disk: find it, open it, check all that costs no weights read."""

import hashlib
from pathlib import Path

from helpers import families
from helpers.errors import CorruptFile, NotAModel, storage
from helpers.format import layout, manifest
from helpers.modules.structure import problem_with
from helpers.storage.atomic import previous_of
from helpers.weights import tensors

_AGAIN = "Copy the whole directory again, or save the model again."


def locate(source):
    """The path of a model, and what tells it from another model under the same name.

    Parameters
    ----------
    source : str or path-like

    Returns
    -------
    path : pathlib.Path
        The source; where an interrupted save has left only the previous model, that one.
    identity : tuple or None
        Changes when a save replaces the model.
    """
    path = Path(source)
    if not path.exists() and previous_of(path).exists():
        path = previous_of(path)
    try:
        status = path.stat()
    except OSError:  # whoever opens it says why
        return path, None
    return path, (status.st_dev, status.st_ino)


def open_model(path, verify, sparse=False):
    """Open a saved model and check all that can be checked without reading weights.

    Parameters
    ----------
    path : pathlib.Path
        The directory.
    verify : bool
        Compare the other files with their hashes too.
    sparse : bool
        A part of the weights is wanted.

    Returns
    -------
    record : helpers.format.manifest.Manifest
    raw : mmap.mmap or None
        The whole of model.tensors; None if it is encrypted.

    Raises
    ------
    NotAModel, CorruptFile, StorageError
    """
    record = open_record(path, verify)
    weights = path / record.folder / manifest.TENSORS
    if not weights.is_file():
        raise CorruptFile(weights, "is missing", _AGAIN)
    if record.encryption:  # never mapped
        with storage(weights, "reading the file"), open(weights, "rb") as file:
            check_weights(weights, file.read(layout.MARK_AT + 8), weights.stat().st_size, record)
        return record, None
    raw = tensors.open_map(weights, sparse)
    check_weights(weights, raw, len(raw), record)
    return record, raw


def open_record(path, verify):
    """The manifest of a model whose files are on this machine, but for the weights perhaps.

    Parameters and errors as for `open_model`.

    Returns
    -------
    helpers.format.manifest.Manifest
    """
    record = manifest.read(path)
    problem = problem_with(record.structure, record.entries)
    if record.family not in families.ORDER:
        problem = f"is of the unknown family {record.family!r}"
    if problem:
        raise CorruptFile(path / manifest.NAME, problem, _AGAIN)
    home = path / record.folder
    for name, digest in record.files.items():
        if name in record.weights:
            continue  # `helpers.verify` reads weights
        if not (home / name).is_file():
            raise CorruptFile(home / name, "is missing", _AGAIN)
        if verify and hashlib.sha256((home / name).read_bytes()).hexdigest() != digest:
            raise CorruptFile(home / name, "is not what was saved", _AGAIN)
    return record


def check_weights(path, raw, length, record):
    """Whether the beginning and the length of a file of weights are those that the manifest states.

    Parameters
    ----------
    path : str or path-like
        Named in errors.
    raw : buffer
        The file, or its beginning.
    length : int
        Of the whole file.
    record : helpers.format.manifest.Manifest

    Raises
    ------
    CorruptFile
    """
    if raw[: len(layout.MAGIC)] != layout.MAGIC:
        raise CorruptFile(path, "is not a .tensors file", _AGAIN)
    if length != record.length:
        state = "truncated" if length < record.length else "extended"
        raise CorruptFile(path, f"is {state}: {length:,} bytes instead of {record.length:,}", _AGAIN)
    mark = bytes.fromhex(record.fingerprint)
    if record.encryption:
        belongs = raw[layout.MARK_AT : layout.MARK_AT + len(mark)] == mark
    else:
        expected = layout.prologue(record.entries, mark)
        belongs = raw[: len(expected)] == expected
    if not belongs:
        raise CorruptFile(path, "does not belong to the manifest beside it", _AGAIN)


def open_bare(path):
    """Open a .tensors file that has no manifest, ours or stock tensorizer's.

    Parameters
    ----------
    path : pathlib.Path

    Returns
    -------
    raw : mmap.mmap
    records : list of (helpers.format.layout.Entry, int)
        Each tensor with the offset of its header.

    Raises
    ------
    NotAModel
        The file is something else.
    CorruptFile
        Empty, truncated, or an index that contradicts itself.
    """
    raw = tensors.open_map(path)
    return raw, bare_index(path, raw)


def bare_index(path, raw):
    """The tensors of a whole .tensors file; as `open_bare`."""
    try:
        return layout.read_index(raw)
    except ValueError as error:
        kind = NotAModel if raw[: len(layout.MAGIC)] != layout.MAGIC else CorruptFile
        raise kind(path, str(error), "Check the path, or save the model again.") from error
