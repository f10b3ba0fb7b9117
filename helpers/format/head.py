"""The beginning of a file of weights, checked against the manifest: what costs no weights read."""

import mmap

from helpers.errors import CorruptFile
from helpers.format import layout
from helpers.format.manifest import Manifest

AGAIN = "Copy the whole model again, or save it again."
NEWER = "Update the helpers package; if it is up to date, copy the whole model again."


def check_head(label: str, raw: bytes | mmap.mmap, length: int, record: Manifest) -> None:
    """Check that a file's length and its beginning are those that the manifest states.

    Parameters
    ----------
    label : str
        Of the file, for errors.
    raw : buffer
        The file, or its beginning.
    length : int
        Of the whole file, in bytes.
    record : helpers.format.manifest.Manifest

    Raises
    ------
    CorruptFile
        Another length, another fingerprint or another index; a version from the future; or no .tensors
        file at all.
    """
    if raw[: len(layout.MAGIC)] != layout.MAGIC:
        raise CorruptFile(label, "is not a .tensors file", AGAIN)
    if version := layout.future_version(raw):
        raise CorruptFile(label, f"states data version {version}, which this package does not know", NEWER)
    if length != record.length:
        state = "truncated" if length < record.length else "extended"
        raise CorruptFile(label, f"is {state}: {length:,} bytes instead of {record.length:,}", AGAIN)
    start, expected = layout.MARK_AT, bytes.fromhex(record.fingerprint)
    if not record.encryption:
        start, expected = 0, layout.prologue(record.entries, expected)
    if raw[start : start + len(expected)] != expected:
        raise CorruptFile(label, "does not belong to the manifest beside it", AGAIN)
