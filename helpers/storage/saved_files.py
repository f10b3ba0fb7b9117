"""The files of a saved model in a store, as its manifests name them."""

import hashlib
import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from helpers.errors import CorruptFile
from helpers.format import manifest
from helpers.format.manifest import Manifest
from helpers.storage import fetch
from helpers.storage.http import Store


def small_files(store: Store, record: Manifest, manifests_only: bool = False) -> dict[str, bytes]:
    """All files of a model but its own manifest and the weights, hashes checked.

    Parameters
    ----------
    store : helpers.storage.http.Store
    record : helpers.format.manifest.Manifest
    manifests_only : bool
        Of the other files the manifests of the models inside alone.

    Returns
    -------
    dict of str to bytes
        By path below the store's prefix.

    Raises
    ------
    Missing, Changed, ModelError
    """
    inside = store.under(record.folder)

    def bring(name: str) -> bytes:
        content = fetch.small(inside, name)
        if hashlib.sha256(content).hexdigest() != record.files[name]:
            raise CorruptFile(inside.name(name), "is not what was saved", "Upload the model again.")
        return content

    names = [name for name in record.files if name not in record.weights]
    if manifests_only:
        names = [name for name in names if posixpath.basename(name) == manifest.NAME]
    with ThreadPoolExecutor(fetch.READERS) as pool:
        contents = list(pool.map(bring, names))
    paths = [posixpath.join(record.folder, name) for name in names]
    return dict(zip(paths, contents, strict=True))


def weights(
    record: Manifest, files: dict[str, bytes], label: str, folder: str = ""
) -> Iterator[tuple[str, Manifest]]:
    """The files of weights of a model and of those inside it.

    Parameters
    ----------
    record : helpers.format.manifest.Manifest
    files : dict of str to bytes
        From `small_files`.
    label : str
        Of the store, for errors.
    folder : str
        Where the model's manifest is, below the store's prefix.

    Yields
    ------
    path : str
        Below the store's prefix.
    record : helpers.format.manifest.Manifest
        That states its length and hashes.

    Raises
    ------
    CorruptFile
        The manifest of a model inside cannot be true.
    """
    home = posixpath.join(folder, record.folder)
    yield posixpath.join(home, manifest.TENSORS), record
    for name in record.children:
        below = posixpath.join(home, name)
        path = posixpath.join(below, manifest.NAME)
        yield from weights(manifest.parse(files[path], f"{label}/{path}"), files, label, below)
