"""An opened model: its manifest, its small files on this machine, its weights wherever they are."""

import hashlib
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from helpers.errors import CorruptFile, storage_errors
from helpers.format import hashes, manifest
from helpers.format.head import AGAIN
from helpers.modules.problems import problem_with
from helpers.options import Options
from helpers.storage.http import Store
from helpers.weights.arriving import Arriving
from helpers.weights.encrypted import Encrypted
from helpers.weights.mapped import Mapped, should_map
from helpers.weights.private import Private
from helpers.weights.streamed import Streamed


class Opened(NamedTuple):
    """A model that is being loaded, checked or looked at.

    Attributes
    ----------
    record : helpers.format.manifest.Manifest
    label : str
        What the directory or prefix of the manifest is called in messages, whatever is read in its stead.
    home : pathlib.Path
        The directory on this machine that holds the other files.
    weights_file : pathlib.Path or None
        The weights, if they are a file on this machine.
    store : helpers.storage.http.Store or None
        Where the weights are otherwise.
    raw : mmap.mmap or None
        The weights, if they are open already: those of a bare file.
    children : dict of str to Opened
        The models inside this one.
    wait : callable, optional
        Returns when ``weights_file`` is whole, where another process still fetches it.
    """

    record: manifest.Manifest
    label: str
    home: Path
    weights_file: Path | None
    store: Store | None
    raw: mmap.mmap | None
    children: dict
    wait: Callable[[], bool] | None = None

    def name(self, file: str = "") -> str:
        """What a file of the model is called in messages; without one, the directory of its files."""
        return "/".join(filter(None, (self.label, self.record.folder, file)))

    def walk(self, prefix: str = "") -> Iterator[tuple[str, "Opened"]]:
        """This model and all models inside it, each with the path of its name."""
        yield prefix, self
        for name, child in self.children.items():
            yield from child.walk(f"{prefix}/{name}".lstrip("/"))

    def here(self) -> "Opened":
        """The same model once its weights lie beside its other files."""
        children = {name: child.here() for name, child in self.children.items()}
        return self._replace(weights_file=self.home / manifest.TENSORS, store=None, children=children)

    def weights(self, options: Options) -> Mapped | Streamed | Arriving:
        """The weights as the object that brings them into memory in the way that is asked for."""
        if self.store is not None:
            return Streamed(self.store, self.record, options)
        file = self._file(options)
        return file if self.wait is None else Arriving(file, self.wait)

    def _file(self, options: Options) -> Mapped:
        is_bare = not self.record.family
        label = self.label if is_bare else self.name(manifest.TENSORS)
        if self.record.encryption:
            return Encrypted(self.weights_file, label, self.record, options)
        if self.weights_file is None or should_map(self.weights_file, options):
            return Mapped(self.weights_file, label, self.record, options, self.raw)
        return Private(self.weights_file, label, self.record, options, self.raw)


def open_files(
    record: manifest.Manifest,
    folder: Path,
    label: str,
    *,
    store: Store | None = None,
    verify: bool = False,
    manifests_only: bool = False,
) -> Opened:
    """A model of which all files but the weights are on this machine, those inside it with it.

    Parameters
    ----------
    record : helpers.format.manifest.Manifest
    folder : pathlib.Path
        Where its manifest is.
    label : str
        What it is called in messages.
    store : helpers.storage.http.Store, optional
        Where the weights are, if not beside the other files.
    verify : bool
        Compare every file with its hash.
    manifests_only : bool
        The other files need not be there.

    Returns
    -------
    Opened

    Raises
    ------
    CorruptFile
        A file is missing or, with ``verify``, not what was saved; or a manifest cannot be true, or is not the
        one that the manifest above it was saved with.
    StorageError
        The storage refuses.
    """
    home = folder / record.folder
    inside = store.under(record.folder) if store else None
    weights_file = None if store else home / manifest.TENSORS
    opened = Opened(record, label, home, weights_file, inside, None, {})
    if problem := problem_with(record.structure, record.entries):
        raise CorruptFile(f"{label}/{manifest.NAME}", problem, AGAIN)
    for name, digest in record.files.items():
        if name in record.weights or (manifests_only and Path(name).name != manifest.NAME):
            continue
        with storage_errors(opened.name(name), "reading the file"):
            if not (home / name).is_file():
                raise CorruptFile(opened.name(name), "is missing", AGAIN)
            if verify and hashes.of_file(home / name) != digest:
                raise CorruptFile(opened.name(name), "is not what was saved", AGAIN)
    with storage_errors(opened.name(manifest.TENSORS), "looking for the file"):
        if not (store or manifests_only or (home / manifest.TENSORS).is_file()):
            raise CorruptFile(opened.name(manifest.TENSORS), "is missing", AGAIN)
    for name in record.children:
        below = opened.name(name)
        with storage_errors(f"{below}/{manifest.NAME}", "reading the manifest"):
            raw = (home / name / manifest.NAME).read_bytes()
        if hashlib.sha256(raw).hexdigest() != record.files.get(f"{name}/{manifest.NAME}"):
            raise CorruptFile(f"{below}/{manifest.NAME}", "does not belong to the manifest above it", AGAIN)
        child = manifest.parse(raw, f"{below}/{manifest.NAME}")
        opened.children[name] = open_files(
            child,
            home / name,
            below,
            store=inside.under(name) if inside else None,
            verify=verify,
            manifests_only=manifests_only,
        )
    return opened


def check_weights(opened: Opened, options: Options) -> None:
    """Compare all weights of a model, and of those inside it, with their hashes.

    Raises
    ------
    CorruptFile
        Names every damaged file and tensor.
    EncryptionError
        The key does not open them.
    """
    errors = []
    for _, part in opened.walk():
        try:
            part.weights(options).check(options.encryption, options.progress)
        except CorruptFile as error:
            errors.append(error)
    if len(errors) > 1:
        parts = "; ".join(f"{error.path}: {error.problem}" for error in errors)
        raise CorruptFile(opened.label, f"is damaged in several places: {parts}", errors[0].remedy)
    if errors:
        raise errors[0]
