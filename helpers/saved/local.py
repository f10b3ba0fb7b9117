"""Saved models and bare files on this machine's storage."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from helpers.errors import CorruptFile, NotAModel, UnsupportedModel, storage_errors
from helpers.format import layout, manifest
from helpers.options import Options
from helpers.saved.opened import Opened, open_files
from helpers.storage.atomic import previous_of
from helpers.timeline import phase
from helpers.weights.mapped import open_map


class Directory:
    """A directory that a save has written."""

    TURNS = 30  # times that it may be replaced while it is read: to open it again takes milliseconds

    def __init__(self, path: Path, options: Options, manifests_only: bool = False):
        self.path, self.label = path, str(path)
        self.options, self.manifests_only = options, manifests_only

    def _folder(self) -> Path:
        """The directory; where an interrupted save has left only the previous model, that one."""
        with storage_errors(self.path, "looking for the model"):
            if not self.path.exists() and (previous := previous_of(os.path.realpath(self.path))).exists():
                return previous
            return self.path

    def identity(self) -> bytes:
        """What tells this model from another one at this path: its manifest, with a hash of everything.

        Raises
        ------
        NotAModel
            There is no such directory, or no manifest in it.
        StorageError
            The storage refuses.
        """
        path = self._folder() / manifest.NAME
        with storage_errors(path, "reading the manifest"):
            if not path.is_file():
                raise self._absence()
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size  # Python sets aside as much as it is asked for
                return file.read(min(size, manifest.LIMIT) + 1)

    def _absence(self) -> NotAModel:
        if not self.path.exists():
            return NotAModel(self.path, "does not exist", "Check the path, or save a model there first.")
        hint = f"Save one with serialise(model, {self.label!r})."
        if (self.path / "config.json").exists():
            hint = "It looks like a Hugging Face directory: load it with from_pretrained and serialise() it."
        return NotAModel(self.path, f"holds no saved model (no {manifest.NAME})", hint)

    def is_still(self, identity: bytes) -> bool:
        """Whether the model has not been replaced."""
        return self.identity() == identity

    @contextlib.contextmanager
    def opened(self, identity: bytes) -> Iterator[Opened]:
        """The model; errors as `helpers.saved.opened.open_files`."""
        with phase("open and check"):
            record = manifest.parse(identity, f"{self.label}/{manifest.NAME}")
            opened = open_files(
                record,
                self._folder(),
                self.label,
                verify=self.options.verify,
                manifests_only=self.manifests_only,
            )
        yield opened


class BareFile:
    """A ``.tensors`` file without a manifest, ours or stock tensorizer's."""

    TURNS = 30

    def __init__(self, path: Path):
        self.path, self.label = path, str(path)

    def identity(self) -> bytes:
        """What tells this file from another one under its name."""
        with storage_errors(self.path, "opening the file"):
            status = self.path.stat()
        return f"{status.st_ino} {status.st_mtime_ns} {status.st_size}".encode()

    def is_still(self, identity: bytes) -> bool:
        """Whether the file has not been replaced."""
        return self.identity() == identity

    @contextlib.contextmanager
    def opened(self, identity: bytes) -> Iterator[Opened]:
        """The file as a model without structure; errors as `index_of`."""
        with phase("open and check"):
            raw = open_map(self.path, self.label)
            record = index_of(raw, self.label)
        yield Opened(record, self.label, self.path.parent, self.path, None, raw, {})


def index_of(raw, label: str) -> manifest.Manifest:
    """What the index of a bare file says.

    Raises
    ------
    NotAModel
        It is something else.
    CorruptFile
        Truncated, or the index contradicts itself.
    UnsupportedModel
        It was encrypted by stock tensorizer.
    """
    try:
        return manifest.of_bare_file(layout.read_index(raw), len(raw))
    except layout.Encrypted:
        raise UnsupportedModel(
            label,
            "was encrypted by stock tensorizer (data version 3), which alone reads it",
            "Let TensorDeserializer(path, encryption=DecryptionParams.from_key(key)).load_into_module(model) fill the "
            "model, and save that with serialise(model, …, encryption=key).",
        ) from None
    except ValueError as error:
        kind = CorruptFile if raw[: len(layout.MAGIC)] == layout.MAGIC else NotAModel
        raise kind(label, str(error), "Check the path, or save the model again.") from error
