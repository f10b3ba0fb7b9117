"""Weights on this machine's storage, read into memory of their own, or onto a GPU."""

import os
import struct
from typing import Any

import torch

from helpers.errors import CorruptFile, storage_errors
from helpers.format import layout
from helpers.progress import progress_bar
from helpers.storage import memory
from helpers.storage.http import Changed
from helpers.timeline import phase
from helpers.weights import keys, onto_gpu, ring
from helpers.weights.mapped import Mapped
from helpers.weights.tensors import Tensors, dtype_name, view

# Of tensorizer, numpy and torch, where they cannot make sense of a file:
FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NameError,  # by a slip of tensorizer, where the kind of encryption is unknown
    RuntimeError,
    SyntaxError,  # by numpy, which parses the name of a type as Python
    TypeError,
    ValueError,
    struct.error,
)


class Private(Mapped):
    """A file of weights of which every tensor is read into memory of its own; its map serves the checks."""

    def open(self, sparse: bool = False) -> None:
        """As `Mapped`, and note the state of the file that is checked, which is opened once more to be read."""
        self.state = self._state()
        super().open(sparse)

    def _state(self) -> tuple[int, int]:
        """What is another after the file was changed; its inode is no sign: some network mounts give new ones."""
        with storage_errors(self.label, "looking at the file"):
            status = os.stat(self.path)
        return status.st_size, status.st_mtime_ns

    def make_ready(self) -> None:
        """Read what a map would fetch page by page, if the map is used: to compare hashes."""
        if self.options.verify:
            super().make_ready()

    def tensors(self, device: Any) -> Tensors:
        """Kind and tensor by name, on the device."""
        with phase("read the weights"):
            loaded = self.read([entry for entry in self.part.entries if self.is_indexed(entry)], device)
            found = {}
            for entry in self.part.entries:
                if entry.name not in loaded:
                    loaded[entry.name] = view(self.raw, entry).to(device, copy=True)
                found[entry.name] = entry.kind, loaded[entry.name]
            return found

    def is_indexed(self, entry: layout.Entry) -> bool:
        """Whether tensorizer finds the tensor in the file's index."""
        return not layout.is_hidden(entry)

    def read(self, entries: list[layout.Entry], device: Any) -> dict[str, torch.Tensor]:
        """Tensors by name; errors as the function `read`.

        Raises
        ------
        helpers.storage.http.Changed
            The file was changed meanwhile. If it was cut, tensorizer says nothing and leaves memory unfilled.
        """
        options = self.options
        try:
            if onto_gpu.way == "ring":
                return ring.from_file(self.path, self.label, entries, device, options.progress)
            return read(self.path, self.label, entries, device, options.readers, options.progress)
        finally:
            if self._state() != self.state:
                raise Changed


def read(
    path: str | os.PathLike,
    label: str,
    entries: list[layout.Entry],
    device: Any,
    readers: int | None = None,
    progress: bool = True,
    decryption: Any = None,
) -> dict[str, torch.Tensor]:
    """Read tensors with tensorizer's parallel reader.

    Parameters
    ----------
    path : str or path-like
        A file whose index and length have been checked.
    label : str
        Of the file, for errors.
    entries : list of helpers.format.layout.Entry
        What to read.
    device : torch.device
        Where the tensors go.
    readers : int, optional
        Threads that read; by default tensorizer chooses (8 for a local file).
    progress : bool
        Show a bar if it takes longer than 1.5 s.
    decryption : tensorizer.DecryptionParams, optional
        Of an encrypted file.

    Returns
    -------
    dict of str to torch.Tensor

    Raises
    ------
    CorruptFile
        If tensorizer finds the file unreadable, or finds something else in it than ``entries`` say.
    StorageError
        The storage refuses.
    torch.OutOfMemoryError
        The device, or the CPU, has too little memory; or another fault of the device (torch.AcceleratorError).
    EncryptionError
        There is too little memory to make a key of a passphrase.
    tensorizer.CryptographyError
        The key does not open a tensor.
    """
    expected = {entry.name: entry for entry in entries}
    if not expected:  # tensorizer rejects an empty index
        return {}
    from tensorizer import TensorDeserializer

    total, loaded = sum(entry.nbytes for entry in entries), {}
    try:
        with (
            storage_errors(label, "reading the weights"),
            progress_bar(total, "read", progress) as bar,
            TensorDeserializer(
                str(path),
                device=device,
                lazy_load=True,
                num_readers=readers,
                encryption=decryption,
                filter_func=lambda name: str(name).removeprefix(".") in expected,
            ) as file,
        ):
            keys.derive_once(file)
            for _, _, stored, parameter in file.read_tensors():
                name = str(stored).removeprefix(".")
                if file._cache[(stored,)].header.data_length != expected[name].nbytes:
                    raise ValueError(f"{name} has no data")  # then tensorizer makes it of zeros
                loaded[name] = _checked(label, expected[name], parameter.detach())
                bar.update(expected[name].nbytes)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise  # both are RuntimeErrors, and no fault of the file
    except FAULTS as error:
        raise unreadable(label, error, total) from error
    if missing := expected.keys() - loaded.keys():
        raise CorruptFile(label, f"does not hold {', '.join(sorted(missing))}", "Save the model again.")
    return loaded


def _checked(label: str, entry: layout.Entry, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that was read, if it is of the type and shape of its entry."""
    if (dtype_name(tensor.dtype), tuple(tensor.shape)) == (entry.dtype, entry.shape):
        return tensor
    found = f"{dtype_name(tensor.dtype)} of shape {list(tensor.shape)}"
    said = f"holds {entry.name!r} as {found}, not as {entry.dtype} of shape {list(entry.shape)}"
    raise CorruptFile(label, said, "Save the model again.")


def unreadable(label: str, error: Exception, needed: int) -> Exception:
    """The error for what ended tensorizer: too little memory, or else a file that it finds unreadable."""
    if "DefaultCPUAllocator" in str(error):  # of the CPU torch says it by a plain RuntimeError
        return torch.OutOfMemoryError(str(error))
    # Python says it of a header, which is small unless a damaged one states an absurd length
    if isinstance(error, MemoryError) and memory.available_bytes() < needed:
        return torch.OutOfMemoryError(str(error))
    said = str(error) or type(error).__name__
    return CorruptFile(label, f"tensorizer cannot read it ({said})", "Save the model again.")
