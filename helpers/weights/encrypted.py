"""Encrypted .tensors files, in tensorizer's format: XSalsa20-Poly1305 by libsodium.

The data of every tensor is encrypted. Not encrypted are the names, types and shapes, a SHA-256 over
them and each tensor's plain data (tensorizer writes it: whoever has the same weights can recognise them),
and all other files: the manifest, configuration, tokenizer, the structure of an estimator. Of a passphrase
the file holds the salt and the cost of Argon2.

Each part of a tensor carries a code that shows damage when it is decrypted. That every tensor is where it
was, only the SHA-256 of the whole file in the manifest says: `helpers.verify` compares it, and a load with
``verify=True``. The manifest is not signed, so whoever can write to it can replace the model.
"""

import itertools
import os
from typing import Any

import torch

from helpers.errors import CorruptFile, EncryptionError, ModelError, UnsupportedModel, storage_errors
from helpers.format import hashes, layout
from helpers.format.head import check_head
from helpers.format.manifest import TENSORS
from helpers.format.selection import Part
from helpers.progress import progress_bar
from helpers.storage.flushed import flushed
from helpers.timeline import phase
from helpers.weights import keys
from helpers.weights.private import FAULTS, Private, read, unreadable
from helpers.weights.tensors import Tensors, entries_of
from helpers.weights.write import Written

_INDEX = 256 << 10  # bytes that tensorizer sets aside for the index of a new file, always
_FEW = 8  # tensors tried, to tell a wrong key from damage


class Encrypted(Private):
    """An encrypted file of weights, on this machine's storage: never mapped."""

    def begin(self, part: Part) -> None:
        """Check the file's head."""
        self.part = part
        if self.options.mapped:
            raise EncryptionError(
                self.label, "is encrypted, so it is never mapped", "Load it without mapped=True."
            )
        with phase("open and check"):
            self.open()

    def open(self, sparse: bool = False) -> None:
        """Check the file's head; nothing stays open."""
        with storage_errors(self.label, "reading the file"), open(self.path, "rb") as file:
            head = file.read(layout.MARK_AT + 8)
            check_head(self.label, head, os.fstat(file.fileno()).st_size, self.record)

    def is_indexed(self, entry: layout.Entry) -> bool:
        """Whether the tensor is in the file: an empty one is not."""
        return entry.nbytes > 0

    def read(self, entries: list[layout.Entry], device: Any) -> dict[str, torch.Tensor]:
        """Tensors by name, decrypted; the error for a wrong key or damage names what is damaged.

        Where hashes are to be compared, that of the file is compared afterwards, since damage in a tensor
        has been named by then.
        """
        from tensorizer import CryptographyError

        options, decryption = self.options, keys.to_read(self.options.encryption)
        try:
            found = read(
                self.path, self.label, entries, device, options.readers, options.progress, decryption
            )
        except CryptographyError:
            raise self._explained(decryption) from None
        if options.verify:
            self._compare()
        return found

    def check(self, encryption: bytes | str | None = None, progress: bool = True) -> None:
        """Compare the whole file with its hash; with the key, name the tensors that it does not open.

        Raises
        ------
        CorruptFile
            It is damaged.
        EncryptionError
            The key does not open it, or there is too little memory to make it of the passphrase.
        torch.OutOfMemoryError
            The memory does not suffice to decrypt a tensor.
        """
        self.open()
        if encryption is not None:
            decryption = keys.to_read(encryption)
            if self._closed(self.record.entries, decryption):
                raise self._explained(decryption)
        self._compare()

    def _compare(self) -> None:
        """Compare the whole file with its hash: what is beside the tensors, and their places, too."""
        with storage_errors(self.label, "reading the file"):
            digest = hashes.of_file(self.path)
        if digest != self.record.files[TENSORS]:
            raise CorruptFile(
                self.label,
                "is not what was saved",
                "Fetch the model again; with encryption= the damaged tensors are named.",
            )

    def _explained(self, decryption: Any) -> ModelError:
        """The error for what cannot be decrypted: a wrong key opens none of the smallest tensors."""
        entries = sorted((e for e in self.record.entries if e.nbytes), key=lambda entry: entry.nbytes)
        few = self._closed(entries[:_FEW], decryption)
        if few and len(few) == len(entries[:_FEW]):
            return EncryptionError(
                self.label,
                "cannot be decrypted",
                "Pass the key it was saved with; if that is the one, it is damaged.",
            )
        return hashes.damaged(self.label, [*few, *self._closed(entries[_FEW:], decryption)], len(entries))

    def _closed(self, entries: list[layout.Entry], decryption: Any) -> list[str]:
        """Names of the tensors that a key does not open."""
        from tensorizer import CryptographyError, TensorDeserializer

        names, bad = {entry.name for entry in entries if entry.nbytes}, []
        if not names:
            return bad
        try:
            with (
                storage_errors(self.label, "reading the weights"),
                TensorDeserializer(  # one for all: each derives the key of a passphrase anew
                    str(self.path),
                    device="cpu",
                    lazy_load=True,
                    encryption=decryption,
                    filter_func=lambda stored: str(stored).removeprefix(".") in names,
                ) as file,
            ):
                keys.derive_once(file)
                for stored in list(file.keys()):
                    try:
                        file[stored]
                    except CryptographyError:
                        bad.append(str(stored).removeprefix("."))
                    file._cache.clear()  # where it keeps each tensor until the end
        except (CryptographyError, *FAULTS) as error:  # of a version without encryption
            raise unreadable(self.label, error, max(entry.nbytes for entry in entries)) from error
        return bad


def _check_index(entries: list[layout.Entry]) -> None:
    ends = list(itertools.accumulate(layout.index_lengths(entries)))
    fitting = sum(end <= _INDEX for end in ends)
    if fitting < len(entries):
        raise UnsupportedModel(
            TENSORS,
            f"cannot be encrypted: it would have {len(entries):,} tensors, and {fitting:,} of them fill the index",
            "Save the model without encryption=, or save its parts one by one.",
        )


def write(path: str | os.PathLike, tensors: Tensors, encryption: Any, *, progress: bool = True) -> Written:
    """Write tensors to a new encrypted file and flush it to the disk.

    One after the other, each from a copy: tensorizer encrypts in place, and a model that serves
    meanwhile would compute with noise. Empty tensors have no data, so they are not in the file.

    Parameters
    ----------
    path : str or path-like
        Must not exist.
    tensors : dict of str to (str, torch.Tensor)
        As for `helpers.weights.write.write`.
    encryption : tensorizer.EncryptionParams
        From `helpers.weights.keys.to_write`.
    progress : bool
        Show a bar if it takes longer than 1.5 s.

    Returns
    -------
    helpers.weights.write.Written
        With offsets and hashes of nothing.

    Raises
    ------
    OSError
        The storage refuses.
    UnsupportedModel
        There are too many tensors for the room that tensorizer sets aside for the index.
    """
    from tensorizer import TensorSerializer
    from tensorizer.serialization import TensorType

    types = {"parameter": TensorType.PARAM, "state_dict": TensorType.STATE_DICT}
    entries, mark = entries_of(tensors), os.urandom(8)
    _check_index([entry for entry in entries if entry.nbytes])
    bar = progress_bar(sum(entry.nbytes for entry in entries), "encrypt", progress)
    with open(path, "xb", buffering=0) as file, flushed(file.fileno()):
        with open(path, "rb+", buffering=0) as theirs, bar:  # which tensorizer closes
            writer = TensorSerializer(theirs, encryption=encryption)
            try:
                for name, (kind, tensor) in tensors.items():
                    if tensor.numel():
                        plain = tensor.detach().resolve_conj().resolve_neg().cpu()
                        copy = plain.clone(memory_format=torch.contiguous_format)
                        stored = layout.stored_name(name)
                        writer.write_tensor(0, stored, types.get(kind, TensorType.BUFFER), copy)
                        bar.update(copy.numel() * copy.element_size())
            except BaseException:  # also Ctrl-C: its threads write by the number of a file that closes
                for pool in writer._pools:  # no job is cancelled: another one would wait for it for an hour
                    pool.shutdown()
                raise
            writer.close()
        file.seek(layout.MARK_AT)
        file.write(mark)
        length = os.fstat(file.fileno()).st_size
    return Written(entries, [""] * len(entries), length, mark.hex())
