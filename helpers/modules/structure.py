"""What a state dict does not say about a module, taken from it and given back to a skeleton.

A state dict is a flat list of tensors. A module also knows which names are one tensor (ties),
which parameters are frozen, which buffers are not persistent, which slots are None, which
submodules are in train mode, and it may hold tensors that it never registered. `capture`
writes all of this down; `helpers.modules.restore` gives it back. Not captured: gradients, hooks, and
tensors inside lists or dictionaries, which the constructor makes again.
"""

import torch
from torch import nn

from helpers.errors import UnsupportedModel
from helpers.format import layout
from helpers.weights.tensors import dtype_name

OWN = set(vars(nn.Module()))  # what every module has; anything else is the model's own
KEYS = {
    "aliases": dict,  # name -> first name of the same tensor object (tied weights, shared submodules)
    "shared": dict,  # name -> first name of another tensor object over the same memory
    "frozen": list,  # parameters with requires_grad=False
    "grad_buffers": list,  # buffers with requires_grad=True
    "transient": list,  # buffers that are not persistent
    "attributes": list,  # tensors held without registration
    "none": list,  # slots that hold None
    "strides": dict,  # name -> strides, where they are not those of a contiguous tensor
    "training": bool,  # mode of the root
    "other_mode": list,  # modules whose mode differs from the root's
}


def blank():
    """A structure that says nothing special: of a model without torch modules, or to fill in."""
    return {key: kind() for key, kind in KEYS.items()}


def modes(module):
    """The two entries of a structure that tell train from eval mode."""
    parts = module.named_modules(remove_duplicate=False)
    other = [name for name, part in parts if part.training != module.training]
    return {"training": module.training, "other_mode": other}


def slots(module):
    """Every place for a tensor: name, owner, key and kind; a shared submodule under all its names."""
    for prefix, owner in module.named_modules(remove_duplicate=False):
        prefix += "." if prefix else ""
        for kind, place in (("parameter", owner._parameters), ("buffer", owner._buffers)):
            for key in place:
                yield prefix + key, owner, key, kind


def _attributes(module):
    for prefix, owner in module.named_modules():
        prefix += "." if prefix else ""
        for key, value in vars(owner).items():
            if key not in OWN and isinstance(value, torch.Tensor):
                yield prefix + key, owner, key, "attribute"


def value(owner, key, kind):
    if kind == "attribute":
        return vars(owner)[key]
    return (owner._parameters if kind == "parameter" else owner._buffers)[key]


def capture(module, source="the model"):
    """Take from a module all that `restore` needs.

    Parameters
    ----------
    module : torch.nn.Module
    source : str or path-like
        Named in errors.

    Returns
    -------
    tensors : dict of str to (str, torch.Tensor)
        Kind and tensor by name, each tensor once.
    structure : dict
        JSON-able; see `KEYS`.

    Raises
    ------
    UnsupportedModel
        Names every lazy, meta, sparse, quantised or otherwise unusual tensor, and every
        module with an extra state of its own.
    """
    tensors, problems = {}, []
    structure = blank()
    first_name, first_memory = {}, {}
    for name, owner, key, kind in [*slots(module), *_attributes(module)]:
        tensor = value(owner, key, kind)
        if kind == "buffer" and key in owner._non_persistent_buffers_set:
            structure["transient"].append(name)
        if kind == "attribute":
            structure["attributes"].append(name)
        if tensor is None:
            structure["none"].append(name)
            continue
        if id(tensor) in first_name:
            structure["aliases"][name] = first_name[id(tensor)]
            continue
        first_name[id(tensor)] = name
        if problem := _unsupported(tensor):
            problems.append(f"{name} ({problem})")
            continue
        if kind == "parameter" and not tensor.requires_grad:
            structure["frozen"].append(name)
        if kind == "buffer" and tensor.requires_grad:
            structure["grad_buffers"].append(name)
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if tensor.numel() and place in first_memory:
            structure["shared"][name] = first_memory[place]
            continue
        first_memory[place] = name
        if strides := _dense_strides(tensor):
            structure["strides"][name] = strides
        tensors[name] = (kind, tensor)
    problems += [
        f"{prefix or 'the module itself'} (get_extra_state)"
        for prefix, owner in module.named_modules()
        if type(owner).get_extra_state is not nn.Module.get_extra_state
    ]
    if problems:
        raise UnsupportedModel(
            source,
            f"cannot be saved exactly because of {', '.join(problems)}",
            "Materialise, densify, dequantise or remove these first.",
        )
    return tensors, structure | modes(module)


def _unsupported(tensor):
    if nn.parameter.is_lazy(tensor):
        return "lazy, not initialised"
    if type(tensor).__torch_dispatch__ != torch.Tensor.__torch_dispatch__:
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


def _dense_strides(tensor):
    """The strides of a permuted but gapless tensor (channels_last, a transpose), else None."""
    strides = list(tensor.stride())
    return strides if not tensor.is_contiguous() and is_dense(tensor.shape, strides) else None


def is_dense(shape, strides):
    """Whether strides visit every element of a block of memory once, in whatever order."""
    expected = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def problem_with(structure, entries):
    """What is wrong with a structure from a file, in words, or None.

    Parameters
    ----------
    structure : dict
        From a manifest, untrusted.
    entries : list of helpers.format.layout.Entry
        The tensors of the same manifest, checked.
    """
    if {key: type(value) for key, value in structure.items()} != KEYS:
        return "lacks parts of its structure or has unknown ones"
    shapes = {entry.name: entry.shape for entry in entries}
    for key in (key for key, kind in KEYS.items() if kind is list):
        if not all(isinstance(name, str) for name in structure[key]):
            return f"has a malformed list {key!r}"
    for key in ("aliases", "shared"):
        if not all(isinstance(target, str) for target in structure[key].values()):
            return f"has a malformed table {key!r}"
    for name, target in structure["shared"].items():
        if name in shapes or target not in shapes:
            return f"lets {name!r} share the memory of an unknown tensor"
    for name, target in structure["aliases"].items():
        if name in shapes or name in structure["shared"]:
            return f"ties {name!r}, which has data of its own"
        if not (target in shapes or target in structure["shared"]):
            return f"ties {name!r} to an unknown tensor"
    for name, strides in structure["strides"].items():
        good = name in shapes and isinstance(strides, list) and all(type(n) is int for n in strides)
        if not (good and len(strides) == len(shapes[name]) and is_dense(shapes[name], strides)):
            return f"gives {name!r} impossible strides"
    return None
