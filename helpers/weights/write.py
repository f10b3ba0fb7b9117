"""Write tensors to a new .tensors file: hashed, written and flushed to the disk at the same time."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from typing import NamedTuple

import torch

from helpers.format import layout
from helpers.format.hashes import WORKERS
from helpers.progress import progress_bar
from helpers.storage.flushed import flushed
from helpers.weights.tensors import Tensors, bytes_of, entries_of

_CHUNK = 8 << 20  # bytes hashed and written at a time: small enough to stay in the CPU's cache


class Written(NamedTuple):
    """What a writer left: entries and their hashes in file order, the file's length, its fingerprint."""

    entries: list[layout.Entry]
    hashes: list[str]
    length: int
    fingerprint: str


def write(path: str | os.PathLike, tensors: Tensors, *, progress: bool = True) -> Written:
    """Write tensors to a new file and flush it to the disk.

    The calling code makes the write all-or-nothing (see `helpers.storage.atomic`).

    Parameters
    ----------
    path : str or path-like
        Must not exist.
    tensors : dict of str to (str, torch.Tensor)
        Kind (see `helpers.format.layout.KINDS`) and tensor by state-dict name; any device, any strides.
    progress : bool
        Show a bar if it takes longer than 1.5 s.

    Returns
    -------
    Written

    Raises
    ------
    OSError
        If the storage refuses, for example because no space is left.
    """
    entries = layout.arrange(entries_of(tensors))
    length, starts = layout.file_length(entries), layout.starts(entries)
    for device in {tensor.device for _, tensor in tensors.values() if tensor.is_cuda}:
        torch.cuda.current_stream(device).synchronize()  # the threads below copy in streams of their own
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        os.ftruncate(fd, length)
        bar = progress_bar(sum(entry.nbytes for entry in entries), "serialise", progress)
        with flushed(fd):
            with bar, ThreadPoolExecutor(WORKERS) as writers, ThreadPoolExecutor(WORKERS) as pool:
                jobs = [
                    pool.submit(_write_record, fd, entry, start, tensors[entry.name][1], writers, bar.update)
                    for entry, start in zip(entries, starts, strict=True)
                ]
                try:
                    for job in as_completed(jobs):  # the first that fails, not the first in the file
                        job.result()
                except BaseException:  # also Ctrl-C: do not go on writing what nobody will keep
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise
            digests = [job.result() for job in jobs]
            mark = layout.fingerprint(digests)
            _pwrite(fd, layout.prologue(entries, mark), 0)
    finally:
        os.close(fd)
    return Written(entries, [digest.hex() for digest in digests], length, mark.hex())


def _write_record(
    fd: int,
    entry: layout.Entry,
    start: int,
    tensor: torch.Tensor,
    writers: Executor,
    report: Callable[[int], object],
) -> bytes:
    head, hash_at = layout.header(entry, start)
    digest, data = hashlib.sha256(head), bytes_of(tensor)
    for begin in range(0, len(data), _CHUNK):
        chunk = data[begin : begin + _CHUNK]
        # another thread writes it meanwhile, since a model may consist of one large tensor
        written = writers.submit(_pwrite, fd, chunk, entry.offset + begin)
        digest.update(chunk)
        written.result()
        report(len(chunk))
    head[hash_at : hash_at + 32] = digest.digest()
    _pwrite(fd, head, start)
    return digest.digest()


def _pwrite(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    data = memoryview(data)
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done
