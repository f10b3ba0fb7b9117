"""Any torch.nn.Module. Its code is not stored, so the reader builds the skeleton."""

import torch

from helpers.errors import SkeletonMismatch
from helpers.families import Parts
from helpers.restore import on_meta, restore
from helpers.structure import capture
from helpers.timeline import phase


def owns(model):
    """Whether the object is a torch module."""
    return isinstance(model, torch.nn.Module)


def save(model, folder):
    """Take the tensors and the structure; nothing else is written into ``folder``."""
    name = f"{type(model).__module__}.{type(model).__qualname__}"
    tensors, structure = capture(model, name)
    return Parts(name, tensors, structure, {}, ("torch",))


def load(folder, manifest, fetch, skeleton, dtype):
    """Build the skeleton and fill it.

    Raises
    ------
    SkeletonMismatch
        No skeleton was passed, or it does not fit.
    """
    if skeleton is None:
        raise SkeletonMismatch(
            folder,
            f"holds a {manifest.class_name}, whose code is not stored",
            f"Pass skeleton=, a function that builds it: deserialise(..., skeleton={manifest.class_name}).",
        )
    return fill(skeleton, fetch, lambda *_: manifest.structure, folder)


def fill(build, fetch, structure_for, source):
    """Build an empty model and put the stored tensors into it.

    The model is built on the meta device, where nothing is allocated or initialised. Some
    constructors cannot run there (they read a value), and some keep tensors that are neither
    stored nor registered; these are built for real, which costs their initialisation.

    Parameters
    ----------
    build : callable
        Builds the empty model.
    fetch : callable
        Gives the tensors, by name.
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
    tensors = fetch()
    for make in (_on_meta, _for_real):
        with phase("build the empty model"):
            model = make(build)
        if model is None:
            continue
        if not isinstance(model, torch.nn.Module):
            raise SkeletonMismatch(
                source, f"skeleton() gave a {type(model).__name__}", "Let it return a torch.nn.Module."
            )
        with phase("put the weights in"):
            copy = dict(tensors)
            restore(model, copy, structure_for(model, copy), source)
        if not (empty := on_meta(model)):
            return model
    raise SkeletonMismatch(
        source,
        f"these have no data after loading: {', '.join(empty)}",
        "Build the skeleton without torch.device('meta') of its own.",
    )


def _on_meta(build):
    try:
        with torch.device("meta"):
            return build()
    except Exception:  # whatever it is, the build for real repeats it if it was not meta's doing
        return None


def _for_real(build):
    with torch.random.fork_rng(devices=[]):  # loading a model leaves the random state alone
        return build()
