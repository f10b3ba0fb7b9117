"""Weights in a store: fetched into private memory, beside whatever else the load does meanwhile."""

import contextvars
import mmap
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

from helpers.errors import CorruptFile
from helpers.format import hashes, layout
from helpers.format.head import check_head
from helpers.format.manifest import TENSORS, Manifest
from helpers.format.selection import Part
from helpers.options import Options
from helpers.storage import fetch
from helpers.storage.http import Store
from helpers.timeline import phase
from helpers.weights.tensors import Tensors, views


class Streamed:
    """An object of weights in a store. Only its prologue and the records that are wanted are fetched."""

    def __init__(self, store: Store, record: Manifest, options: Options):
        self.store, self.record, self.options = store, record, options
        self.label = store.name(TENSORS)
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(1)

    def begin(self, part: Part) -> None:
        """Start to fetch, in a thread: a model class takes seconds to import, in which the network idles."""
        self.part = part
        context = contextvars.copy_context()  # with the timeline in it
        self._job = self._pool.submit(context.run, self._fetch)

    def _fetch(self) -> mmap.mmap:
        part, spans = self.part, self.part.spans
        if spans is not None:
            spans = [(0, len(layout.prologue(self.record.entries))), *spans]
        with phase("fetch the weights"):
            raw, is_one_version = fetch.into_memory(
                self.store,
                TENSORS,
                self.record.length,
                spans=spans,
                readers=self.options.readers,
                progress=self.options.progress,
                stopping=self._stopping,
            )
        check_head(self.label, raw, len(raw), self.record)
        if self.options.verify or not is_one_version:
            data = memoryview(raw)
            hashes.compare(
                self.label,
                lambda start, stop: data[start:stop],
                part.records,
                self.record.stated,
                self.options.progress,
            )
        return raw

    def tensors(self, device: Any) -> Tensors:
        """Kind and tensor by name, once everything has arrived; errors of the fetch are raised here."""
        return views(self._job.result(), self.part.entries, device)

    def close(self) -> None:
        """End the fetch soon, if it still runs."""
        self._stopping.set()
        self._pool.shutdown()

    def check(self, encryption: bytes | str | None = None, progress: bool = True) -> None:
        """Read the object once through and compare it with its hashes; it is kept nowhere if the server sends parts.

        Raises
        ------
        CorruptFile
            Names every damaged tensor, or the file that is not what was saved.
        """
        length, whole = self.record.length, None
        found = fetch.probe(self.store, TENSORS, length)
        if not found.partial:  # the server sends all or nothing
            whole, _ = fetch.into_memory(self.store, TENSORS, length, progress=progress)
        if self.record.encryption:
            digest = sha256(whole).hexdigest() if whole else fetch.digest(self.store, TENSORS, found)
            if digest != self.record.files[TENSORS]:
                raise CorruptFile(self.label, "is not what was saved", "Upload the model again.")
            return

        def piece(start: int, stop: int) -> Any:
            if whole is not None:
                return memoryview(whole)[start:stop]
            return fetch.part(self.store, TENSORS, start, stop, found)

        head = bytes(piece(0, len(layout.prologue(self.record.entries))))
        check_head(self.label, head, length, self.record)
        hashes.compare(self.label, piece, self.record.records, self.record.stated, progress)
