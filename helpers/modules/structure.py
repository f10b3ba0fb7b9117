"""What a state dict does not say about a module, taken from it and given back to a skeleton.

A state dict is a flat list of tensors. A module also knows which names are one tensor (ties),
which parameters are frozen, which buffers are not persistent, which slots are None, which
submodules are in train mode, and it may hold tensors that it never registered, as attributes or in
lists, tuples and dictionaries. `capture` writes all of this down; `helpers.modules.restore` gives it
back. Left to the constructor: gradients, hooks, and all that holds no tensor. A tensor that is kept
anywhere else is refused by name (see `helpers.modules.reach`).
"""

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from helpers.errors import UnsupportedModel
from helpers.format import layout
from helpers.modules.reach import places, reached
from helpers.modules.views import dense_strides, same_bytes, share
from helpers.weights.tensors import dtype_name

OWN = set(vars(nn.Module()))  # what every module has; anything else is the model's own
KEYS = {
    "aliases": dict,  # name -> first name of the same tensor object (tied weights, shared submodules)
    "shared": dict,  # name -> first name of another tensor object over the same memory
    "frozen": list,  # parameters with requires_grad=False
    "grad_buffers": list,  # buffers and attributes with requires_grad=True
    "transient": list,  # buffers that are not persistent
    "attributes": list,  # tensors held without registration, in containers too
    "none": list,  # slots that hold None
    "strides": dict,  # name -> strides, where they are not those of a contiguous tensor
    "training": bool,  # mode of the root
    "other_mode": list,  # modules whose mode differs from the root's
}
VIEWS = {"views": dict}  # name in "shared" -> offset, shape, strides; only where they are not the other's own


def blank() -> dict:
    """A structure that says nothing special: of a model without torch modules, or to fill in."""
    return {key: kind() for key, kind in KEYS.items()}


def modes(module: nn.Module) -> dict:
    """The two entries of a structure that tell train from eval mode."""
    parts = module.named_modules(remove_duplicate=False)
    other = [name for name, part in parts if part.training != module.training]
    return {"training": module.training, "other_mode": other}


def slots(module: nn.Module) -> Iterator[tuple]:
    """Every place for a tensor: name, owner, key and kind; a shared submodule under all its names."""
    for prefix, owner in module.named_modules(remove_duplicate=False):
        prefix += "." if prefix else ""
        for kind, place in (("parameter", owner._parameters), ("buffer", owner._buffers)):
            for key, _ in place.items():
                yield prefix + key, owner, key, kind


def attributes(module: nn.Module) -> Iterator[tuple]:
    """As `slots`, every tensor that is held without registration; the owner is the container that holds it."""
    seen = set()
    for prefix, owner in module.named_modules():
        own = {key: held for key, held in vars(owner).items() if key not in OWN}
        yield from _tensors_in(own, f"{prefix}." if prefix else "", seen)


def _tensors_in(place, prefix, seen):
    for key, held in place.items() if type(place) is dict else enumerate(place):
        if type(key) not in (str, int):
            continue  # it gives no name that will be found again
        if isinstance(held, torch.Tensor):
            yield f"{prefix}{key}", place, key, "attribute"
        elif type(held) in (list, tuple, dict) and id(held) not in seen:
            seen.add(id(held))  # it may hold itself
            yield from _tensors_in(held, f"{prefix}{key}.", seen)


def value(owner: Any, key: Any, kind: str) -> Any:
    """The tensor in a place that `slots` or `attributes` gave."""
    if kind == "attribute":
        return owner[key]
    return (owner._parameters if kind == "parameter" else owner._buffers)[key]


def unseen(module: nn.Module) -> dict[str, Any]:
    """What a module reaches and `capture` does not take: tensors, and objects that may hold some, by name."""
    known = {id(value(*place)) for _, *place in (*slots(module), *attributes(module))}
    return places(module, {id(part) for part in reached(module)} - known)


def capture(
    module: nn.Module, source: str | os.PathLike = "the model", rebuild: Any = None
) -> tuple[dict, dict]:
    """Take from a module all that `restore` needs.

    Parameters
    ----------
    module : torch.nn.Module
    source : str or path-like
        Named in errors.
    rebuild : callable, optional
        Builds the empty model for real, as it will be built on loading. What it makes again in the same
        place, equal to the bit, need not be stored.

    Returns
    -------
    tensors : dict of str to (str, torch.Tensor)
        Kind and tensor by name, each tensor once.
    structure : dict
        JSON-able; see `KEYS` and `VIEWS`.

    Raises
    ------
    UnsupportedModel
        Names every lazy, meta, sparse, quantised or otherwise unusual tensor, every tensor that is
        kept where it cannot be stored from, and every module with an extra state of its own; or a part
        that is scripted or traced.
    """
    _refuse_scripted(module, source)
    tensors, problems = {}, []
    structure = blank()
    places = (*slots(module), *attributes(module))
    names: dict = {}  # of every tensor, by its id; one that is a parameter anywhere is named as that
    for name, *place in sorted(places, key=lambda place: place[3] != "parameter"):
        names.setdefault(id(value(*place)), name)
    for name, owner, key, kind in places:
        tensor = value(owner, key, kind)
        if kind == "attribute" and tensor.is_meta and rebuild is not None:
            continue  # unused by a library's own model, which lives without it, and made again
        if kind == "buffer" and key in owner._non_persistent_buffers_set:
            structure["transient"].append(name)
        if kind == "attribute":
            structure["attributes"].append(name)
        if tensor is None:
            structure["none"].append(name)
        elif (first := names[id(tensor)]) != name:
            structure["aliases"][name] = first
        elif problem := _unsupported(tensor):
            problems.append(f"{name} ({problem})")
        elif name in tensors and tensors[name][1] is not tensor:
            problems.append(f"{name} (a name for two tensors)")
        else:
            tensors.setdefault(name, (kind, tensor))
            if kind == "parameter" and not tensor.requires_grad:
                structure["frozen"].append(name)
            if tensor.requires_grad and (kind == "buffer" or (kind == "attribute" and tensor.is_leaf)):
                structure["grad_buffers"].append(name)
    problems += _beyond(module, rebuild)
    problems = problems or _added(module, tensors, structure) + share(tensors, structure)
    if problems:
        raise UnsupportedModel(
            source,
            f"cannot be saved exactly because of {', '.join(problems)}",
            "Materialise, densify, dequantise, clone or remove these, or register them as buffers.",
        )
    for name, (_, tensor) in tensors.items():
        if strides := dense_strides(tensor):
            structure["strides"][name] = strides
    return tensors, structure | modes(module)


def _refuse_scripted(module, source):
    for place, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise UnsupportedModel(
                source,
                f"cannot be saved exactly because of {place or 'the module itself'} (scripted or traced)",
                "Save that by torch.jit.save, or pass the module that it was made from.",
            )


def _beyond(module, rebuild):
    """What a module has besides its tensors, in words: an extra state, tensors out of sight."""
    for prefix, owner in module.named_modules():
        if type(owner).get_extra_state is not nn.Module.get_extra_state:
            yield f"{prefix or 'the module itself'} (get_extra_state)"
    hidden, again = unseen(module), {}
    if hidden and rebuild is not None:
        with torch.random.fork_rng(devices=[]):
            again = unseen(rebuild())
    for name, part in hidden.items():
        if not same_bytes(part, again.get(name)):
            yield f"{name or 'the module itself'} (a {type(part).__name__} that is not registered)"


def _added(module, tensors, structure):
    """What the state dict of a module holds and the module does not."""
    memory = {tensor.data_ptr() for _, tensor in tensors.values()}
    names = {*tensors, *structure["aliases"], *structure["none"]}
    return [
        f"{name} (only in the state dict)"
        for name, held in module.state_dict().items()
        if name not in names and not (isinstance(held, torch.Tensor) and held.data_ptr() in memory)
    ]


def _unsupported(tensor):
    if nn.parameter.is_lazy(tensor):
        return "lazy, not initialised"
    plain = type(tensor) is torch.Tensor or isinstance(tensor, nn.Parameter)  # whose class the skeleton has
    if not plain or type(tensor).__torch_dispatch__ != torch.Tensor.__torch_dispatch__:
        return f"a {type(tensor).__name__}, not a plain tensor"
    if tensor.is_nested:
        return "nested"
    if tensor.layout != torch.strided:
        return f"sparse or special layout {tensor.layout}"
    if tensor.is_meta:
        return "on the meta device, without data"
    if dtype_name(tensor.dtype) not in layout.DTYPES:
        return f"of type {tensor.dtype}"
    if any(size >= 1 << 32 for size in tensor.shape):
        return "with a dimension of 2^32 or more"
    return None
