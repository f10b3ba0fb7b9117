"""Put loaded tensors and a saved structure into a skeleton: an empty model of the architecture.

The counterpart of `helpers.modules.structure`. The skeleton takes the tensors over without a copy; only those
that were saved with other strides than a contiguous tensor has are laid out anew.
"""

import os

import torch
from torch import nn

from helpers.modules.comparison import compare
from helpers.modules.containers import exchange
from helpers.modules.elsewhere import given_over
from helpers.modules.parameters import parameter_like
from helpers.modules.reach import places, reached
from helpers.modules.structure import attributes, slots, value
from helpers.modules.views import lay_out


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
        Lists missing, unexpected and differently shaped tensors, the first eight of each; or names an object of the
        skeleton that keeps a tensor as well and cannot be given the loaded one.
    """
    modules = dict(skeleton.named_modules(remove_duplicate=False))
    laid = lay_out(tensors, structure)
    first = {name: name for name in laid} | structure["aliases"]  # what is tied takes its first name's tensor
    _make_room(modules, structure["transient"], first)
    compare(skeleton, modules, tensors, laid, structure, source)
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
    exchange(modules, fresh, replaced)
    parts = reached(skeleton)
    if in_place := given_over(skeleton, parts, replaced, source):
        for _, owner, key, kind in slots(skeleton):
            if found := in_place.get(id(value(owner, key, kind))):
                _put(owner, key, kind, found[1])
        exchange(modules, {}, in_place)
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


def without_data(module: nn.Module, parts: list | None = None) -> list[str]:
    """Names of everything that a module reaches (``parts``, if that is known) and that has no data yet."""
    parts = reached(module) if parts is None else parts
    empty = {id(part) for part in parts if isinstance(part, torch.Tensor) and part.is_meta}
    known = {}
    if empty:
        known = {name: id(value(*place)) for name, *place in (*slots(module), *attributes(module))}
    named = [name for name, key in known.items() if key in empty]
    return named + list(places(module, empty.difference(known.values())))
