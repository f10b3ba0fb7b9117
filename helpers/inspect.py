"""Look at a saved model without loading it: its tensors, their sizes and hashes."""

import dataclasses
from typing import NamedTuple

from helpers.format import layout, manifest
from helpers.saved import directory as storage
from helpers.storage import is_remote

_SHOWN = 12  # tensors in a repr


class Tensor(NamedTuple):
    """One tensor of a saved model; ``sha256`` is None where the file is encrypted or states none."""

    name: str
    kind: str
    dtype: str
    shape: tuple
    bytes: int
    sha256: str | None


@dataclasses.dataclass(frozen=True, repr=False)
class Inspection:
    """What `inspect` found. ``pandas.DataFrame(inspection.tensors)`` makes a table of it.

    Attributes
    ----------
    source : str
        Without user, password and query, where it is an address.
    family : str
        Which kind of model it is; "" for a bare file.
    class_name : str
    encryption : str
        "" for none; "key" or "passphrase" says what opens it.
    bytes : int
        Of the files of weights.
    tensors : list of Tensor
        Of models inside the model too, their names behind the model's.
    files : list of str
        All other files.
    versions : dict of str to str
        The libraries that wrote it.
    """

    source: str
    family: str
    class_name: str
    encryption: str
    bytes: int
    tensors: list
    files: list
    versions: dict

    def __repr__(self):
        what = ", ".join(filter(None, (self.class_name, self.encryption and "encrypted")))
        head = f"{self.source}: {what or 'a bare file'}, {len(self.tensors)} tensors, {self.bytes:,} bytes"
        shown = self.tensors[:_SHOWN]
        width = max((len(tensor.name) for tensor in shown), default=0)
        rows = [
            f"  {t.name:<{width}}  {t.dtype:<8}  {list(t.shape)!s:<16} {t.bytes:>13,}  {(t.sha256 or '-')[:12]}"
            for t in shown
        ]
        more = len(self.tensors) - len(shown)
        return "\n".join([head, *rows, *([f"  … and {more} more"] if more else [])])


def inspect(source):
    """What a saved model holds, from its manifest alone: no weights are read.

    Parameters
    ----------
    source : str or path-like
        As for `deserialise`; a bare ``.tensors`` file only if it is local.

    Returns
    -------
    Inspection

    Raises
    ------
    NotAModel, CorruptFile, StorageError
        As `deserialise`.

    Examples
    --------
    >>> import tempfile, torch
    >>> from helpers import serialise
    >>> path = tempfile.mkdtemp() + "/linear"
    >>> _ = serialise(torch.nn.Linear(3, 2), path)
    >>> inspect(path).tensors[0].shape
    (2, 3)
    """
    if is_remote(source):
        from helpers.saved import copies
        from helpers.storage.http import open_store

        store = open_store(source)
        return copies.consistently(store, lambda text: _remote(store, text))
    path = storage.locate(source)[0]
    if path.is_file():
        return _bare(path, source)
    top = manifest.read(path)
    parts = [("", top)] + [(name, manifest.read(path / top.folder / name)) for name in top.children]
    return _inspection(str(source), parts)


def _remote(store, text):
    from helpers.storage import fetch

    top = manifest.parse(text, store.name(manifest.NAME))
    inside = store.under(top.folder)
    parts = [("", top)]
    for name in top.children:
        key = f"{name}/{manifest.NAME}"
        parts.append((name, manifest.parse(fetch.small(inside, key, manifest.LIMIT), inside.name(key))))
    return _inspection(store.label, parts)


def _inspection(label, parts):
    top = parts[0][1]
    return Inspection(
        source=label,
        family=top.family,
        class_name=top.class_name,
        encryption=top.encryption,
        bytes=sum(record.length for _, record in parts),
        tensors=[
            Tensor(f"{name}/{e.name}" if name else e.name, e.kind, e.dtype, e.shape, e.nbytes, digest or None)
            for name, record in parts
            for e, digest in zip(record.entries, record.hashes, strict=True)
        ],
        files=[name for name in top.files if name not in top.weights],
        versions=top.versions,
    )


def _bare(path, source):
    raw, records = storage.open_bare(path)
    found = []
    for entry, start in records:
        digest, _ = layout.stored_hash(raw, start)
        found.append(Tensor(*entry[:4], entry.nbytes, digest.hex() if digest else None))
    return Inspection(str(source), "", "", "", len(raw), found, [], {})
