"""Bytes into new tensors on a device through a few buffers: while one is on its way, the next is filled.

A GPU fetches by itself only from memory that is pinned, which the system promises not to move. From other
memory the driver copies first, and the processor waits for it. So each of a few threads has two pinned
buffers and a stream of its own, and the processor fills one buffer while the GPU fetches from the other.
"""

import contextlib
import mmap
import os
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import torch

from helpers.errors import CorruptFile, storage_errors
from helpers.format import layout
from helpers.progress import progress_bar

_THREADS = 4
_SIZE = 16 << 20  # bytes of a buffer: a copy takes far longer than its start, and eight of them are 128 MB
_TURNS = 2  # buffers of a thread: one is filled, one is on its way


def from_file(
    path: str | os.PathLike,
    label: str,
    entries: list[layout.Entry],
    device: torch.device,
    progress: bool = True,
) -> dict[str, torch.Tensor]:
    """Tensors of a file that is not mapped.

    Parameters
    ----------
    path : str or path-like
        A plain file whose index and length have been checked.
    label : str
        Of the file, for errors.
    entries : list of helpers.format.layout.Entry
        What to read.
    device : torch.device
    progress : bool
        Show a bar if it takes longer than 1.5 s.

    Returns
    -------
    dict of str to torch.Tensor

    Raises
    ------
    CorruptFile
        The file ends too early: it was cut meanwhile.
    StorageError
        The storage refuses.
    torch.OutOfMemoryError
        The device has too little memory; nothing has been read then.
    """
    with (
        storage_errors(label, "reading the weights"),
        open(path, "rb", buffering=0) as file,
        progress_bar(sum(entry.nbytes for entry in entries), "read", progress) as bar,
    ):

        def fill(buffer: torch.Tensor, offset: int) -> None:
            room = memoryview(buffer.numpy())
            while room:
                done = _read(file.fileno(), room, offset)
                if done == 0:
                    raise CorruptFile(label, "is truncated", "Save the model again.")
                room, offset = room[done:], offset + done
            bar.update(buffer.numel())

        return _bring(fill, entries, device)


def from_memory(raw: mmap.mmap, entries: list[layout.Entry], device: torch.device) -> dict[str, torch.Tensor]:
    """Tensors of a file that is mapped, or that has come into memory.

    Parameters
    ----------
    raw : mmap.mmap
        The whole file.
    entries : list of helpers.format.layout.Entry
    device : torch.device

    Returns
    -------
    dict of str to torch.Tensor

    Raises
    ------
    torch.OutOfMemoryError
        The device has too little memory.
    """

    def fill(buffer: torch.Tensor, offset: int) -> None:
        # torch lets other threads run meanwhile, as an assignment to a memoryview does not
        buffer.copy_(torch.frombuffer(raw, dtype=torch.uint8, count=buffer.numel(), offset=offset))

    return _bring(fill, entries, device)


def _read(fd: int, room: memoryview, offset: int) -> int:
    """Read at an offset, by several threads from one file; how many bytes."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, [room], offset)
    found = os.pread(fd, len(room), offset)  # macOS
    room[: len(found)] = found
    return len(found)


def _bring(
    fill: Callable[[torch.Tensor, int], None], entries: list[layout.Entry], device: torch.device
) -> dict[str, torch.Tensor]:
    """New tensors, filled piece by piece: ``fill(buffer, offset)`` is called by several threads."""
    # all memory first: where it does not suffice, nothing is read in vain
    tensors = {
        entry.name: torch.empty(entry.shape, dtype=getattr(torch, entry.dtype), device=device)
        for entry in entries
    }
    pieces: queue.SimpleQueue = queue.SimpleQueue()
    for entry in entries:
        data = tensors[entry.name].reshape(-1).view(torch.uint8)
        for start in range(0, entry.nbytes, _SIZE):
            pieces.put((data[start : start + _SIZE], entry.offset + start))
    if pieces.empty():
        return tensors
    size = min(_SIZE, max(entry.nbytes for entry in entries))
    # what has been asked of the device so far may still use the memory that the new tensors were given
    before = torch.cuda.current_stream(device) if device.type == "cuda" else None
    with ThreadPoolExecutor(_THREADS) as pool:
        jobs = [pool.submit(_carry, pieces, fill, size, before) for _ in range(_THREADS)]
        try:
            for job in as_completed(jobs):
                job.result()
        except BaseException:  # also Ctrl-C: leave the other threads nothing to do
            with contextlib.suppress(queue.Empty):
                while True:
                    pieces.get_nowait()
            raise
    return tensors


def _carry(pieces: queue.SimpleQueue, fill: Callable, size: int, before: Any) -> None:
    """Fill pieces until none is left; nothing is on its way any more when this returns or raises."""
    if before is None:
        _in_turns(pieces, fill, [(_buffer(size), None) for _ in range(_TURNS)])
        return
    stream = torch.cuda.Stream(before.device)
    stream.wait_stream(before)
    with torch.cuda.stream(stream):  # and its device, which threads do not inherit
        turns = [(_buffer(size, pinned=True), torch.cuda.Event()) for _ in range(_TURNS)]
        try:
            _in_turns(pieces, fill, turns)
        finally:
            stream.synchronize()


def _buffer(size: int, pinned: bool = False) -> torch.Tensor:
    return torch.empty(size, dtype=torch.uint8, pin_memory=pinned)


def _in_turns(pieces: queue.SimpleQueue, fill: Callable, turns: list) -> None:
    while True:
        for buffer, sent in turns:
            try:
                target, offset = pieces.get_nowait()
            except queue.Empty:
                return
            if sent is not None:
                sent.synchronize()  # at first it waits for nothing
            part = buffer[: target.numel()]
            fill(part, offset)
            target.copy_(part, non_blocking=True)
            if sent is not None:
                sent.record()
