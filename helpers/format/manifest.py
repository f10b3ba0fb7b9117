"""model.json: what a saved model is, written last, so that a directory that has one is whole.

The manifest is untrusted input. `read` checks every field before anything is allocated,
mapped or imported on its word.
"""

import dataclasses
import json
import re
from math import prod
from pathlib import Path, PurePosixPath

from helpers.errors import CorruptFile, NotAModel, storage
from helpers.format import layout

NAME = "model.json"
TENSORS = "model.tensors"
VERSION = 1
LIMIT = 64 << 20  # bytes: a manifest of 100,000 tensors has about 10 MB


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What `model.json` holds.

    Attributes
    ----------
    folder : str
        Where all other files are, relative to the manifest: "", or in a store a folder of their own.
    family : str
        Which file of `helpers.families` rebuilds the model.
    class_name : str
        For the reader, and for families that look the class up in their own library.
    entries : list of helpers.format.layout.Entry
        The tensors in file order. This index lets a CPU load map the file without a parser. Where
        the file is encrypted their offsets are 0.
    hashes : list of str
        For each entry the SHA-256 of its record, the same as in model.tensors; "" where encrypted.
    encryption : str
        "" for none; "key" or "passphrase" says what opens model.tensors.
    length : int
        Exact length of model.tensors in bytes.
    fingerprint : str
        16 hexadecimal digits, the same as in model.tensors (see `helpers.format.layout.fingerprint`);
        random where encrypted.
    structure : dict
        What a state dict does not say: ties, frozen parameters, modes (see `helpers.modules.structure`).
    settings : dict
        What the family alone understands.
    files : dict of str to str
        SHA-256 of every other file of the model, by relative path; of an encrypted model.tensors too.
    versions : dict of str to str
        The libraries that wrote it.
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

    def to_json(self):
        """The manifest as text: one line a tensor, readable in a diff."""
        fields = {"format": VERSION} | dataclasses.asdict(self)
        fields["entries"] = 0
        del fields["hashes"]
        rows = ",\n  ".join(json.dumps([*row]) for row in self._rows())
        text = json.dumps(fields, indent=1)
        return text.replace('"entries": 0', f'"entries": [\n  {rows}\n ]', 1) + "\n"

    def _rows(self):
        return [(*entry, digest) for entry, digest in zip(self.entries, self.hashes, strict=True)]

    @property
    def weights(self):
        """Relative paths of all files of weights: this model's, and those of the models inside it."""
        inside = [str(PurePosixPath(name).with_name(TENSORS)) for name in self.files if _is_manifest(name)]
        return [TENSORS, *inside]

    @property
    def children(self):
        """Relative paths of the models directly or deeper inside this one."""
        return [str(PurePosixPath(name).parent) for name in self.files if _is_manifest(name)]


def _is_manifest(name):
    return PurePosixPath(name).name == NAME


def moved(text, folder):
    """The text of a manifest, for files that lie in ``folder`` below it."""
    assert text.count('"folder": ""', 0, 100) == 1
    return text.replace('"folder": ""', f'"folder": "{folder}"', 1)


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
            raw = file.read(LIMIT + 1)
    return parse(raw, path)


def parse(raw, path):
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
        As `read`.
    """
    try:
        fields = json.loads(raw) if len(raw) <= LIMIT else None
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
    types = {field.name: field.type for field in dataclasses.fields(Manifest) if field.name != "hashes"}
    _need(set(fields) == {"format", *types}, "lacks fields or has unknown ones")
    for name, kind in types.items():
        _need(type(fields[name]) is kind, f"has a wrong {name!r}")
    _need(re.fullmatch("[0-9a-f]{16}", fields["fingerprint"]), "has a wrong 'fingerprint'")
    for name, digest in fields["files"].items():
        _need(PurePosixPath(name) != PurePosixPath(NAME), "lists itself among its files")
        _need(_is_inside(name), f"names a file outside itself: {name!r}")
        _need(
            isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest), f"has a wrong hash for {name!r}"
        )
    _need(_is_inside(fields["folder"]), "names a folder outside itself")
    _need(fields["encryption"] in ("", "key", "passphrase"), "has a wrong 'encryption'")
    entries = [_entry(row) for row in fields["entries"]]
    hashes = [row[5] for row in fields["entries"]]
    if fields["encryption"]:
        _check_encrypted(entries, hashes, fields)
    else:
        _check_places(entries, fields["length"])
        _check_hashes(hashes, fields["fingerprint"])
    del fields["format"]
    return Manifest(**fields | {"entries": entries, "hashes": hashes})


def _is_inside(name):
    pure = PurePosixPath(name)
    return not pure.is_absolute() and ".." not in pure.parts and "\0" not in name


def _entry(row):
    _need(isinstance(row, list) and len(row) == 6, "has a malformed tensor entry")
    name, kind, dtype, shape, offset, digest = row
    _need(isinstance(digest, str), f"gives {name!r} no hash")
    _need(isinstance(name, str) and 0 < len(name.encode()) < 1 << 16, "has a tensor without a name")
    _need(kind in layout.KINDS, f"gives {name!r} an unknown kind")
    _need(dtype in layout.DTYPES, f"gives {name!r} an unknown type {dtype!r}")
    good = isinstance(shape, list) and len(shape) < 256
    good = good and all(type(n) is int and 0 <= n < 1 << 32 for n in shape)
    _need(good, f"gives {name!r} an impossible shape")
    _need(type(offset) is int and 0 <= offset < 1 << 63, f"gives {name!r} an impossible offset")
    return layout.Entry(name, kind, dtype, tuple(shape), offset)


def _check_sizes(entries):
    _need(len({entry.name for entry in entries}) == len(entries), "lists a tensor twice")
    for entry in entries:
        _need(
            prod(entry.shape) * layout.DTYPES[entry.dtype][1] < 1 << 63,
            f"makes {entry.name!r} absurdly large",
        )


def _check_encrypted(entries, hashes, fields):
    """The places are in the file alone; its own hash is among those of the other files."""
    _check_sizes(entries)
    _need(
        not any(hashes) and not any(entry.offset for entry in entries), "tells too much of what is encrypted"
    )
    _need(TENSORS in fields["files"], "lacks the hash of its encrypted file")
    _need(sum(entry.nbytes for entry in entries) < fields["length"], "states a length that is too short")


def _check_hashes(hashes, fingerprint):
    _need(all(re.fullmatch("[0-9a-f]{64}", digest) for digest in hashes), "has a malformed hash")
    mark = layout.fingerprint(map(bytes.fromhex, hashes)).hex()
    _need(mark == fingerprint, "has hashes that do not belong to its fingerprint")


def _check_places(entries, length):
    """Every tensor lies inside the file, behind the one before it, where the writer puts it."""
    _check_sizes(entries)
    placed = layout.arrange(entries)
    for entry, right in zip(entries, placed, strict=True):
        _need(entry == right, f"puts {entry.name!r} outside its place (overlap, gap or beyond the file)")
    _need(length == layout.file_length(placed), "states a length that its tensors do not add up to")
