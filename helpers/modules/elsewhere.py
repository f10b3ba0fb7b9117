"""Tensors of a module that an object of its own keeps as well: it is given the loaded ones.

A module may hand its weights to an object that is no module: a cache, a scheduler, a closure. `restore` exchanges the
tensors of an empty model where modules and containers hold them; such an object would go on holding the empty
model's. What only that object can exchange is exchanged in place: `torch.utils.swap_tensors` gives the tensor that
the object holds the loaded data, and the module takes that tensor in turn, so that both hold one and the same.
"""

import os

import torch
from torch import nn

from helpers.errors import SkeletonMismatch
from helpers.modules.parameters import parameter_like
from helpers.modules.reach import places


def given_over(skeleton: nn.Module, parts: list, replaced: dict, source: str | os.PathLike) -> dict:
    """Give the loaded data to the empty tensors that a skeleton still reaches after they were exchanged.

    Parameters
    ----------
    skeleton : torch.nn.Module
    parts : list
        What it reaches, as from `helpers.modules.reach.reached`.
    replaced : dict of int to (object, object)
        By the id of what the skeleton held: that, and what has taken its place.
    source : str or path-like
        Named in errors.

    Returns
    -------
    dict of int to (torch.Tensor, torch.Tensor)
        By the id of a loaded tensor: that, and the one with the same data which has to take its place.

    Raises
    ------
    SkeletonMismatch
        Names an object whose tensor cannot take the data: the file has none there, or has one tensor where the
        skeleton has built two, or something else refers to it.
    """
    kept: dict = {}
    for old in parts:
        new = replaced.get(id(old), (old, old))[1]
        if new is old:
            continue
        if new is None or id(new) in kept:
            raise _refused(skeleton, old, source)
        same = new.detach()  # not `new` itself: whoever else holds that keeps its data
        if isinstance(old, nn.Parameter):
            same = parameter_like(old, same, new.requires_grad)
        try:
            torch.utils.swap_tensors(old, same.requires_grad_(new.requires_grad))
        except RuntimeError as error:  # a graph or a weak reference depends on the tensor
            raise _refused(skeleton, old, source) from error
        kept[id(new)] = (new, old)
    return kept


def _refused(skeleton, tensor, source):
    (name,) = places(skeleton, {id(tensor)})
    return SkeletonMismatch(
        source,
        f"the empty model keeps a tensor in {name} as well, which cannot be given the loaded data",
        "Let its constructor tie what the saved model ties, and let the object ask the module for the tensor.",
    )
