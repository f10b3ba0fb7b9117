"""Put loaded tensors and a saved structure into a skeleton: an empty model of the architecture.

The counterpart of `helpers.modules.structure`. The skeleton takes the tensors over without a copy; only those
that were saved with other strides than a contiguous tensor has are laid out anew.
"""

import os

import torch
from torch import nn

from helpers.errors import SkeletonMismatch
from helpers.modules.elsewhere import given_over
from helpers.modules.parameters import parameter_like
from helpers.modules.reach import places, reached
from helpers.modules.structure import OWN, attributes, blank, modes, slots, value
from helpers.modules.views import lay_out, same_bytes


def restore(skeleton: nn.Module, tensors: dict, structure: dict, source: str | os.PathLike) -> list:
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

    Returns
    -------
    list
        What the module reaches, as from `helpers.modules.reach.reached`, so that `without_data` need not look again.

    Raises
    ------
    SkeletonMismatch
        Lists every missing, unexpected or differently shaped tensor; or names an object of the skeleton that keeps
        a tensor as well and cannot be given the loaded one.
    """
    modules = dict(skeleton.named_modules(remove_duplicate=False))
    laid = lay_out(tensors, structure)
    first = {name: name for name in laid} | structure["aliases"]  # what is tied takes its first name's tensor
    _make_room(modules, structure["transient"], first)
    _compare(skeleton, modules, tensors, laid, structure, source)
    none, transient, other, frozen, unregistered = (
        set(structure[key]) for key in ("none", "transient", "other_mode", "frozen", "attributes")
    )
    omitted = structure.get("omitted", ())
    for name in structure["grad_buffers"]:
        laid[name].requires_grad_()
    # parameters first: one may be a buffer elsewhere, under whose name older versions stored it
    ordered = sorted(slots(skeleton), key=lambda slot: slot[3] == "buffer")
    frozen |= {name for name, *_, kind in ordered if kind == "buffer"}  # but for "grad_buffers"
    replaced: dict = {}  # id of what a skeleton holds -> (that, kept alive; what takes its place)
    emptied: dict = {}  # the same of what is not wanted: a skeleton built for real has random numbers there
    for name, owner, key, kind in ordered:
        old, source_name = value(owner, key, kind), first.get(name)
        if name in omitted:
            _put(owner, key, kind, emptied.setdefault(id(old), (old, _empty(old)))[1])
            continue
        if source_name is None and name not in none:
            continue  # an empty slot that the saved model did not have, or a buffer left as built
        alone = isinstance(old, nn.Parameter) and id(old) not in replaced  # a parameter, if only as a buffer
        if source_name and (kind == "parameter" or alone):
            _make_parameter(laid, source_name, old, source_name not in frozen)
        new = laid.get(source_name)
        if old is not None:
            replaced.setdefault(id(old), (old, new))
        _put(owner, key, kind, new)
        if kind == "buffer":
            persistence = owner._non_persistent_buffers_set
            if name in transient:
                persistence.add(key)
            else:
                persistence.discard(key)
    for name, *place in attributes(skeleton) if unregistered or omitted else ():
        old = value(*place)
        if name in omitted:
            emptied.setdefault(id(old), (old, _empty(old)))
        elif name in unregistered:
            if isinstance(old, nn.Parameter):
                _make_parameter(laid, first[name], old, False)
            replaced.setdefault(id(old), (old, laid[first[name]]))
    replaced = emptied | replaced
    fresh = {name: laid[first[name]] for name in structure["attributes"]}
    for name, tensor in fresh.items():
        prefix, _, key = name.rpartition(".")
        if prefix in modules:
            modules[prefix].__dict__[key] = tensor
    for name, module in modules.items():
        module.training = structure["training"] != (name in other)
    _exchange(modules, fresh, replaced)
    parts = reached(skeleton)
    if in_place := given_over(skeleton, parts, replaced, source):
        for _, owner, key, kind in slots(skeleton):
            if found := in_place.get(id(value(owner, key, kind))):
                _put(owner, key, kind, found[1])
        _exchange(modules, {}, in_place)
    return parts


def _put(owner, key, kind, new):
    if kind == "parameter":
        setattr(owner, key, new)  # not _parameters[key]: an LSTM keeps a second list in step
    else:
        owner._buffers[key] = new  # not setattr: it would register what is a parameter elsewhere as one here


def _make_parameter(laid, name, old, learns):
    """Make a loaded tensor a parameter as the skeleton's, once for all its names."""
    if not isinstance(laid[name], nn.Parameter):
        laid[name] = parameter_like(old, laid[name], learns or laid[name].requires_grad)


def _empty(old):
    """The same tensor without data."""
    if old is None or old.is_meta:
        return old
    new = old.detach().to("meta")
    if isinstance(old, nn.Parameter):
        return parameter_like(old, new, old.requires_grad)
    return new.requires_grad_(old.requires_grad)


def _make_room(modules, transient, first):
    """Slots for buffers that a module makes at its first use and does not store, as a cache of constants."""
    for name in transient:
        prefix, _, key = name.rpartition(".")
        if name in first and prefix in modules and key and not hasattr(modules[prefix], key):
            modules[prefix].register_buffer(key, None, persistent=False)


def _exchange(modules, fresh, replaced):
    """In the attributes of modules and in the containers there, the skeleton's tensors for the loaded ones."""
    seen = set()
    for name, module in modules.items():
        held = {key: part for key, part in vars(module).items() if key not in OWN}
        module.__dict__.update(_swapped(held, f"{name}." if name else "", fresh, replaced, seen))


def _swapped(place, prefix, fresh, replaced, seen):
    """What a container holds, by key, with the skeleton's tensors exchanged for the loaded ones."""
    new = {}
    for key, held in place.items() if isinstance(place, dict) else enumerate(place):
        name = f"{prefix}{key}"
        if isinstance(held, torch.Tensor) and name in fresh:
            replaced[id(held)] = (held, fresh[name])
        elif type(held) in (list, tuple, dict) and id(held) not in seen:
            seen.add(id(held))  # it may hold itself
            inner = _swapped(held, f"{name}.", fresh, replaced, seen)
            if type(held) is tuple:
                replaced[id(held)] = (held, tuple(inner.values()))
            elif type(held) is dict:
                held.update(inner)
            else:
                held[:] = inner.values()
        new[key] = replaced.get(id(held), (None, held))[1]
    return new


def _compare(skeleton, modules, tensors, laid, structure, source):
    lacking, different, owners = [], [], {}
    known = {*laid, *structure["aliases"], *structure["none"]}
    there = {name for name in structure["attributes"] if name.rpartition(".")[0] in modules}
    if there != {*structure["attributes"]}:  # some are in containers
        there.update(name for name, *_ in attributes(skeleton))
    for name, owner, key, kind in slots(skeleton):
        old = value(owner, key, kind)
        there.add(name)
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
        if old is None or first not in laid:
            continue
        stored = tensors[name][0] if name in tensors else kind
        shape = laid[first].shape
        if stored not in (kind, "state_dict"):
            different.append(f"{name} (a {stored} in the file, a {kind} in the skeleton)")
        elif nn.parameter.is_lazy(old):
            different.append(f"{name} (lazy in the skeleton: run it once on an example first)")
        elif old.shape != shape:
            different.append(f"{name} ({list(shape)} in the file, {list(old.shape)} in the skeleton)")
    excess = sorted(known - there)
    parts = [("the skeleton lacks", excess), ("the file lacks", lacking), ("they differ in", different)]
    found = "; ".join(f"{what} {', '.join(names)}" for what, names in parts if names)
    if found:
        raise SkeletonMismatch(
            source,
            f"the empty model and the file do not agree: {found}",
            "Build the skeleton with the class and the settings of the saved model.",
        )


def structure_of(skeleton: nn.Module, tensors: dict, source: str | os.PathLike) -> dict:
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
        if old is not None:
            groups.setdefault(id(old), (old, []))[1].append(name)
    for old, names in groups.values():
        stored = [name for name in names if name in tensors]
        for name in stored[1:]:
            if not same_bytes(tensors[name][1], tensors[stored[0]][1]):
                unequal.append(f"{name} and {stored[0]}")
            del tensors[name]
        if stored:
            structure["aliases"] |= {name: stored[0] for name in names if name != stored[0]}
            structure["grad_buffers" if old.requires_grad else "frozen"].append(stored[0])
    if unequal:
        raise SkeletonMismatch(
            source,
            f"the skeleton ties what the file holds with different values: {', '.join(unequal)}",
            "Build the skeleton without these ties.",
        )
    return structure | modes(skeleton)


def without_data(module: nn.Module, parts: list | None = None) -> list[str]:
    """Names of everything that a module reaches (``parts``, if that is known) and that has no data yet."""
    parts = reached(module) if parts is None else parts
    empty = {id(part) for part in parts if isinstance(part, torch.Tensor) and part.is_meta}
    known = {}
    if empty:
        known = {name: id(value(*place)) for name, *place in (*slots(module), *attributes(module))}
    named = [name for name, key in known.items() if key in empty]
    return named + list(places(module, empty.difference(known.values())))
