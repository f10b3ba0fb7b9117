"""What can be wrong with a structure that comes from a file, which is untrusted."""

import itertools
import math

import torch

from helpers.modules.structure import KEYS, VIEWS
from helpers.modules.views import extent, is_dense


def problem_with(structure: dict, entries: list) -> str | None:
    """What is wrong with a structure from a file, in words, or None.

    Parameters
    ----------
    structure : dict
        From a manifest, untrusted.
    entries : list of helpers.format.layout.Entry
        The tensors of the same manifest, checked.
    """
    structure = {"views": {}} | structure
    if {key: type(value) for key, value in structure.items()} != KEYS | VIEWS:
        return "lacks parts of its structure or has unknown ones"
    shapes = {entry.name: entry.shape for entry in entries}
    lists = [structure[key] for key, kind in KEYS.items() if kind is list]
    texts = itertools.chain(*lists, structure["aliases"].values(), structure["shared"].values())
    if not all(isinstance(name, str) for name in texts):
        return "has a malformed list or table of names"
    known = {*shapes, *structure["shared"], *structure["aliases"]}
    for name in (*structure["grad_buffers"], *structure["attributes"]):
        if name not in known:
            return f"names {name!r}, which it does not hold"
    # of "none" and "other_mode" only the skeleton knows the names: an empty slot, a module without tensors
    for name in {*structure["frozen"], *structure["transient"]} - known - {*structure["none"]}:
        return f"names {name!r}, which it does not hold"
    for name, target in structure["shared"].items():
        if name in shapes or target not in shapes:
            return f"lets {name!r} share the memory of an unknown tensor"
    differentiable = {entry.name for entry in entries if _is_differentiable(entry.dtype)}
    learning = [structure["shared"].get(name, name) for name in structure["grad_buffers"]]
    frozen = {*structure["frozen"]}
    learning += [entry.name for entry in entries if entry.kind == "parameter" and entry.name not in frozen]
    for name in learning:
        if name not in differentiable:
            return f"gives {name!r} a gradient, which it cannot have"
    for name, target in structure["aliases"].items():
        if name in shapes or name in structure["shared"]:
            return f"ties {name!r}, which has data of its own"
        if not (target in shapes or target in structure["shared"]):
            return f"ties {name!r} to an unknown tensor"
    for name, strides in structure["strides"].items():
        good = name in shapes and isinstance(strides, list) and all(type(n) is int for n in strides)
        if not (good and len(strides) == len(shapes[name]) and is_dense(shapes[name], strides)):
            return f"gives {name!r} impossible strides"
    for name, view in structure["views"].items():
        if not _fits(view, shapes.get(structure["shared"].get(name), ())):
            return f"gives {name!r} an impossible place in the memory of another"
    return None


def _is_differentiable(dtype):
    kind = getattr(torch, dtype)
    return kind.is_floating_point or kind.is_complex


def _fits(view, shape):
    """Whether this is an offset, a shape and strides within a block of memory."""
    if not isinstance(view, list) or [type(part) for part in view] != [int, list, list]:
        return False
    offset, sizes, strides = view
    numbers = [offset, *sizes, *strides]
    whole = all(type(number) is int and number >= 0 for number in numbers) and len(sizes) == len(strides)
    return whole and 0 not in sizes and offset + extent(sizes, strides) <= math.prod(shape)
