"""model.json: what a saved model is, written last, so that a directory that has one is whole.

The manifest is untrusted input. `parse` checks it before anything is allocated, mapped or imported
on its word; only the structure of torch modules is left to `helpers.modules.problems`.
"""

import dataclasses
import json
import os
import re
from math import prod
from pathlib import Path, PurePosixPath

from helpers.errors import CorruptFile, UnsupportedModel
from helpers.format import layout

NAME = "model.json"
TENSORS = "model.tensors"
VERSION = 1
LIMIT = 64 << 20  # bytes: a manifest of 100,000 tensors has about 10 MB
_NOT_IN_JSON = ("hashes", "starts")  # a tensor's hash stands in its row; starts follow from the entries


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What `model.json` holds; or, without one, what the index of a bare file says.

    Attributes
    ----------
    folder : str
        Where all other files are, relative to the manifest: "", or in a store a folder of their own.
    family : str
        Which file of `helpers.families` rebuilds the model; "" for a bare file.
    class_name : str
        For the reader, and for families that look the class up in their own library.
    entries : list of helpers.format.layout.Entry
        The tensors in file order. This index lets a CPU load map the file without a parser. Where
        the file is encrypted their offsets are 0.
    hashes : list of str
        For each entry the SHA-256 of its record, the same as in model.tensors; "" where encrypted, and of a
        bare file.
    encryption : str
        "" for none; "key" or "passphrase" says what opens model.tensors.
    length : int
        Exact length of model.tensors in bytes.
    fingerprint : str
        16 hexadecimal digits, the same as in model.tensors (see `helpers.format.layout.fingerprint`);
        random where encrypted, "" for a bare file.
    structure : dict
        What a state dict does not say: ties, frozen parameters, modes (see `helpers.modules.structure`).
    settings : dict
        What the family alone understands.
    files : dict of str to str
        SHA-256 of every other file of the model, by relative path; of an encrypted model.tensors too.
    versions : dict of str to str
        The libraries that wrote it.
    starts : list of int, optional
        Where the headers of a bare file's records are; in a file of ours that follows from the entries.
    """

    folder: str
    family: str
    class_name: str
    entries: list
    hashes: list
    encryption: str
    length: int
    fingerprint: str
    structure: dict
    settings: dict
    files: dict
    versions: dict
    starts: list | None = None

    def to_json(self) -> bytes:
        """The manifest as JSON: one line a tensor, readable in a diff.

        Raises
        ------
        UnsupportedModel
            It would be larger than `parse` reads.
        """
        values = {"format": VERSION} | dataclasses.asdict(self)
        fields = {
            name: json.dumps(value, indent=1).replace("\n", "\n ")
            for name, value in values.items()
            if name not in (*_NOT_IN_JSON, "entries")
        }
        rows = [json.dumps([*row, digest]) for row, digest in zip(self.entries, self.hashes, strict=True)]
        fields["entries"] = "[\n  " + ",\n  ".join(rows) + "\n ]"  # last, since it is the longest
        text = "{\n" + ",\n".join(f' "{name}": {value}' for name, value in fields.items()) + "\n}\n"
        if len(text) > LIMIT:
            raise UnsupportedModel(
                NAME,
                f"would be larger than {LIMIT:,} bytes, because of {len(rows):,} tensors and their names",
                "Save the parts of the model one by one.",
            )
        return text.encode()

    @property
    def records(self) -> list[tuple[layout.Entry, int]]:
        """Each tensor with the offset of its record's header."""
        starts = layout.starts(self.entries) if self.starts is None else self.starts
        return list(zip(self.entries, starts, strict=True))

    @property
    def stated(self) -> dict[str, str]:
        """The SHA-256 of each tensor's record, by the tensor's name; "" where the manifest has none."""
        return {entry.name: digest for entry, digest in zip(self.entries, self.hashes, strict=True)}

    @property
    def children(self) -> list[str]:
        """Relative paths of the models inside this one, those of a model inside it not counted."""
        found = [str(path.parent) for path in map(PurePosixPath, self.files) if path.name == NAME]
        return [name for name in found if not any(name.startswith(f"{other}/") for other in found)]

    @property
    def weights(self) -> list[str]:
        """Relative paths of all files of weights: this model's, and those of all models inside it."""
        inside = [
            str(path.with_name(TENSORS)) for path in map(PurePosixPath, self.files) if path.name == NAME
        ]
        return [TENSORS, *inside]


def of_bare_file(records: list[tuple[layout.Entry, int]], length: int) -> Manifest:
    """What can be said of a ``.tensors`` file that has no manifest beside it."""
    entries, starts = [entry for entry, _ in records], [start for _, start in records]
    return Manifest("", "", "", entries, [""] * len(entries), "", length, "", {}, {}, {}, {}, starts)


def read(directory: str | os.PathLike) -> Manifest:
    """The manifest in a directory; errors as `parse`, and an ``OSError`` if there is none."""
    path = Path(directory) / NAME
    return parse(path.read_bytes(), path)


def parse(raw: bytes, path: str | os.PathLike) -> Manifest:
    """Check the bytes of a manifest.

    Parameters
    ----------
    raw : bytes
    path : str or path-like
        Named in errors.

    Returns
    -------
    Manifest

    Raises
    ------
    CorruptFile
        Not JSON, of a future version, or a field that cannot be true.
    """
    try:
        _need(len(raw) <= LIMIT, f"is larger than {LIMIT:,} bytes")
        return _checked(json.loads(raw))
    except _Invalid as invalid:
        raise CorruptFile(path, str(invalid), invalid.remedy) from None
    except (ValueError, RecursionError) as error:  # half a surrogate pair in a name is a ValueError too
        raise CorruptFile(path, f"is not JSON that can be read ({error})", _Invalid.remedy) from error


class _Invalid(Exception):
    remedy = "Save the model again."


def _need(condition: object, problem: str) -> None:
    if not condition:
        raise _Invalid(problem)


def _checked(fields):
    _need(isinstance(fields, dict) and "format" in fields, "is not a manifest")
    if (version := fields.pop("format")) != VERSION:
        invalid = _Invalid(f"is of format {version!r}, this package reads format {VERSION}")
        invalid.remedy = "Update the helpers package, or save the model again with this one."
        raise invalid
    types = {field.name: field.type for field in dataclasses.fields(Manifest)}
    types = {name: kind for name, kind in types.items() if name not in _NOT_IN_JSON}
    _need(set(fields) == set(types), "lacks fields or has unknown ones")
    for name, kind in types.items():
        _need(type(fields[name]) is kind, f"has a wrong {name!r}")
    _need(re.fullmatch("[0-9a-f]{16}", fields["fingerprint"]), "has a wrong 'fingerprint'")
    _need(_is_inside(fields["folder"]), "names a folder outside itself")
    _need(fields["encryption"] in ("", "key", "passphrase"), "has a wrong 'encryption'")
    for name, digest in fields["files"].items():
        _need(PurePosixPath(name) != PurePosixPath(NAME), "lists itself among its files")
        _need(_is_inside(name), f"names a file outside itself: {name!r}")
        _need(_is_hash(digest), f"has a wrong hash for {name!r}")
    fields["hashes"] = [row.pop() if isinstance(row, list) and row else None for row in fields["entries"]]
    fields["entries"] = [_entry(row) for row in fields["entries"]]
    _need(len({entry.name for entry in fields["entries"]}) == len(fields["entries"]), "lists a tensor twice")
    record = Manifest(**fields)
    if record.encryption:
        _check_encrypted(record)
    else:
        _check_plain(record)
    return record


def _is_inside(name):
    pure = PurePosixPath(name)
    return not pure.is_absolute() and ".." not in pure.parts and "\0" not in name


def _is_hash(digest):
    return isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)


def _entry(row):
    _need(isinstance(row, list) and len(row) == 5, "has a malformed tensor entry")
    name, kind, dtype, shape, offset = row
    _need(isinstance(name, str) and 0 < len(name.encode()) < 1 << 16, "has a tensor without a name")
    _need(isinstance(kind, str) and kind in layout.KINDS, f"gives {name!r} an unknown kind")
    known = isinstance(dtype, str) and dtype in layout.DTYPES
    _need(known, f"gives {name!r} an unknown type {dtype!r}")
    good = isinstance(shape, list) and len(shape) < 256
    good = good and all(type(n) is int and 0 <= n < 1 << 32 for n in shape)
    _need(good, f"gives {name!r} an impossible shape")
    _need(type(offset) is int and 0 <= offset < 1 << 63, f"gives {name!r} an impossible offset")
    _need(prod(shape) * layout.DTYPES[dtype][1] < 1 << 63, f"makes {name!r} absurdly large")
    return layout.Entry(name, kind, dtype, tuple(shape), offset)


def _check_encrypted(record):
    """Check what is known of an encrypted file: offsets and hashes of tensors are in the file alone."""
    told = any(record.hashes) or any(entry.offset for entry in record.entries)
    _need(not told, "tells too much of what is encrypted")
    _need(TENSORS in record.files, "lacks the hash of its encrypted file")
    needed = sum(entry.nbytes for entry in record.entries)
    _need(needed < record.length, "states a length that is too short")


def _check_plain(record):
    """Check that every tensor lies where the writer puts it, and that the hashes are those of the file."""
    placed = layout.arrange(record.entries)
    for entry, right in zip(record.entries, placed, strict=True):
        _need(entry == right, f"puts {entry.name!r} outside its place (overlap, gap or beyond the file)")
    _need(record.length == layout.file_length(placed), "states a length that its tensors do not add up to")
    _need(all(map(_is_hash, record.hashes)), "has a malformed hash")
    mark = layout.fingerprint(map(bytes.fromhex, record.hashes)).hex()
    _need(mark == record.fingerprint, "has hashes that do not belong to its fingerprint")
