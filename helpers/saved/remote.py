"""Load a model from a store: its small files into a temporary directory, its weights into memory."""

import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from helpers.errors import EncryptionError, ModelError, NotAModel, StorageError
from helpers.format import manifest
from helpers.saved import copies, loading
from helpers.saved import directory as storage
from helpers.storage import fetch
from helpers.storage.http import Changed, Missing, open_store
from helpers.timeline import phase


def is_bare(source):
    """Whether an address is that of one ``.tensors`` file."""
    return urlsplit(source).path.endswith(".tensors")


def load(source, options):
    """Load a model from a store, without a copy on the disk.

    An encrypted model passes through the temporary directory, still encrypted: tensorizer decrypts
    files.

    Parameters
    ----------
    source : str
    options : helpers.saved.loading.Options

    Returns
    -------
    object

    Raises
    ------
    ModelError
        As `helpers.deserialise`.
    """
    store = open_store(source)
    if options.mapped:
        raise StorageError(
            store.label, "is not a file that can be mapped", "Pass cache=, a directory for a copy."
        )
    if is_bare(source):
        return _bare(store, options)

    def attempt(text):
        with tempfile.TemporaryDirectory(prefix="model-") as scratch:
            try:
                return _load(store, text, Path(scratch), options)
            except ModelError as error:  # the temporary path tells the reader nothing
                error.args = (str(error).replace(scratch, store.label),)
                error.path = error.path.replace(scratch, store.label)
                error.problem = error.problem.replace(scratch, store.label)
                raise

    return copies.consistently(store, attempt)


def _load(store, text, folder, options):
    if manifest.parse(text, store.name(manifest.NAME)).encryption and options.encryption is not None:
        with phase("fetch the weights"):
            copies.fill(store, text, folder, options.readers, options.progress)
        return loading.from_directory(loading.Place(folder, store.label, None), options)
    with phase("fetch the small files"):
        copies.small_files(store, text, folder)
    return loading.from_directory(loading.Place(folder, store.label, store), options)


def _bare(store, options):
    if options.encryption is not None:
        raise EncryptionError(store.label, "is a bare file", "Only saved models are decrypted.")
    with phase("fetch the weights"):
        try:
            found = fetch.probe(store, "")
            if found.length is None:
                raise StorageError(store.label, "the server does not say how long it is", "Check the server.")
            raw, sure = copies.in_memory(
                store, "", found.length, readers=options.readers, progress=options.progress
            )
        except Missing:
            raise NotAModel(store.label, "does not exist", "Check the address.") from None
        except Changed:
            raise StorageError(store.label, "was replaced while it was read", "Load it again.") from None
    records = storage.bare_index(store.label, raw)
    options = options._replace(verify=options.verify or not sure)
    return loading.from_bare_file(store.label, raw, records, options)
