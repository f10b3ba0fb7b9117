"""A part of a model: which tensors are loaded, and what is said of the others."""

from typing import NamedTuple

from helpers.errors import SkeletonMismatch
from helpers.format import layout


class Chosen(NamedTuple):
    """What is loaded.

    Attributes
    ----------
    records : list of (helpers.format.layout.Entry, int)
        Each tensor with the offset of its header.
    structure : dict
        Without the tensors that are left out; these are in its further key ``"omitted"``.
    """

    records: list
    structure: dict

    @property
    def entries(self):
        return [entry for entry, _ in self.records]

    @property
    def spans(self):
        """The bytes of the file that hold the records, neighbours put together."""
        joined = []
        for entry, start in self.records:
            stop = entry.offset + entry.nbytes
            if joined and joined[-1][1] == start:
                start = joined.pop()[0]
            joined.append((start, stop))
        return joined


def select(record, only, source):
    """The tensors that a predicate asks for, and the structure without the others.

    Parameters
    ----------
    record : helpers.format.manifest.Manifest
    only : callable or None
        Called with each name; a tied tensor is chosen if any of its names is. None: all.
    source : str or path-like
        Named in errors.

    Returns
    -------
    Chosen

    Raises
    ------
    SkeletonMismatch
        Nothing is chosen.
    """
    records = list(zip(record.entries, layout.starts(record.entries), strict=True))
    if only is None or not records:
        return Chosen(records, record.structure)
    groups = _names(record)
    chosen = {first for first, names in groups.items() if any(map(only, names))}
    if not chosen:
        raise SkeletonMismatch(
            source,
            f"only= chooses none of its {len(records)} tensors",
            "helpers.inspect(source) lists their names.",
        )
    omitted = {name for first, names in groups.items() if first not in chosen for name in names}
    structure = {key: _without(held, omitted) for key, held in record.structure.items()}
    return Chosen([pair for pair in records if pair[0].name in chosen], structure | {"omitted": omitted})


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
