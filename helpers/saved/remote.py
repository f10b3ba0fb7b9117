"""Saved models and bare files in a store, read into memory or kept as a copy on this machine."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from helpers.errors import CorruptFile, ModelError, NotAModel, storage_errors, temporary_directory
from helpers.format import manifest
from helpers.options import Options
from helpers.saved.local import Directory, index_of
from helpers.saved.opened import Opened, check_weights, open_files
from helpers.storage import atomic, cache, fetch
from helpers.storage.http import Changed, Missing, Store
from helpers.storage.saved_files import small_files
from helpers.timeline import phase


class Remote:
    """A model in a store: its small files come into a temporary directory, its weights into memory."""

    TURNS = 3  # times that it may be replaced while it is read: it is fetched anew each time

    def __init__(self, store: Store, options: Options, manifests_only: bool = False):
        self.store, self.label = store, store.label
        self.options, self.manifests_only = options, manifests_only

    def identity(self) -> bytes:
        """What tells this model from another one at this address: its manifest, with a hash of everything.

        Raises
        ------
        NotAModel
            There is none.
        StorageError
            The store refuses.
        """
        try:
            return fetch.small(self.store, manifest.NAME, manifest.LIMIT)
        except Missing:
            raise NotAModel(
                self.label,
                f"holds no saved model (no {manifest.NAME})",
                "Check the address, or save a model there first.",
            ) from None

    def is_still(self, identity: bytes) -> bool:
        """Always: each part that is read is compared with a hash or with the version of its object."""
        return True

    @contextlib.contextmanager
    def opened(self, identity: bytes) -> Iterator[Opened]:
        """The model.

        An encrypted one comes whole into the temporary directory, still encrypted, if there is a
        key to use: tensorizer decrypts files.
        """
        doing = "writing to the temporary directory (TMPDIR)"
        with contextlib.ExitStack() as stack:
            with storage_errors(temporary_directory(), doing):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="model-")))
                with phase("fetch the small files"):
                    opened = bring_small_files(self.store, identity, folder, self.manifests_only)
                if opened.record.encryption and self.options.encryption is not None:
                    with phase("fetch the weights"):
                        opened = bring_weights(opened, folder, self.options)
            yield opened


class Cached(Remote):
    """A model in a store of which a copy is kept in a directory, and mapped."""

    def __init__(self, store: Store, directory: str | Path, options: Options):
        super().__init__(store, options)
        self.copy = Directory(cache.directory_for(store.label, directory), options)

    def is_still(self, identity: bytes) -> bool:
        """Whether the copy is there and has not been replaced."""
        return self._is_copied(identity)

    @contextlib.contextmanager
    def opened(self, identity: bytes) -> Iterator[Opened]:
        """The copy; it is fetched if there is none, if it is outdated, or if it turns out damaged."""
        with cache.alone(self.copy.path):  # of several that start together one fetches, the others wait
            is_there = self._is_copied(identity)
            if not is_there:
                with atomic.directory(self.copy.path, overwrite=True, strangers=lambda _: ()) as folder:
                    opened = bring_small_files(self.store, identity, folder)
                    check_weights(bring_weights(opened, folder, self.options), self._without_key())
            copied = self._which()
        try:
            with self.copy.opened(identity) as opened:
                yield opened
        except ModelError as error:
            with cache.alone(self.copy.path):  # nobody replaces it while it is looked at and removed
                if self._which() == copied:  # no other process has replaced it
                    if not (is_there and isinstance(error, CorruptFile)) or self._is_whole(identity):
                        raise  # damaged at its origin, or no damage of the file
                    self._remove(identity, error)
            raise Changed from None  # so that it is opened again, and fetched

    def _which(self) -> tuple[int, int] | None:
        """What tells this copy from another one in its place, of the same model too."""
        try:
            status = os.stat(self.copy.path)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _remove(self, identity: bytes, error: CorruptFile) -> None:
        shutil.rmtree(self.copy.path, ignore_errors=True)
        if self._is_copied(identity):
            remedy = f"The cache cannot be written, so remove {self.copy.path} yourself."
            raise CorruptFile(error.path, error.problem, remedy) from None

    def _is_copied(self, identity: bytes) -> bool:
        try:
            return (self.copy.path / manifest.NAME).read_bytes() == identity
        except OSError:
            return False

    def _is_whole(self, identity: bytes) -> bool:
        try:
            record = manifest.parse(identity, self.label)
            check_weights(
                open_files(record, self.copy.path, self.copy.label, verify=True), self._without_key()
            )
        except ModelError:
            return False
        return True

    def _without_key(self) -> Options:
        return self.options._replace(encryption=None)


class RemoteFile:
    """A ``.tensors`` file without a manifest, in a store."""

    TURNS = 3

    def __init__(self, store: Store, options: Options):
        self.store, self.label, self.options = store, store.label, options

    def identity(self) -> bytes:
        """What tells this file from another one under its name.

        Raises
        ------
        NotAModel
            There is no such file.
        StorageError
            The store refuses.
        """
        try:
            found = fetch.probe(self.store, "")
        except Missing:
            raise NotAModel(self.label, "does not exist", "Check the address.") from None
        return f"{found.length} {found.version}".encode()

    def is_still(self, identity: bytes) -> bool:
        """Always: the store names versions, or every hash was compared."""
        return True

    @contextlib.contextmanager
    def opened(self, identity: bytes) -> Iterator[Opened]:
        """The file in memory, as a model without structure."""
        options = self.options
        with phase("fetch the weights"):
            raw, is_one_version = fetch.into_memory(
                self.store, "", readers=options.readers, progress=options.progress
            )
        opened = Opened(index_of(raw, self.label), self.label, Path(), None, None, raw, {})
        if not is_one_version:
            check_weights(opened, options)
        yield opened


def bring_small_files(store: Store, text: bytes, folder: Path, manifests_only: bool = False) -> Opened:
    """Write a model's manifest and all its files but weights into a directory, hashes checked.

    Parameters
    ----------
    store : helpers.storage.http.Store
    text : bytes
        Of the manifest.
    folder : pathlib.Path
        Empty.
    manifests_only : bool
        Of the other files bring the manifests of the models inside alone.

    Returns
    -------
    helpers.saved.opened.Opened
        With its weights in the store.

    Raises
    ------
    Missing, Changed, ModelError
    """
    record = manifest.parse(text, store.name(manifest.NAME))
    (folder / record.folder).mkdir(parents=True, exist_ok=True)
    write_files(folder, small_files(store, record, manifests_only) | {manifest.NAME: text})
    return open_files(record, folder, store.label, store=store, manifests_only=manifests_only)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files, by their paths, into a directory."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def bring_weights(opened: Opened, folder: Path, options: Options) -> Opened:
    """Fetch the weights of a model to where its small files are; errors as `bring_small_files`."""
    atomic.check_space(folder, sum(part.record.length for _, part in opened.walk()))
    for _, part in opened.walk():
        path, length = part.home / manifest.TENSORS, part.record.length
        assert part.store is not None
        fetch.into_file(
            part.store, manifest.TENSORS, path, length, readers=options.readers, progress=options.progress
        )
    return opened.here()
