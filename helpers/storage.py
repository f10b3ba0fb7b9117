"""Where the bytes live: a local directory, or one file. Finds, opens and checks; reads no weights."""

import hashlib
from pathlib import Path

from helpers import families, layout, manifest, tensors
from helpers.commit import previous_of
from helpers.errors import CorruptFile, NotAModel
from helpers.structure import problem_with

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


def open_model(path, verify):
    """Open a saved model and check all that can be checked without reading weights.

    Parameters
    ----------
    path : pathlib.Path
        The directory.
    verify : bool
        Compare the small files with their hashes too.

    Returns
    -------
    record : helpers.manifest.Manifest
    raw : mmap.mmap
        The whole of model.tensors.

    Raises
    ------
    NotAModel, CorruptFile, StorageError
    """
    record = manifest.read(path)
    problem = problem_with(record.structure, record.entries)
    if record.family not in families.ORDER:
        problem = f"is of the unknown family {record.family!r}"
    if problem:
        raise CorruptFile(path / manifest.NAME, problem, _AGAIN)
    for name, digest in record.files.items():
        if not (path / name).is_file():
            raise CorruptFile(path / name, "is missing", _AGAIN)
        if verify and hashlib.sha256((path / name).read_bytes()).hexdigest() != digest:
            raise CorruptFile(path / name, "is not what was saved", _AGAIN)
    return record, _open_checked(path / manifest.TENSORS, record)


def _open_checked(path, record):
    if not path.is_file():
        raise CorruptFile(path, "is missing", _AGAIN)
    raw = tensors.open_map(path)
    if raw[: len(layout.MAGIC)] != layout.MAGIC:
        raise CorruptFile(path, "is not a .tensors file", _AGAIN)
    if len(raw) != record.length:
        state = "truncated" if len(raw) < record.length else "extended"
        raise CorruptFile(path, f"is {state}: {len(raw):,} bytes instead of {record.length:,}", _AGAIN)
    expected = layout.prologue(record.entries, bytes.fromhex(record.fingerprint))
    if raw[: len(expected)] != expected:
        raise CorruptFile(path, "does not belong to the manifest beside it", _AGAIN)
    return raw


def open_bare(path):
    """Open a .tensors file that has no manifest, ours or stock tensorizer's.

    Parameters
    ----------
    path : pathlib.Path

    Returns
    -------
    raw : mmap.mmap
    records : list of (helpers.layout.Entry, int)
        Each tensor with the offset of its header.

    Raises
    ------
    NotAModel
        The file is something else.
    CorruptFile
        Empty, truncated, or an index that contradicts itself.
    """
    raw = tensors.open_map(path)
    try:
        return raw, layout.read_index(raw)
    except ValueError as error:
        kind = NotAModel if raw[: len(layout.MAGIC)] != layout.MAGIC else CorruptFile
        raise kind(path, str(error), "Check the path, or save the model again.") from error
