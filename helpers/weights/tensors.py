"""The .tensors file as torch tensors: write, map, read, verify.

`helpers.format.layout` knows the bytes; this file moves them. It is the only one that imports
tensorizer, and only to read into private memory or onto a GPU: mapping does without it.
"""

import hashlib
import mmap
import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import NamedTuple

import torch

from helpers.errors import CorruptFile, storage
from helpers.format import layout

_CHUNK = 8 << 20  # bytes hashed and written at a time: small enough to stay in the CPU's cache
_WORKERS = max(2, min(4, os.cpu_count() or 1))


class Written(NamedTuple):
    """What `write` left behind: entries and their hashes in file order, the file's length, its fingerprint."""

    entries: list
    hashes: list
    length: int
    fingerprint: str


def progress_bar(total, title, progress):
    """A bar that counts bytes and appears only if the work takes longer than 1.5 s."""
    from tqdm.auto import tqdm  # 50 ms: not at import, since a mapped load shows no bar

    return tqdm(
        total=total, desc=title, unit="B", unit_scale=True, delay=1.5, leave=False, disable=not progress
    )


def dtype_name(dtype):
    """``torch.bfloat16`` as ``"bfloat16"``."""
    return str(dtype).removeprefix("torch.")


def bytes_of(tensor):
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().reshape(-1)
    if flat.stride() != (1,):  # a single element counts as contiguous whatever its stride is
        flat = flat.clone(memory_format=torch.contiguous_format)
    return memoryview(flat.view(torch.uint8).numpy())


def write(path, tensors, *, progress=True, title="serialise"):
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
    described = [
        layout.Entry(name, kind, dtype_name(tensor.dtype), tuple(tensor.shape), 0)
        for name, (kind, tensor) in tensors.items()
    ]
    entries = layout.arrange(described)
    length = layout.file_length(entries)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        os.ftruncate(fd, length)
        bar = progress_bar(length, title, progress)
        with bar, ThreadPoolExecutor(_WORKERS) as pool:
            jobs = {
                pool.submit(_write_record, fd, entry, start, tensors[entry.name][1]): i
                for i, (entry, start) in enumerate(zip(entries, layout.starts(entries), strict=True))
            }
            digests = [b""] * len(entries)
            try:
                for job in as_completed(jobs):
                    digests[jobs[job]] = job.result()
                    bar.update(entries[jobs[job]].nbytes)
            except BaseException:  # also Ctrl-C: do not go on writing what nobody will keep
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        mark = layout.fingerprint(digests)
        _pwrite(fd, layout.prologue(entries, mark), 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    return Written(entries, [digest.hex() for digest in digests], length, mark.hex())


def _write_record(fd, entry, start, tensor):
    head, hash_at = layout.header(entry, start)
    digest, data = hashlib.sha256(head), bytes_of(tensor)
    for begin in range(0, len(data), _CHUNK):
        chunk = data[begin : begin + _CHUNK]
        digest.update(chunk)
        _pwrite(fd, chunk, entry.offset + begin)
    head[hash_at : hash_at + 32] = digest.digest()
    _pwrite(fd, head, start)
    return digest.digest()


def _pwrite(fd, data, offset):
    data = memoryview(data)
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done


def open_map(path, sparse=False):
    """Map a whole file copy-on-write: pages are shared until written, writes stay private.

    Parameters
    ----------
    path : str or path-like
    sparse : bool
        A part of it is wanted: the system shall not read around what is touched.

    Returns
    -------
    mmap.mmap
        Stays valid after the file is renamed or unlinked, but not if it is truncated in place.
    """
    with storage(path, "mapping the file"), open(path, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise CorruptFile(path, "is empty", "Save the model again.")
        # NORESERVE: the kernel need not set memory aside for copies that are never made, so a
        # file larger than the memory maps too
        flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)
        raw = mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        if sparse and hasattr(mmap, "MADV_RANDOM"):
            raw.madvise(mmap.MADV_RANDOM)
        return raw


def view(raw, entry):
    """One tensor of a mapped file, without a copy where its data is aligned.

    Parameters
    ----------
    raw : mmap.mmap
        From `open_map`; the tensor keeps it alive.
    entry : helpers.format.layout.Entry
        Checked to lie inside the file.

    Returns
    -------
    torch.Tensor
        A view; a copy if a file from elsewhere put the data at a misaligned offset.
    """
    dtype = getattr(torch, entry.dtype)
    if entry.nbytes == 0:
        return torch.empty(entry.shape, dtype=dtype)
    flat = torch.frombuffer(raw, dtype=torch.uint8, count=entry.nbytes, offset=entry.offset)
    if entry.offset % layout.ALIGNMENT:
        flat = flat.clone()
    return flat.view(dtype).view(entry.shape)


def verify(path, fetch, records, *, progress=True):
    """Hash every record of a file and compare it with the hash that it states.

    Parameters
    ----------
    path : str or path-like
        Named in errors.
    fetch : callable
        ``fetch(start, stop)`` gives these bytes of the file; called by several threads.
    records : list of (helpers.format.layout.Entry, int)
        Each tensor with the offset of its header.

    Raises
    ------
    CorruptFile
        Names every damaged tensor.
    """

    def damaged(entry, start):
        with memoryview(fetch(start, entry.offset + entry.nbytes)) as record:
            try:
                stated, head = layout.stored_hash(record, 0)
            except (IndexError, layout.struct.error):
                return entry.name
            digest = hashlib.sha256(head)
            digest.update(record[entry.offset - start :])
            intact = len(head) == entry.offset - start and digest.digest() == stated
        return None if intact else entry.name

    total = sum(entry.nbytes for entry, _ in records)
    with progress_bar(total, "verify", progress) as bar, ThreadPoolExecutor(_WORKERS) as pool:
        bad = []
        for (entry, _), name in zip(records, pool.map(lambda r: damaged(*r), records), strict=True):
            bar.update(entry.nbytes)
            bad += [name] if name else []
    if bad:
        raise CorruptFile(
            path,
            f"{len(bad)} of {len(records)} tensors are damaged: {', '.join(sorted(bad))}",
            "Fetch or save the model again.",
        )


def read(path, entries, device, readers=None, progress=True, encryption=None):
    """Read tensors into memory of their own, or onto a GPU, with tensorizer's parallel reader.

    Parameters
    ----------
    path : str or path-like
        A file whose index and length have been checked.
    entries : list of helpers.format.layout.Entry
        What to expect; hidden ones are not read, since the index does not hold them.
    device : torch.device
        Where the tensors go.
    readers : int, optional
        Threads that read; by default tensorizer chooses (8 for a local file).
    encryption : bytes or str, optional
        The key or the passphrase of an encrypted file.

    Returns
    -------
    dict of str to torch.Tensor

    Raises
    ------
    CorruptFile
        If tensorizer finds the file unreadable, or an encrypted one is damaged.
    EncryptionError
        The key does not open it, or libsodium is missing.
    """
    if encryption is None:
        expected = {entry.name: entry for entry in entries if not layout.is_hidden(entry)}
    else:
        expected = {entry.name: entry for entry in entries if entry.nbytes}
    if not expected:  # tensorizer rejects an empty index
        return {}
    from tensorizer import CryptographyError, TensorDeserializer

    from helpers.weights.encryption import explain, to_read

    total, loaded = sum(entry.nbytes for entry in expected.values()), {}
    try:
        with (
            progress_bar(total, "read", progress) as bar,
            TensorDeserializer(
                str(path),
                device=device,
                lazy_load=True,
                num_readers=readers,
                encryption=to_read(encryption),
                filter_func=lambda name: str(name).removeprefix(".") in expected,
            ) as file,
        ):
            for _, _, name, parameter in file.read_tensors():
                name = name.removeprefix(".")
                loaded[name] = parameter.detach()
                bar.update(expected[name].nbytes)
    except CryptographyError:
        raise explain(path, entries, encryption) from None
    except (ValueError, KeyError, RuntimeError) as error:
        raise CorruptFile(path, f"tensorizer cannot read it ({error})", "Save the model again.") from error
    return loaded
