"""The bytes of a .tensors file: tensorizer's format, encoded and decoded.

Knows nothing of torch and reads no weights. A file is a prologue (magic, version, counts and
an index), then one record a tensor (a header, then its data), then eight zero bytes. The
format is tensorizer's (``serialization.py`` of version 2.12.1); two liberties that it allows
are used:

- A header may be longer than its fields need, since a reader takes its length from its first
  eight bytes and the data's length from its last eight. So headers are padded until the data
  starts at a multiple of `ALIGNMENT`, and mapped tensors are aligned. The stock writer does
  not align; a misaligned complex128 view crashes the process.
- The index may have any length. The stock writer always reserves 256 KiB, which alone is
  0.1 % of a 269 MB model, and refuses a model whose index is longer.
"""

import functools
import hashlib
import struct
from collections.abc import Iterable
from math import prod
from typing import Any, NamedTuple

ALIGNMENT = 64
MAGIC = b"|TZR|"
END = bytes(8)
_ENCRYPTED = 3  # the version of an encrypted file of tensorizer; our own have a manifest, which says it
_FIXED = struct.Struct("<I32sQ8sQ")  # version, flags, bytes of data, unused (ours: fingerprint), tensors
MARK_AT = len(MAGIC) + 44  # where the fingerprint stands in a file
_NEWEST = 5  # data version, of tensorizer 2.12.1
_START = struct.Struct("<QHBH")  # header length, module number, kind, name length
_SHA256 = b"\x23\x00\x01\x01\x20"  # hash section of 35 bytes: one hash, type 1 (SHA-256), 32 bytes
_LOCATION = struct.Struct("<QQQ")  # header offset, data offset, data length
# An attribute is a tensor that a module holds without having registered it (see `is_hidden`).
KINDS = {"parameter": 0, "buffer": 1, "state_dict": 2, "attribute": 1}

# torch's name of a dtype: (tensorizer's name, bytes an element). Types that numpy lacks are
# stored as opaque bytes with torch's name behind a NUL.
DTYPES = {
    name: (code, int(code[2:]))
    for name, code in {
        "bool": "|b1", "uint8": "|u1", "int8": "|i1", "int16": "<i2", "int32": "<i4",
        "int64": "<i8", "uint16": "<u2", "uint32": "<u4", "uint64": "<u8", "float16": "<f2",
        "float32": "<f4", "float64": "<f8", "complex64": "<c8", "complex128": "<c16",
    }.items()
}  # fmt: skip
DTYPES |= {
    name: (f"{'|' if size == 1 else '<'}V{size}\0torch.{name}", size)
    for name, size in {
        "bfloat16": 2, "complex32": 4, "float8_e5m2": 1, "float8_e4m3fn": 1,
        "float8_e5m2fnuz": 1, "float8_e4m3fnuz": 1, "float8_e8m0fnu": 1,
    }.items()
}  # fmt: skip
_DTYPE_OF_CODE = {code: name for name, (code, _) in DTYPES.items()}


class Encrypted(ValueError):
    """The file was encrypted by stock tensorizer: how its data was, only tensorizer itself reads."""


class Entry(NamedTuple):
    """One tensor of a file: state-dict name, kind (see `KINDS`), torch dtype name, shape, data offset."""

    name: str
    kind: str
    dtype: str
    shape: tuple
    offset: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * DTYPES[self.dtype][1]


def is_hidden(entry: Entry) -> bool:
    """Whether a record stands behind the others and not in the index, for stock readers' sake.

    They would register an attribute as a buffer, and they fail on a whole file in which one
    tensor is empty and of a type that numpy lacks (tensorizer 2.12.1).
    """
    return entry.kind == "attribute" or (entry.nbytes == 0 and "\0" in DTYPES[entry.dtype][0])


def stored_name(name: str) -> str:
    """What a file calls a tensor: stock tensorizer writes "<module>.<tensor>", so one at the root begins with a dot."""
    return name if "." in name else f".{name}"


def _description(entry):
    return _described(entry.name, entry.dtype, entry.shape)


@functools.lru_cache(maxsize=1 << 14)  # a load needs each five times
def _described(name, dtype, shape):
    code = DTYPES[dtype][0].encode()
    packed = struct.pack(f"<B{len(shape)}I", len(shape), *shape)
    return stored_name(name).encode(), bytes([len(code)]) + code + packed


def _bare_header_length(entry):
    name, rest = _description(entry)
    return _START.size + len(name) + len(rest) + len(_SHA256) + 32 + 8


def index_lengths(entries: list[Entry]) -> list[int]:
    """How many bytes each entry takes in the index of a file."""
    return [len(_indexed(entry)) + _LOCATION.size for entry in entries]


def _indexed(entry):
    """An entry of the index, up to its location."""
    name, rest = _description(entry)
    return struct.pack("<H", len(name)) + name + bytes([KINDS[entry.kind]]) + rest


def arrange(entries: list[Entry]) -> list[Entry]:
    """Give every tensor its place, data offsets at multiples of `ALIGNMENT`.

    Parameters
    ----------
    entries : list of Entry
        What to store; their offsets are ignored.

    Returns
    -------
    list of Entry
        In file order (hidden ones last), with offsets.
    """
    ordered = sorted(entries, key=is_hidden)
    position, placed = len(prologue(ordered)), []
    for entry in ordered:
        offset = -(-(position + _bare_header_length(entry)) // ALIGNMENT) * ALIGNMENT
        placed.append(entry._replace(offset=offset))
        position = offset + entry.nbytes
    return placed


def starts(entries: list[Entry]) -> list[int]:
    """Where each record's header starts: right behind the record before it, in file order."""
    positions = [len(prologue(entries))] if entries else []
    return positions + [entry.offset + entry.nbytes for entry in entries[:-1]]


def file_length(entries: list[Entry]) -> int:
    """The exact length in bytes of the file that holds ``entries`` (arranged)."""
    end = entries[-1].offset + entries[-1].nbytes if entries else len(prologue(entries))
    return end + len(END)


def header(entry: Entry, start: int) -> tuple[bytearray, int]:
    """The header of one record, its hash still zero.

    Parameters
    ----------
    entry : Entry
        With its offset.
    start : int
        Where in the file the header goes.

    Returns
    -------
    raw : bytearray
        Padded so that it ends where the data begins.
    hash_at : int
        Where in ``raw`` the 32 bytes of the SHA-256 go.
    """
    name, rest = _description(entry)
    raw = bytearray(entry.offset - start)
    fields = _START.pack(len(raw), 0, KINDS[entry.kind], len(name)) + name + rest + _SHA256
    raw[: len(fields)] = fields
    raw[-8:] = struct.pack("<q", entry.nbytes)
    return raw, len(fields)


def is_header_of(head: bytes, entry: Entry) -> bool:
    """Whether a record's header says of its tensor what the index says: name, kind, type and shape.

    Parameters
    ----------
    head : bytes
        As from `stored_hash`.
    entry : Entry

    Returns
    -------
    bool
    """
    _, _, kind, length = _START.unpack_from(head)
    name, rest = _description(entry)
    found, end = head[_START.size : _START.size + length], _START.size + length
    is_named = found.removeprefix(b".") == name.removeprefix(b".")
    return is_named and kind == KINDS[entry.kind] and head[end : end + len(rest)] == rest


def future_version(raw: Any) -> int | None:
    """The data version that a .tensors file states, if it is newer than every version known here.

    Parameters
    ----------
    raw : buffer
        The file, or its beginning.

    Returns
    -------
    int or None

    Examples
    --------
    >>> future_version(MAGIC + (99).to_bytes(4, "little")), future_version(MAGIC + (1).to_bytes(4, "little"))
    (99, None)
    """
    version = int.from_bytes(raw[len(MAGIC) : len(MAGIC) + 4], "little")
    return version if version > _NEWEST else None


def fingerprint(digests: Iterable[bytes]) -> bytes:
    """Eight bytes that stand for the contents: the start of the SHA-256 over all tensor hashes.

    They are stored in a field of the prologue that tensorizer leaves unused, and in the
    manifest. Two models of one architecture differ in them, so a file that was swapped for
    another of the same shape is noticed without reading its data.
    """
    return hashlib.sha256(b"".join(digests)).digest()[:8]


def prologue(entries: list[Entry], mark: bytes = bytes(8)) -> bytes:
    """Everything before the first record: magic, version, counts, index.

    Parameters
    ----------
    entries : list of Entry
        In file order; hidden ones are left out of the index.
    mark : bytes
        The eight bytes of `fingerprint`.

    Returns
    -------
    bytes
    """
    entries = [entry for entry in entries if not is_hidden(entry)]
    described = [_indexed(entry) for entry in entries]
    index_length = sum(map(len, described)) + len(entries) * _LOCATION.size
    start, index = len(MAGIC) + _FIXED.size + 8 + index_length, []
    for entry, description in zip(entries, described, strict=True):
        index += [description, _LOCATION.pack(start, entry.offset, entry.nbytes)]
        start = entry.offset + entry.nbytes
    opaque = any("\0" in DTYPES[entry.dtype][0] for entry in entries)
    counts = _FIXED.pack(1 + opaque, b"", sum(e.nbytes for e in entries), mark, len(entries))
    return b"".join([MAGIC, counts, struct.pack("<Q", index_length), *index])


def read_index(raw: Any) -> list[tuple[Entry, int]]:
    """Decode the index of any unencrypted .tensors file, ours or stock tensorizer's.

    Parameters
    ----------
    raw : buffer
        The whole file, mapped; only its prologue is touched.

    Returns
    -------
    list of (Entry, int)
        Each tensor, with the offset of its record's header.

    Raises
    ------
    ValueError
        Says in words that this is not such a file, or that its index does not fit its length.
    Encrypted
        Stock tensorizer has encrypted it.
    """
    if raw[: len(MAGIC)] != MAGIC:
        raise ValueError("does not begin as a .tensors file does")
    try:
        return _read_index(raw)
    except (struct.error, IndexError, UnicodeDecodeError, KeyError) as error:
        raise ValueError("has an index that cannot be read") from error


def _read_index(raw):
    at = len(MAGIC)
    version, flags, _, _, count = _FIXED.unpack_from(raw, at)
    at += _FIXED.size
    if version > _NEWEST:
        raise ValueError(f"states data version {version}, which this package does not know")
    if version == _ENCRYPTED:
        raise Encrypted
    if version not in (1, 2) or any(flags):
        raise ValueError(f"uses data version {version} (meta or very long tensors)")
    (length,) = struct.unpack_from("<Q", raw, at)
    at, end, found = at + 8, at + 8 + length, []
    kinds = dict(zip(KINDS.values(), KINDS, strict=True)) | {1: "buffer"}
    for _ in range(count):
        size = struct.unpack_from("<H", raw, at)[0]
        name = bytes(raw[at + 2 : at + 2 + size]).decode().removeprefix(".")
        kind = kinds[raw[at + 2 + size]]
        at += 3 + size
        code = bytes(raw[at + 1 : at + 1 + raw[at]]).decode()
        at += 1 + raw[at]
        shape = struct.unpack_from(f"<{raw[at]}I", raw, at + 1)
        at += 1 + 4 * raw[at]
        start, offset, nbytes = _LOCATION.unpack_from(raw, at)
        at += _LOCATION.size
        if code not in _DTYPE_OF_CODE:
            raise ValueError(f"holds {name!r} of the unknown type {code!r}")
        entry = Entry(name, kind, _DTYPE_OF_CODE[code], shape, offset)
        if at > end or start < end or offset < start or nbytes != entry.nbytes:
            raise ValueError(f"has an index that contradicts itself at {name!r}")
        if offset + nbytes > len(raw):
            raise ValueError(f"is cut off: {name!r} ends at byte {offset + nbytes}, the file at {len(raw)}")
        found.append((entry, start))
    if raw[at:end].strip(b"\0"):  # the stock writer leaves zeros there
        raise ValueError("has an index of more tensors than it counts")
    return found


def stored_hash(raw: Any, start: int) -> tuple[bytes | None, bytes]:
    """The SHA-256 that a record states of itself, and its header with all hashes zeroed.

    Parameters
    ----------
    raw : buffer
        The whole file, mapped.
    start : int
        The offset of the record's header.

    Returns
    -------
    digest : bytes or None
        None if the record holds no SHA-256.
    header : bytes
        What the hash was computed over, before the data.

    Raises
    ------
    ValueError
        The header cannot be read.
    """
    try:
        return _stored_hash(raw, start)
    except (struct.error, IndexError) as error:
        raise ValueError("has a record whose header cannot be read") from error


def _stored_hash(raw, start):
    length, _, _, name_length = _START.unpack_from(raw, start)
    head = bytearray(raw[start : start + length])
    at = _START.size + name_length
    at += 1 + head[at]
    at += 1 + 4 * head[at]
    count, at, digest = head[at + 2], at + 3, None
    for _ in range(count):
        kind, size = head[at], head[at + 1]
        if kind == 1:
            digest = bytes(head[at + 2 : at + 2 + size])
        head[at + 2 : at + 2 + size] = bytes(size)
        at += 2 + size
    return digest, bytes(head)
