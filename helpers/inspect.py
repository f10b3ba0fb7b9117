"""Look at a saved model without loading it: its tensors, their sizes and hashes."""

import dataclasses
import os
from typing import NamedTuple

from helpers import families
from helpers.errors import CorruptFile
from helpers.format import layout
from helpers.options import Options
from helpers.saved.opened import Opened
from helpers.saved.sources import consistently, open_source

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
    needs_skeleton : bool
        Whether `deserialise` needs ``skeleton=``: the code of the class is not stored.
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
    needs_skeleton: bool
    encryption: str
    bytes: int
    tensors: list
    files: list
    versions: dict

    def __repr__(self) -> str:
        what = ", ".join(filter(None, (self.class_name, self.encryption and "encrypted")))
        head = f"{self.source}: {what or 'a bare file'}, {len(self.tensors)} tensors, {self.bytes:,} bytes"
        head += ", load it with skeleton=" if self.needs_skeleton else ""
        shown = self.tensors[:_SHOWN]
        width = max((len(tensor.name) for tensor in shown), default=0)
        rows = [
            f"  {t.name:<{width}}  {t.dtype:<8}  {list(t.shape)!s:<16} {t.bytes:>13,}  {(t.sha256 or '-')[:12]}"
            for t in shown
        ]
        more = len(self.tensors) - len(shown)
        return "\n".join([head, *rows, *([f"  … and {more} more"] if more else [])])


def inspect(source: str | os.PathLike) -> Inspection:
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
    NotAModel
        Nothing there, or no saved model.
    CorruptFile
        A manifest, or the index of a bare file, cannot be true.
    UnsupportedModel
        It is in S3, and boto3 is not installed.
    StorageError
        The storage refuses.

    Examples
    --------
    >>> import tempfile, torch
    >>> from helpers import serialise
    >>> path = tempfile.mkdtemp() + "/linear"
    >>> _ = serialise(torch.nn.Linear(3, 2), path)
    >>> inspect(path).tensors[0].shape
    (2, 3)
    """
    return consistently(open_source(source, Options(), manifests_only=True), _describe)


def _describe(opened: Opened) -> Inspection:
    top, parts = opened.record, list(opened.walk())
    return Inspection(
        source=opened.label,
        family=top.family,
        class_name=top.class_name,
        needs_skeleton=families.needs_skeleton(top.family, top.settings),
        encryption=top.encryption,
        bytes=sum(part.record.length for _, part in parts),
        tensors=[
            Tensor(f"{name}/{e.name}".lstrip("/"), e.kind, e.dtype, e.shape, e.nbytes, digest)
            for name, part in parts
            for (e, _), digest in zip(part.record.records, _hashes(part), strict=True)
        ],
        files=[name for name in top.files if name not in top.weights],
        versions=top.versions,
    )


def _hashes(opened: Opened) -> list[str | None]:
    """The hash of each tensor, from the manifest; of a bare file from the headers of its records."""
    if opened.record.family:
        return [digest or None for digest in opened.record.hashes]
    try:
        found = [layout.stored_hash(opened.raw, start) for _, start in opened.record.records]
    except ValueError as error:
        raise CorruptFile(opened.label, str(error), "Fetch or save the file again.") from error
    return [digest.hex() if digest else None for digest, _ in found]
