"""model.json: what a saved model is, written last, so that a directory that has one is whole.

The manifest is untrusted input. `read` checks every field before anything is allocated,
mapped or imported on its word.
"""

import dataclasses
import json
import re
from math import prod
from pathlib import Path, PurePosixPath

from helpers import layout
from helpers.errors import CorruptFile, NotAModel, storage

NAME = "model.json"
TENSORS = "model.tensors"
VERSION = 1
_LIMIT = 64 << 20  # bytes: a manifest of 100,000 tensors has about 10 MB


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What `model.json` holds.

    Attributes
    ----------
    family : str
        Which file of `helpers.families` rebuilds the model.
    class_name : str
        For the reader, and for families that look the class up in their own library.
    entries : list of helpers.layout.Entry
        The tensors in file order. This index lets a CPU load map the file without a parser.
    length : int
        Exact length of model.tensors in bytes.
    fingerprint : str
        16 hexadecimal digits, the same as in model.tensors (see `helpers.layout.fingerprint`).
    structure : dict
        What a state dict does not say: ties, frozen parameters, modes (see `helpers.structure`).
    settings : dict
        What the family alone understands.
    files : dict of str to str
        SHA-256 of every other file of the model, by relative path.
    versions : dict of str to str
        The libraries that wrote it.
    """

    family: str
    class_name: str
    entries: list
    length: int
    fingerprint: str
    structure: dict
    settings: dict
    files: dict
    versions: dict

    def to_json(self):
        """The manifest as text: one line a tensor, readable in a diff."""
        fields = {"format": VERSION} | dataclasses.asdict(self)
        fields["entries"] = 0
        rows = ",\n  ".join(json.dumps(entry) for entry in self.entries)
        text = json.dumps(fields, indent=1)
        return text.replace('"entries": 0', f'"entries": [\n  {rows}\n ]', 1) + "\n"


def read(directory):
    """Read and check the manifest of a saved model.

    Parameters
    ----------
    directory : path-like

    Returns
    -------
    Manifest

    Raises
    ------
    NotAModel
        No such directory, or no manifest in it.
    CorruptFile
        Not JSON, of a future version, or a field that cannot be true.
    """
    path = Path(directory) / NAME
    with storage(path, "reading the manifest"):
        if not path.is_file():
            _explain_absence(Path(directory))
        with open(path, "rb") as file:
            raw = file.read(_LIMIT + 1)
    try:
        fields = json.loads(raw) if len(raw) <= _LIMIT else None
    except (ValueError, RecursionError) as error:
        raise CorruptFile(path, f"is not JSON ({error})", "Save the model again.") from error
    try:
        return _checked(fields)
    except _Invalid as invalid:
        raise CorruptFile(path, str(invalid), invalid.remedy) from None
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
        raise CorruptFile(path, f"holds a name that is not text ({error})", _Invalid.remedy) from None


def _explain_absence(directory):
    if not directory.exists():
        raise NotAModel(directory, "does not exist", "Check the path, or save a model there first.")
    if (directory / "config.json").exists():
        hint = "It looks like a Hugging Face directory: load it with from_pretrained and serialise() it."
    else:
        hint = f"Save one with serialise(model, {str(directory)!r})."
    raise NotAModel(directory, f"holds no saved model (no {NAME})", hint)


class _Invalid(Exception):
    remedy = "Save the model again."


def _need(condition, problem):
    if not condition:
        raise _Invalid(problem)


def _checked(fields):
    _need(isinstance(fields, dict) and "format" in fields, "is not a manifest")
    if fields["format"] != VERSION:
        invalid = _Invalid(f"is of format {fields['format']!r}, this package reads format {VERSION}")
        invalid.remedy = "Update the helpers package, or save the model again with this one."
        raise invalid
    types = {field.name: field.type for field in dataclasses.fields(Manifest)}
    _need(set(fields) == {"format", *types}, "lacks fields or has unknown ones")
    for name, kind in types.items():
        _need(type(fields[name]) is kind, f"has a wrong {name!r}")
    _need(re.fullmatch("[0-9a-f]{16}", fields["fingerprint"]), "has a wrong 'fingerprint'")
    for name, digest in fields["files"].items():
        pure = PurePosixPath(name)
        _need(not pure.is_absolute() and ".." not in pure.parts, f"names a file outside itself: {name!r}")
        _need(isinstance(digest, str), f"has a wrong hash for {name!r}")
    entries = [_entry(row) for row in fields["entries"]]
    _check_places(entries, fields["length"])
    del fields["format"]
    return Manifest(**fields | {"entries": entries})


def _entry(row):
    _need(isinstance(row, list) and len(row) == 5, "has a malformed tensor entry")
    name, kind, dtype, shape, offset = row
    _need(isinstance(name, str) and 0 < len(name.encode()) < 1 << 16, "has a tensor without a name")
    _need(kind in layout.KINDS, f"gives {name!r} an unknown kind")
    _need(dtype in layout.DTYPES, f"gives {name!r} an unknown type {dtype!r}")
    good = isinstance(shape, list) and len(shape) < 256
    good = good and all(type(n) is int and 0 <= n < 1 << 32 for n in shape)
    _need(good, f"gives {name!r} an impossible shape")
    _need(type(offset) is int and 0 <= offset < 1 << 63, f"gives {name!r} an impossible offset")
    return layout.Entry(name, kind, dtype, tuple(shape), offset)


def _check_places(entries, length):
    """Every tensor lies inside the file, behind the one before it, where the writer puts it."""
    _need(len({entry.name for entry in entries}) == len(entries), "lists a tensor twice")
    for entry in entries:
        _need(
            prod(entry.shape) * layout.DTYPES[entry.dtype][1] < 1 << 63,
            f"makes {entry.name!r} absurdly large",
        )
    placed = layout.arrange(entries)
    for entry, right in zip(entries, placed, strict=True):
        _need(entry == right, f"puts {entry.name!r} outside its place (overlap, gap or beyond the file)")
    _need(length == layout.file_length(placed), "states a length that its tensors do not add up to")
