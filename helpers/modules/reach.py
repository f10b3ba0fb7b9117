"""Find every tensor that an object reaches, wherever it is kept: what a save does not see, it must notice.

A tensor may hide in an object, a container, a closure, a partial function, a bound method, a hook, a cache. What
an object holds is asked of Python's garbage collector: it leaves nothing out and runs no code of the object's own.
Not followed on purpose: Python's modules, classes (but for those made inside a function), the globals of a
function, loggers, weak references, operators of torch, gradients. Not looked for: what is no tensor of torch, such
as a NumPy array.
"""

import gc
import logging
from types import CellType, FunctionType, ModuleType
from typing import Any

import torch

OPAQUE = (  # what may hold tensors where Python cannot see them: packed, scripted, raw memory
    *(torch.ScriptObject, torch.ScriptModule, torch.ScriptFunction, torch.jit.ScriptModule),
    torch._C.StorageBase,
)
_CLOSED = (FunctionType, type, ModuleType, logging.Logger, torch._ops.OperatorBase, *OPAQUE)
_PLAIN = {str, int, float, bool, complex, bytes, type(None), torch.dtype, torch.device, torch.Size}
_REGISTERS = {"_parameters", "_buffers", "_modules"}  # no part of a name


def reached(root: Any) -> list:
    """Every tensor and every opaque object that an object reaches, each once; itself too."""
    seen, level = {id(root): root}, [root]
    while level:
        found = {id(part): part for part in _parts(level) if type(part) not in _PLAIN}
        level = [part for key, part in found.items() if key not in seen]
        seen.update(found)
    kinds = {kind for kind in set(map(type, seen.values())) if issubclass(kind, (torch.Tensor, *OPAQUE))}
    return [part for part in seen.values() if type(part) in kinds]


def _parts(items):
    """What these objects hold directly."""
    closed = {kind for kind in set(map(type, items)) if issubclass(kind, _CLOSED)}
    parts = gc.get_referents(*(item for item in items if type(item) not in closed))
    for item in (item for item in items if type(item) in closed):
        if type(item) is FunctionType:
            parts += (*(item.__closure__ or ()), item.__defaults__, item.__kwdefaults__, item.__dict__)
        elif isinstance(item, type) and "<locals>" in item.__qualname__:
            parts += gc.get_referents(item)
    return parts


def places(root: Any, wanted: set[int]) -> dict[str, Any]:
    """Where an object holds others, by names such as ``net.scheduler.alphas_cumprod``.

    Parameters
    ----------
    root : object
    wanted : set of int
        The ids of the others.

    Returns
    -------
    dict of str to object
        Each once, under its shortest name.
    """
    named, seen, level = {}, {id(root)}, [("", root)]
    while level and len(named) < len(wanted):
        named |= {name: item for name, item in level if id(item) in wanted}
        following = []
        for name, item in level:
            labels = _labels(item)
            for place, part in enumerate(_parts([item])):
                if type(part) not in _PLAIN and id(part) not in seen:
                    seen.add(id(part))
                    following.append((".".join(filter(None, (name, labels.get(id(part), str(place))))), part))
        level = following
    return named


def _labels(item):
    """What an object calls its parts, by their ids; the garbage collector knows no names."""
    own, kind = getattr(item, "__dict__", {}), type(item)
    pairs = own.items()
    if issubclass(kind, (dict, list, tuple)):
        pairs = dict.items(item) if issubclass(kind, dict) else enumerate(item)
    elif kind is FunctionType:
        pairs = zip(item.__code__.co_freevars, item.__closure__ or (), strict=True)
    elif kind is CellType:
        pairs = [("", part) for part in gc.get_referents(item)]  # an empty one has no contents to ask for
    return {id(part): "" if key in _REGISTERS else str(key) for key, part in pairs} | {id(own): ""}
