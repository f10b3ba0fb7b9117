"""Tensors that modules keep outside their registers: in attributes, and in lists and dictionaries there."""

import torch

from helpers.modules.structure import OWN


def exchange(modules, fresh, replaced):
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
