"""The structure of a file without a manifest, as stock tensorizer writes it: ties, modes and persistence."""

import os

from torch import nn

from helpers.errors import SkeletonMismatch
from helpers.modules.comparison import some
from helpers.modules.structure import blank, modes, slots, value
from helpers.modules.views import same_bytes


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
            f"the skeleton ties what the file holds with different values: {some(unequal)}",
            "Build the skeleton without these ties.",
        )
    return structure | modes(skeleton)
