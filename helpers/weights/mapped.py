"""Weights on this machine's storage, mapped: pages are shared until written, writes stay private."""

import dataclasses
import mmap
import os
from typing import Any

from helpers.errors import CorruptFile, storage_errors
from helpers.format import hashes, layout
from helpers.format.head import check_head
from helpers.format.manifest import Manifest
from helpers.format.selection import Part
from helpers.options import Options
from helpers.storage import mounts, page_cache
from helpers.timeline import phase
from helpers.weights.tensors import Tensors, views


def should_map(path: str | os.PathLike, options: Options) -> bool:
    """Whether to map a plain file: as the caller says, else wherever the device is no GPU of CUDA.

    The storage has a say too, see `helpers.storage.mounts.may_map`. An encrypted file is never mapped,
    and what a store sends is no file (`helpers.saved.opened.Opened.weights`).
    """
    if options.mapped is not None:
        return options.mapped
    # no device: nothing is loaded, only checked
    on_gpu = options.device is not None and options.device.type == "cuda"
    with storage_errors(path, "looking at the file"):
        return not on_gpu and mounts.may_map(path)


def open_map(path: str | os.PathLike, label: str | os.PathLike, sparse: bool = False) -> mmap.mmap:
    """Map a whole file copy-on-write.

    Parameters
    ----------
    path : str or path-like
    label : str or path-like
        Named in errors.
    sparse : bool
        Only a part of it will be used, so the system shall not read around what is touched.

    Returns
    -------
    mmap.mmap
        Stays valid after the file is renamed or unlinked, but not if it is truncated in place.

    Raises
    ------
    CorruptFile
        It is empty.
    StorageError
        The storage refuses.
    """
    with storage_errors(label, "mapping the file"), open(path, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise CorruptFile(label, "is empty", "Save the model again.")
        # NORESERVE: the kernel need not set memory aside for copies that are never made, so a
        # file larger than the memory maps too
        flags = mmap.MAP_PRIVATE | page_cache.NORESERVE
        raw = mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        if sparse and hasattr(mmap, "MADV_RANDOM"):
            raw.madvise(mmap.MADV_RANDOM)
        return raw


@dataclasses.dataclass
class Mapped:
    """A file of weights that is mapped.

    Attributes
    ----------
    path : str or path-like or None
        None for bytes in memory.
    label : str
        What the file is called in messages.
    record : helpers.format.manifest.Manifest
    options : helpers.options.Options
    raw : mmap.mmap, optional
        Of a bare file, which is open and checked already.
    """

    path: Any
    label: str
    record: Manifest
    options: Options
    raw: Any = None

    def begin(self, part: Part) -> None:
        """Open and check the file, and bring what lies on network storage into the page cache."""
        self.part = part
        with phase("open and check"):
            self.open(sparse=not part.whole)
        self.make_ready()
        if self.options.verify:
            self.compare(part.records, self.options.progress)

    def open(self, sparse: bool = False) -> None:
        """Map the file, unless it is open already, and check its head."""
        if self.raw is None:
            self.raw = open_map(self.path, self.label, sparse)
            check_head(self.label, self.raw, len(self.raw), self.record)

    def make_ready(self) -> None:
        """Read what a map would make the system fetch page by page."""
        if self.path is not None:
            mounts.ready(self.path, self.part.spans)

    def compare(self, records: list[tuple[layout.Entry, int]], progress: bool) -> None:
        """Compare tensors with their hashes."""
        with memoryview(self.raw) as data:
            stated = self.record.stated
            hashes.compare(self.label, lambda start, stop: data[start:stop], records, stated, progress)

    def tensors(self, device: Any) -> Tensors:
        """Kind and tensor by name: views of the map, or copies of them on another device."""
        with phase("map the weights"):
            return views(self.raw, self.part.entries, device)

    def close(self) -> None:
        """Nothing: the tensors keep the map alive, and it goes with them."""

    def check(self, encryption: bytes | str | None = None, progress: bool = True) -> None:
        """Compare every tensor with its hash; errors as `helpers.format.hashes.compare`."""
        self.open()
        if self.path is not None:
            mounts.ready(self.path)
        self.compare(self.record.records, progress)
