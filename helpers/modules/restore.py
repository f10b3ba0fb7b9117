"""Put loaded tensors and a saved structure into a skeleton: an empty model of the architecture.

The counterpart of `helpers.modules.structure`. Nothing is copied: the skeleton takes the tensors over.
"""

import torch
from torch import nn

from helpers.errors import SkeletonMismatch
from helpers.modules.structure import OWN, blank, modes, slots, value


def restore(skeleton, tensors, structure, source):
    """Make a skeleton equal to the module that was captured.

    Parameters
    ----------
    skeleton : torch.nn.Module
        Usually on the meta device. Changed in place.
    tensors : dict of str to (str, torch.Tensor)
        Kind and tensor by name, as from `helpers.modules.structure.capture`.
    structure : dict
        As from `helpers.modules.structure.capture`; names in its ``"omitted"`` (see `helpers.format.selection`) get
        no data and stay on meta.
    source : str or path-like
        Named in errors.

    Raises
    ------
    SkeletonMismatch
        Lists every missing, unexpected or differently shaped tensor.
    """
    places = list(slots(skeleton))
    modules = dict(skeleton.named_modules(remove_duplicate=False))
    _compare(places, modules, tensors, structure, source)
    make = _Maker(tensors, structure)
    none, transient, other = (set(structure[key]) for key in ("none", "transient", "other_mode"))
    replaced = {}  # id of a skeleton's tensor -> (that tensor, kept alive; the loaded one)
    for name, owner, key, kind in places:
        if name in structure.get("omitted", ()):
            _empty(owner, key, kind)  # a skeleton built for real has random numbers there
            continue
        if name not in make.names and name not in none:
            continue  # an empty slot that the saved model did not have, or a buffer left as built
        old = value(owner, key, kind)
        new = None if name in none else make(name, kind, old)
        if old is not None:
            replaced[id(old)] = (old, new)
        if kind == "parameter":
            setattr(owner, key, new)  # not _parameters[key]: an LSTM keeps a second list in step
        else:
            owner._buffers[key] = new
            persistence = owner._non_persistent_buffers_set
            persistence.add(key) if name in transient else persistence.discard(key)
    for name in structure["attributes"]:
        prefix, _, key = name.rpartition(".")
        vars(modules[prefix])[key] = make(name, "attribute", None)
    for name, module in modules.items():
        module.training = structure["training"] != (name in other)
        for key in vars(module).keys() - OWN:
            vars(module)[key] = _swap(vars(module)[key], replaced)


def _empty(owner, key, kind):
    old = value(owner, key, kind)
    if old is not None and not old.is_meta:
        new = old.detach().to("meta")
        place = owner._parameters if kind == "parameter" else owner._buffers
        place[key] = _parameter(new, old, old.requires_grad) if kind == "parameter" else new


class _Maker:
    """Makes each parameter or buffer once, so that tied names get one object."""

    def __init__(self, tensors, structure):
        self.tensors, self.structure = tensors, structure
        self.made, self.memory = {}, {}
        self.names = {*tensors, *structure["shared"], *structure["aliases"]}
        self.fixed = {*structure["frozen"]}
        self.grad_buffers = {*structure["grad_buffers"]}

    def __call__(self, name, kind, old):
        name = self.structure["aliases"].get(name, name)
        if name not in self.made:
            tensor = self._memory_of(self.structure["shared"].get(name, name)).detach()
            if kind == "parameter":
                tensor = _parameter(tensor, old, name not in self.fixed)
            elif name in self.grad_buffers:
                tensor.requires_grad_()
            self.made[name] = tensor
        return self.made[name]

    def _memory_of(self, name):
        if name not in self.memory:
            tensor = self.tensors[name][1]
            if strides := self.structure["strides"].get(name):
                place = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)
                tensor = place.copy_(tensor)
            self.memory[name] = tensor
        return self.memory[name]


def _parameter(tensor, old, requires_grad):
    if old is None or type(old) is nn.Parameter:
        parameter = nn.Parameter(tensor, requires_grad=requires_grad)
    else:  # a subclass, as some libraries have
        parameter = torch.Tensor._make_subclass(type(old), tensor, requires_grad)
    if old is not None:
        vars(parameter).update(vars(old))  # marks such as _no_weight_decay
    return parameter


def _swap(held, replaced):
    """What a module holds, with the skeleton's tensors exchanged for the loaded ones."""
    if isinstance(held, torch.Tensor):
        return replaced.get(id(held), (None, held))[1]
    if type(held) is list:
        held[:] = [_swap(item, replaced) for item in held]
    elif type(held) is dict:
        held.update({key: _swap(item, replaced) for key, item in held.items()})
    elif type(held) is tuple and any(isinstance(item, torch.Tensor) for item in held):
        return tuple(_swap(item, replaced) for item in held)
    return held


def _compare(places, modules, tensors, structure, source):
    lacking, different, owners = [], [], {}
    known = {*tensors, *structure["shared"], *structure["aliases"], *structure["none"]}
    for name, owner, key, kind in places:
        old = value(owner, key, kind)
        if name not in known:
            left = structure["transient"], structure.get("omitted", ())
            if old is not None and old.numel() and not any(name in names for names in left):
                lacking.append(name)
            continue
        first = None if name in structure["none"] else structure["aliases"].get(name, name)
        if owners.setdefault((id(owner), key), first) != first:
            different.append(
                f"{name} (the skeleton shares it with {owners[id(owner), key]}, the file does not)"
            )
        base = structure["shared"].get(first, first)
        if old is None or base not in tensors:
            continue
        stored_kind, tensor = tensors[base]
        if name == base and kind != stored_kind and stored_kind != "state_dict":
            different.append(f"{name} (a {stored_kind} in the file, a {kind} in the skeleton)")
        elif nn.parameter.is_lazy(old):
            different.append(f"{name} (lazy in the skeleton: run it once on an example first)")
        elif old.shape != tensor.shape:
            different.append(f"{name} ({list(tensor.shape)} in the file, {list(old.shape)} in the skeleton)")
    held = {name for name, _, _, _ in places}
    attributes = set(structure["attributes"])
    excess = sorted(known - held - attributes)
    excess += [name for name in structure["attributes"] if name.rpartition(".")[0] not in modules]
    parts = [("the skeleton lacks", excess), ("the file lacks", lacking), ("they differ in", different)]
    found = "; ".join(f"{what} {', '.join(names)}" for what, names in parts if names)
    if found:
        raise SkeletonMismatch(
            source,
            f"the empty model and the file do not agree: {found}",
            "Build the skeleton with the class and the settings of the saved model.",
        )


def structure_of(skeleton, tensors, source):
    """A structure for a file that has no manifest: what the skeleton says, where the file is silent.

    Ties, frozen parameters, persistence and modes are the skeleton's. A stock file stores a tied
    tensor once for each name; that is accepted if the copies are equal.

    Parameters
    ----------
    skeleton : torch.nn.Module
    tensors : dict of str to (str, torch.Tensor)
        All that the file holds. Surplus copies of tied tensors are removed from it.
    source : str or path-like
        Named in errors.

    Returns
    -------
    dict

    Raises
    ------
    SkeletonMismatch
        If the file holds different values under names that the skeleton ties.
    """
    structure = blank()
    groups, unequal = {}, []
    for name, owner, key, kind in slots(skeleton):
        old = value(owner, key, kind)
        if kind == "buffer" and key in owner._non_persistent_buffers_set:
            structure["transient"].append(name)
        if old is None:
            continue
        if kind == "parameter" and not old.requires_grad:
            structure["frozen"].append(name)
        groups.setdefault(id(old), []).append(name)
    for names in groups.values():
        stored = [name for name in names if name in tensors]
        for name in stored[1:]:
            if not _same_bytes(tensors[name][1], tensors[stored[0]][1]):
                unequal.append(f"{name} and {stored[0]}")
            del tensors[name]
        if stored:
            structure["aliases"] |= {name: stored[0] for name in names if name != stored[0]}
            structure["frozen"] += [stored[0]] * (names[0] in structure["frozen"])
    if unequal:
        raise SkeletonMismatch(
            source,
            f"the skeleton ties what the file holds with different values: {', '.join(unequal)}",
            "Build the skeleton without these ties.",
        )
    return structure | modes(skeleton)


def _same_bytes(one, other):
    flat = (t.reshape(-1).view(torch.uint8) for t in (one, other))
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*flat)


def on_meta(module):
    """Names of everything in a module that has no data yet, in containers too."""
    found = [n for n, o, k, kind in slots(module) if (t := value(o, k, kind)) is not None and t.is_meta]
    for prefix, owner in module.named_modules():
        found += [f"{prefix}.{key}" for key in vars(owner).keys() - OWN if _holds_meta(vars(owner)[key])]
    return found


def _holds_meta(held):
    if isinstance(held, torch.Tensor):
        return held.is_meta
    if isinstance(held, dict):
        held = held.values()
    elif not isinstance(held, (list, tuple)):
        return False
    return any(map(_holds_meta, held))
