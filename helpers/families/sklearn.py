"""Fitted scikit-learn estimators without pickle: skops for the structure, tensors for the arrays.

skops says in ``schema.json`` how the object is made of types that can be audited, and names an ``.npy`` file for
each array. Here the arrays' data goes into model.tensors like any other model's; ``structure.zip`` keeps the rest,
each array reduced to its header. Loading lays the arrays over the mapped data and lets skops rebuild the object.
"""

import sys
import warnings
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from helpers.errors import CorruptFile, UnsupportedModel, extra
from helpers.families import Parts
from helpers.modules.structure import blank
from helpers.options import Options
from helpers.saved.opened import Opened

_STRUCTURE = "structure.zip"
# What scikit-learn's own estimators hold of numpy and scipy: containers of numbers, and functions
# of numbers. skops leaves it to its callers to trust them.
_HARMLESS = {
    "numpy.dtype",
    "numpy.mean",
    "scipy.interpolate._bsplines.BSpline",
    "scipy._lib.array_api_compat.numpy._aliases.asarray",
    *(
        f"scipy.sparse._{form}.{form}_{kind}"
        for form in ("csr", "csc", "coo")
        for kind in ("matrix", "array")
    ),
}
_LIMIT = 1 << 30  # bytes: a structure holds no data, so a larger one is a zip bomb


def owns(model: object) -> bool:
    """Whether the object is an estimator, scikit-learn's own or derived from one."""
    base = sys.modules.get("sklearn.base")
    return base is not None and isinstance(model, base.BaseEstimator)


def save(model: Any, folder: Path, trusted: Sequence[str]) -> Parts:
    """Let skops describe the estimator, and part the arrays from the structure.

    Raises
    ------
    UnsupportedModel
        The estimator is not fitted, or holds a function or type that will not be found or
        trusted when it is loaded; the attribute is named.
    """
    name = f"{type(model).__module__}.{type(model).__qualname__}"
    with extra(name, "sklearn"):
        from helpers.families import skops_arrays
    _check_fitted(model, name)
    try:
        described = skops_arrays.describe(model)
        tree = skops_arrays.tree_of(described, rehearsal=True)
        strangers = _strangers(tree, trusted)
    except Exception as error:  # skops raises many types
        raise UnsupportedModel(
            name, f"cannot be described by skops ({error})", "See skops' documentation."
        ) from error
    if strangers:
        found = [_where(model, stranger) for stranger in strangers]
        raise UnsupportedModel(
            name,
            f"holds what is not scikit-learn's own: {', '.join(found)}",
            "Replace a lambda by a function of a module; pass trusted=[...] here and when loading, if you trust these.",
        )
    try:
        tree.construct()
    except Exception as error:
        raise UnsupportedModel(
            name, f"is described by skops but not rebuilt ({error})", "Use importable functions and types."
        ) from error
    files, tensors = dict(described.files), {}
    for member, array in skops_arrays.flat(described.arrays).items():
        files[member], tensor = skops_arrays.part(array)
        tensors[member] = ("buffer", tensor)
    with zipfile.ZipFile(folder / _STRUCTURE, "w", zipfile.ZIP_DEFLATED) as structure:
        for member, content in files.items():
            entry = zipfile.ZipInfo(member)  # without the time, so that two saves are equal
            entry.external_attr = 0o600 << 16
            structure.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return Parts(name, ("scikit-learn", "skops", "numpy"), tensors, blank(), {}, {})


def skeleton(opened: Opened, options: Options) -> None:
    """Nothing, but a refusal of what is asked for and cannot be.

    Raises
    ------
    UnsupportedModel
        A part of it or another type was asked for; or a library is not installed.
    """
    for keyword, why in (("only", "which is loaded whole"), ("dtype", "whose types are fixed")):
        if getattr(options, keyword) is not None:
            raise UnsupportedModel(opened.label, f"is an estimator, {why}", f"Load it without {keyword}=.")
    with extra(opened.label, "sklearn"):
        import skops.io  # noqa: F401
    saved, here = opened.record.versions.get("scikit-learn"), version("scikit-learn")
    if saved != here:
        warnings.warn(
            f"{opened.label} was saved by scikit-learn {saved} and is loaded by {here}: check its predictions.",
            stacklevel=2,
        )


def finish(opened: Opened, skeleton: None, weights: Any, children: dict, options: Options) -> Any:
    """Lay the arrays over the data and let skops rebuild the estimator.

    Raises
    ------
    CorruptFile
        The structure is unreadable or does not fit the arrays.
    UnsupportedModel
        It holds types that are neither scikit-learn's own nor in ``trusted``.
    """
    from helpers.families import skops_arrays

    tensors = {name: tensor for name, (_, tensor) in weights.tensors(torch.device("cpu")).items()}
    try:
        tree = skops_arrays.tree_of(_described(opened.home / _STRUCTURE, tensors))
        strangers = _strangers(tree, options.trusted)
        if not strangers:
            return tree.construct()
    except Exception as error:  # skops and zipfile raise many types
        raise CorruptFile(
            opened.name(_STRUCTURE), f"cannot be rebuilt ({error})", "Save the model again."
        ) from error
    raise UnsupportedModel(
        opened.label,
        f"needs types that are not scikit-learn's own: {', '.join(strangers)}",
        f"If you trust them: deserialise(..., trusted={strangers!r}).",
    )


def _strangers(tree, trusted):
    """Types in a description that nobody trusts: not skops, not its caller, not this package."""
    known = {*trusted, *_HARMLESS}
    names = sorted(tree.get_unsafe_set())
    return [name for name in names if not name.startswith("sklearn.") and name not in known]


def _check_fitted(model, name):
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    def says_no(part):
        try:
            check_is_fitted(part)
        except NotFittedError:
            return True
        except (AttributeError, TypeError):  # a step of a class of its own, which cannot be asked
            return False
        return False

    if not says_no(model):  # of a pipeline its last step answers, so that others may store nothing in fit
        return
    what, steps = "is not fitted", getattr(model, "steps", ())
    for step, part in steps if isinstance(steps, (list, tuple)) else ():
        if part is not None and not isinstance(part, str) and says_no(part):
            what = f"step {step!r} ({type(part).__name__}) is not fitted"
            break
    raise UnsupportedModel(name, what, "Call fit() first.")


def _where(held, stranger, path="", seen=None):
    """Where in an object a type or a function of this full name is, as an attribute path."""
    seen = set() if seen is None else seen
    kinds = [type(held)] + ([held] if callable(held) and hasattr(held, "__name__") else [])
    # a ufunc and a method of a type have a name, but no module
    names = [
        f"{getattr(kind, '__module__', None)}.{getattr(kind, key, None)}"
        for kind in kinds
        for key in ("__name__", "__qualname__")
    ]
    if stranger in names:
        return f"{path or 'itself'} ({stranger})"
    if id(held) in seen or isinstance(held, (str, bytes, np.ndarray)):
        return None
    seen.add(id(held))
    inside = {}
    if isinstance(held, dict):
        inside = {f"{path}[{key!r}]": value for key, value in held.items()}
    elif isinstance(held, (list, tuple)):
        inside = {f"{path}[{i}]": value for i, value in enumerate(held)}
    elif hasattr(held, "__dict__") and not isinstance(held, type):
        inside = {f"{path}.{key}".lstrip("."): value for key, value in vars(held).items()}
    for inner, value in inside.items():
        if found := _where(value, stranger, inner, seen):
            return found
    return None if path else f"({stranger})"


def _described(path, tensors):
    """What skops has said, from the structure and the arrays."""
    from helpers.families import skops_arrays

    with zipfile.ZipFile(path) as structure:
        if sum(info.file_size for info in structure.infolist()) > _LIMIT:
            raise ValueError("it unpacks to more than a structure can need")
        files = {name: structure.read(name) for name in structure.namelist()}
    arrays = {name: skops_arrays.whole(files.pop(name), tensor) for name, tensor in tensors.items()}
    return skops_arrays.Apart(files, skops_arrays.nested(arrays))
