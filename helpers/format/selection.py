"""A part of a model: which tensors are loaded, and what is said of the others."""

from collections.abc import Callable
from typing import NamedTuple

from helpers.format import layout
from helpers.format.manifest import Manifest


class Part(NamedTuple):
    """What is loaded.

    Attributes
    ----------
    records : list of (helpers.format.layout.Entry, int)
        Each tensor with the offset of its header.
    structure : dict
        Without the tensors that are left out; these are in its further key ``"omitted"``.
    whole : bool
        Nothing is left out.
    """

    records: list[tuple[layout.Entry, int]]
    structure: dict
    whole: bool

    @property
    def entries(self) -> list[layout.Entry]:
        """The tensors."""
        return [entry for entry, _ in self.records]

    @property
    def spans(self) -> list[tuple[int, int]] | None:
        """The bytes of the file that hold the records, neighbours put together; None for all."""
        if self.whole:
            return None
        joined: list[tuple[int, int]] = []
        for entry, start in self.records:
            if joined and joined[-1][1] == start:
                start, _ = joined.pop()
            joined.append((start, entry.offset + entry.nbytes))
        return joined


def select(record: Manifest, only: Callable | None) -> Part:
    """The tensors that a predicate asks for, and the structure without the others.

    Parameters
    ----------
    record : helpers.format.manifest.Manifest
    only : callable or None
        Called with each name; a tied tensor is chosen if any of its names is. None: all.

    Returns
    -------
    Part

    Examples
    --------
    >>> record = Manifest("", "", "", [], [], "", 0, "", {}, {}, {}, {})
    >>> select(record, None).whole
    True
    """
    if only is None:
        return Part(record.records, record.structure, True)
    groups = _names(record)
    chosen = {first for first, names in groups.items() if any(map(only, names))}
    omitted = {name for first, names in groups.items() if first not in chosen for name in names}
    structure = {key: _without(held, omitted) for key, held in record.structure.items()}
    records = [(entry, start) for entry, start in record.records if entry.name in chosen]
    return Part(records, structure | {"omitted": omitted}, False)


def _names(record):
    """All names of each stored tensor: its own, ties, and what shares its memory."""
    base = {**record.structure["shared"], **record.structure["aliases"]}
    names = {entry.name: [entry.name] for entry in record.entries}
    for name in base:
        first = name
        while first in base:
            first = base[first]
        names[first].append(name)
    return names


def _without(held, omitted):
    if isinstance(held, list):
        return [name for name in held if name not in omitted]
    if isinstance(held, dict):
        return {name: value for name, value in held.items() if name not in omitted}
    return held
