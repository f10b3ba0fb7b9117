"""Any torch.nn.Module. Its code is not stored, so the reader builds the skeleton."""

import torch
from torch.overrides import TorchFunctionMode

from helpers.errors import SkeletonMismatch, UnsupportedModel
from helpers.families import Parts
from helpers.modules.restore import on_meta, restore
from helpers.modules.structure import capture
from helpers.timeline import phase


def owns(model):
    """Whether the object is a torch module."""
    return isinstance(model, torch.nn.Module)


def save(model, folder, trusted):
    """Take the tensors and the structure; nothing else is written into ``folder``."""
    name = f"{type(model).__module__}.{type(model).__qualname__}"
    tensors, structure = capture(model, name)
    return Parts(name, ("torch",), tensors, structure, {}, {})


def load(folder, manifest, wanted):
    """Build the skeleton and fill it.

    Raises
    ------
    SkeletonMismatch
        No skeleton was passed, or it does not fit.
    """
    if wanted.skeleton is None:
        raise SkeletonMismatch(
            folder,
            f"holds a {manifest.class_name}, whose code is not stored",
            f"Pass skeleton=, a function that builds it: deserialise(..., skeleton={manifest.class_name}).",
        )
    return fill(wanted.skeleton, wanted, lambda *_: manifest.structure, folder)


def fill(build, wanted, structure_for, source):
    """Build an empty model and put the stored tensors into it.

    The model is built on the meta device, where nothing is allocated or initialised. Some
    constructors cannot run there (they read a value), and some keep tensors that are neither
    stored nor registered; these are built for real, which costs their initialisation.

    Parameters
    ----------
    build : callable
        Builds the empty model.
    wanted : helpers.families.Wanted
        Gives the tensors.
    structure_for : callable
        Called with the empty model and the tensors; gives the structure to restore.
    source : str or path-like
        Named in errors.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    SkeletonMismatch
        The empty model does not fit, or a part of it stays without data.
    """
    tensors = None
    for make, name in ((_on_meta, "build the empty model"), (_for_real, "build the model for real")):
        with phase(name):
            model = make(build)
        if model is None:
            continue
        if not isinstance(model, torch.nn.Module):
            raise SkeletonMismatch(
                source, f"skeleton() gave a {type(model).__name__}", "Let it return a torch.nn.Module."
            )
        if tensors is None:  # not before: they may still be on their way while the class is imported
            tensors = wanted.fetch()
        with phase("put the weights in"):
            copy = dict(tensors)
            structure = structure_for(model, copy)
            restore(model, copy, structure, source)
        if not (empty := set(on_meta(model)) - structure.get("omitted", set())):
            # what was built, not loaded (constants), follows to where the weights are
            return model._apply(lambda t: t if t.is_meta else t.to(wanted.device))
    raise SkeletonMismatch(
        source,
        f"these have no data after loading: {', '.join(sorted(empty))}",
        "Build the skeleton without torch.device('meta') of its own.",
    )


def rehearse(build, tensors, structure, name):
    """Make sure, while saving, that the empty model can be built again and fits.

    Raises
    ------
    UnsupportedModel
        The model is not what its configuration builds.
    """
    meta = {key: (kind, tensor.to("meta")) for key, (kind, tensor) in tensors.items()}
    empty = _on_meta(build)
    try:
        if empty is None:
            empty = _for_real(build)
        restore(empty, meta, structure, name)
    except SkeletonMismatch as error:
        raise UnsupportedModel(
            name,
            f"is not what its configuration builds ({error.problem})",
            "Merge adapters, or make it a part of a torch.nn.Module of your own and load with skeleton=.",
        ) from error


class _NoInitialisation(TorchFunctionMode):
    """Skips ``torch.nn.init``: on the meta device there is nothing to fill, and asking costs half the build."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return function(*args, **(kwargs or {}))


def _on_meta(build):
    try:
        with torch.device("meta"), _NoInitialisation():
            return build()
    except Exception:  # whatever it is, the build for real repeats it if it was not meta's doing
        return None


def _for_real(build):
    with torch.random.fork_rng(devices=[]):  # loading a model leaves the random state alone
        return build()
