"""Compare the tensors of a file with the hashes that it states."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from helpers.errors import CorruptFile
from helpers.format import layout
from helpers.progress import progress_bar
from helpers.timeline import phase

WORKERS = max(2, min(4, os.cpu_count() or 1))


def compare(
    path: str | os.PathLike,
    piece: Callable[[int, int], bytes | memoryview],
    records: list[tuple[layout.Entry, int]],
    expected: dict[str, str],
    progress: bool = True,
) -> None:
    """Hash every record of a file and compare it with the hash in its header and with that in the manifest.

    The header alone would let in a record of another version, which is whole in itself. A bare file has no
    manifest: there the header has to say what the index says, which no hash covers.

    Parameters
    ----------
    path : str or path-like
        Named in errors.
    piece : callable
        ``piece(start, stop)`` gives these bytes of the file; called by several threads.
    records : list of (helpers.format.layout.Entry, int)
        Each tensor with the offset of its header.
    expected : dict of str to str
        What the manifest says of each tensor (see `helpers.format.manifest.Manifest.stated`).
    progress : bool
        Show a bar if it takes longer than 1.5 s.

    Raises
    ------
    CorruptFile
        Names every tensor that is damaged or of another version.
    """

    def is_intact(record: tuple[layout.Entry, int]) -> bool:
        entry, start = record
        with memoryview(piece(start, entry.offset + entry.nbytes)) as data:
            try:
                stated, head = layout.stored_hash(data, 0)
            except ValueError:
                return False
            digest = hashlib.sha256(head)
            digest.update(data[len(head) :])
            found = digest.digest()
            is_the_one = expected[entry.name] in ("", found.hex())
            is_described = len(head) == entry.offset - start and layout.is_header_of(head, entry)
            return is_described and found == stated and is_the_one

    total = sum(entry.nbytes for entry, _ in records)
    bad = []
    with (
        phase("verify"),
        progress_bar(total, "verify", progress) as bar,
        ThreadPoolExecutor(WORKERS) as pool,
    ):
        for (entry, _), intact in zip(records, pool.map(is_intact, records), strict=True):
            bar.update(entry.nbytes)
            bad += [] if intact else [entry.name]
    if bad:
        raise damaged(path, bad, len(records))


def damaged(path: str | os.PathLike, bad: list[str], count: int) -> CorruptFile:
    """The error that names the damaged ones of so many tensors."""
    return CorruptFile(
        path,
        f"{len(bad)} of {count} tensors are damaged: {', '.join(sorted(bad))}",
        "Fetch or save the model again.",
    )


def of_file(path: str | os.PathLike) -> str:
    """The SHA-256 of a whole file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
