"""From an opened file of weights to a model: fetch, check, cast, and let the family rebuild it."""

import contextlib
import contextvars
import dataclasses
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from helpers import errors, families
from helpers.errors import EncryptionError, SkeletonMismatch, UnsupportedModel
from helpers.families.torch_module import fill
from helpers.format import layout, manifest
from helpers.format.selection import select
from helpers.modules.restore import structure_of
from helpers.saved import directory as storage
from helpers.storage import page_cache as readahead
from helpers.timeline import phase
from helpers.weights import encryption as keys
from helpers.weights import tensors


class Options(NamedTuple):
    """The keywords of `helpers.deserialise`."""

    device: torch.device
    dtype: torch.dtype | None
    skeleton: Callable | None
    mapped: bool | None
    verify: bool
    readers: int | None
    trusted: Sequence[str]
    encryption: bytes | str | None
    only: Callable | None
    progress: bool


class Place(NamedTuple):
    """Where a model is.

    Attributes
    ----------
    path : pathlib.Path
        The directory with its manifest and its files; without the weights if there is a store.
    label : str
        What it is called in messages.
    store : helpers.storage.http.Store or None
        Where the weights are, if not in ``path``.
    """

    path: Path
    label: str
    store: Any

    def under(self, name):
        store = self.store and self.store.under(name)
        return Place(self.path / name, store.label if store else str(self.path / name), store)


def from_directory(place, options):
    """Load a model that `helpers.serialise` saved.

    Parameters
    ----------
    place : Place
    options : Options

    Returns
    -------
    object

    Raises
    ------
    ModelError
        As `helpers.deserialise`; from a store also `helpers.storage.http.Changed` and ``Missing``.
    """
    with phase("open and check"):
        if place.store is None:
            record, raw = storage.open_model(place.path, options.verify, options.only is not None)
        else:
            record, raw = storage.open_record(place.path, verify=True), None
    keys.check(place.label, record.encryption, options.encryption)
    if record.encryption and options.mapped:
        raise EncryptionError(
            place.label, "is encrypted, so it is never mapped", "Load it without mapped=True."
        )
    home = place.under(record.folder)
    if options.only is not None and record.family == "sklearn":
        raise UnsupportedModel(
            place.label, "is an estimator, which is loaded whole", "Load it without only=."
        )
    chosen = select(record, options.only, place.label)
    if place.store is None:
        return _rebuild(home, record, chosen, _on_disk(home, record, raw, chosen, options), options)
    with _beside(lambda stopping: _stream(home.store, record, chosen, options, stopping)) as weights:
        return _rebuild(
            home, record, chosen, lambda device: _views(weights(), chosen.entries, device), options
        )


def _rebuild(home, record, chosen, tensors_on, options):
    def fetch(device=options.device):
        return _cast(tensors_on(device), options.dtype, record.structure["transient"])

    def child(name):
        only = options.only and (lambda inner: options.only(f"{name}/{inner}"))
        return from_directory(home.under(name), options._replace(only=only))

    origin = str(home.path) if home.store is None else home.label
    wanted = _wanted(fetch, child, options)._replace(origin=origin)
    record = dataclasses.replace(record, structure=chosen.structure)
    return families.by_name(record.family).load(home.path, record, wanted)


def _on_disk(home, record, raw, chosen, options):
    weights = home.path / manifest.TENSORS
    spans = chosen.spans if options.only is not None else None
    if options.verify and not record.encryption:  # what is encrypted is always checked
        _verify(weights, raw, chosen.records, options, spans)
    return lambda device: _tensors(weights, raw, chosen.entries, device, options, spans)


def _stream(store, record, chosen, options, stopping):
    from helpers.saved.copies import in_memory

    name, spans = store.name(manifest.TENSORS), None
    if options.only is not None:
        spans = [(0, len(layout.prologue(record.entries))), *chosen.spans]
    with phase("fetch the weights"):
        raw, sure = in_memory(
            store,
            manifest.TENSORS,
            record.length,
            spans=spans,
            readers=options.readers,
            progress=options.progress,
            stopping=stopping,
        )
    if not stopping.is_set():
        storage.check_weights(name, raw, len(raw), record)
        if options.verify or not sure:
            _verify(name, raw, chosen.records, options)
    return raw


@contextlib.contextmanager
def _beside(work):
    """Do some work in a thread beside the block; yields what waits for its result.

    A model class takes seconds to import, in which the network has nothing to do. An error in the
    block ends the work soon; one in the work is raised where its result is asked for.
    """
    stopping, context = threading.Event(), contextvars.copy_context()  # with the timeline in it
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(context.run, work, stopping)
        try:
            yield job.result
        except BaseException:
            stopping.set()
            raise
        job.result()


def from_bare_file(path, raw, records, options):
    """Load a .tensors file that has no manifest into the model that ``options.skeleton`` builds.

    Parameters
    ----------
    path : str or path-like
        Of the file; its name alone if ``raw`` is its bytes in memory.
    raw : buffer
    records : list of (helpers.format.layout.Entry, int)
        From `helpers.saved.directory.bare_index`.
    options : Options

    Returns
    -------
    torch.nn.Module
    """
    if options.skeleton is None:
        raise SkeletonMismatch(
            path,
            "is a bare .tensors file, which does not say what model it belongs to",
            "Pass skeleton=, a function that builds the empty model.",
        )
    if options.only is not None:
        raise SkeletonMismatch(
            path, "is a bare .tensors file, which is loaded whole", "Save it with serialise()."
        )
    if options.encryption is not None:
        raise EncryptionError(path, "is not encrypted", "Load it without encryption=.")

    def fetch():
        entries = [entry for entry, _ in records]
        if isinstance(path, Path):
            return _tensors(path, raw, entries, options.device, options)
        return _views(raw, entries, options.device)

    def structure_for(model, found):
        structure = structure_of(model, found, path)
        found.update(_cast(found, options.dtype, structure["transient"]))
        return structure

    if options.verify:
        _verify(path, raw, records, options)
    return fill(options.skeleton, _wanted(fetch, None, options), structure_for, path)


def _wanted(fetch, child, options):
    return families.Wanted(fetch, child, options.device, options.dtype, options.skeleton, options.trusted, "")


def _verify(path, raw, records, options, spans=None):
    if isinstance(path, Path):
        readahead.ready(path, spans)
    with phase("verify"), memoryview(raw) as data:
        tensors.verify(path, lambda start, stop: data[start:stop], records, progress=options.progress)


def _tensors(path, raw, entries, device, options, spans=None):
    """Kind and tensor by name: views of the map, or memory of their own."""
    mapped = options.mapped
    if mapped is None:
        mapped = options.encryption is None and device.type != "cuda" and readahead.may_map(path)
    if mapped:
        readahead.ready(path, spans)
        with phase("map the weights"):
            return _views(raw, entries, device)
    with phase("read the weights"):
        with errors.storage(path, "reading the weights"):
            read = tensors.read(path, entries, device, options.readers, options.progress, options.encryption)
        for entry in entries:  # what tensorizer's index does not hold
            if entry.name not in read:
                read[entry.name] = tensors.view(raw, entry).to(device, copy=True)
    return {entry.name: (entry.kind, read[entry.name]) for entry in entries}


def _views(raw, entries, device):
    return {entry.name: (entry.kind, tensors.view(raw, entry).to(device)) for entry in entries}


def _cast(found, dtype, transient):
    if dtype is None:
        return found
    stay = set(transient)
    return {
        name: (kind, tensor.to(dtype))
        if kind != "attribute" and name not in stay and tensor.is_floating_point()
        else (kind, tensor)
        for name, (kind, tensor) in found.items()
    }
