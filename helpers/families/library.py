"""Classes of the transformers and diffusers libraries by name, and nothing outside them.

A manifest is untrusted, so a name in it is looked up here: four patterns, no path of its own.
"""

import contextlib
import functools
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from helpers.errors import CorruptFile, UnsupportedModel, extra
from helpers.modules.skeleton import Skeleton, buildable, by_caller
from helpers.options import Options
from helpers.saved.opened import Opened

LIBRARIES = ("transformers", "diffusers")


def name_of(cls: type) -> str | None:
    """The name by which `find` finds a class of a library again, such as ``transformers.LlamaForCausalLM``.

    Returns
    -------
    str or None
        None for a class that is not found in its library: a user's own.
    """
    for library in LIBRARIES:
        if getattr(sys.modules.get(library), cls.__name__, None) is cls:
            return f"{library}.{cls.__name__}"
    package = ".".join(cls.__module__.split(".")[:3])
    if package.startswith("diffusers.pipelines.") and hasattr(sys.modules.get(package), cls.__name__):
        return f"{package}.{cls.__name__}"  # such as the safety checker of Stable Diffusion
    found = getattr(sys.modules.get(cls.__module__), cls.__name__, None)
    if _is_model_module(cls.__module__.split(".")) and found is cls:
        return (
            f"{cls.__module__}.{cls.__name__}"  # a part that its library does not show, such as BartDecoder
        )
    return None


def is_shown(name: str) -> bool:
    """Whether a name from `name_of` is of a class that its library shows, which is meant to be built by itself."""
    return not _is_model_module(name.split(".")[:-1])


def find(class_name: str, path: str, *bases: str) -> Any:
    """The class of this public name.

    Parameters
    ----------
    class_name : str
        ``transformers.X``, ``diffusers.X``, ``diffusers.pipelines.p.X`` or ``transformers.models.p.modeling_q.X``.
    path : str
        Named in errors.
    *bases : str
        Public names of classes, of which it must inherit from one.

    Raises
    ------
    CorruptFile
        The installed library has no such class.
    UnsupportedModel
        The library is not installed.
    """
    package, _, name = class_name.rpartition(".")
    parts = package.split(".")
    plain = len(parts) == 1 and parts[0] in LIBRARIES
    known = plain or _is_pipeline_package(parts) or _is_model_module(parts)
    if name.isidentifier() and not name.startswith("_") and known:
        with extra(path, "hf"):
            importlib.import_module(parts[0])
        try:
            found = getattr(importlib.import_module(package), name, None)
        except ImportError:
            found = None
        wanted = tuple(map(base, bases))
        if isinstance(found, type) and issubclass(found, wanted) and found not in wanted:
            return found
    raise CorruptFile(
        path,
        f"names {class_name!r}, which is no such class of the installed transformers and diffusers libraries",
        "Install the versions that the manifest names, if you trust its origin.",
    )


def base(class_name: str) -> Any:
    """A base class by its public name, from this package's own code."""
    library, _, name = class_name.partition(".")
    return getattr(importlib.import_module(library), name)


def skeleton(opened: Opened, options: Options, empty: Callable) -> Skeleton:
    """The empty model of a saved one, from ``empty(folder, label, class_name, settings)`` or the caller's function."""
    record, label = opened.record, opened.name()
    if options.skeleton:
        return Skeleton(by_caller(label)(options.skeleton), label)
    build = functools.partial(empty, opened.home, label, record.class_name, record.settings)
    remedy = "Restore it, save the model again, or install the versions that the manifest names."
    return Skeleton(buildable(label, CorruptFile, remedy)(build), label)


def refuse_quantised(model: Any, name: str) -> None:
    """Refuse a model of a library whose weights one of its quantisers holds, other than in torchao's tensors.

    Raises
    ------
    UnsupportedModel
        Names the quantiser.
    """
    quantiser = getattr(model, "hf_quantizer", None)
    if quantiser is None and not getattr(model, "is_quantized", False):
        return
    method = getattr(getattr(quantiser, "quantization_config", None), "quant_method", "something else")
    raise UnsupportedModel(
        name,
        f"is quantised by {getattr(method, 'value', method)}, of which only torchao's weights are taken apart",
        "Call model.dequantize() first, quantise with TorchAoConfig, or keep its own format.",
    )


@contextlib.contextmanager
def readable(path: str) -> Iterator[None]:
    """Turn whatever a library raises over a configuration file into a `CorruptFile`."""
    try:
        yield
    except Exception as error:  # of many types
        raise CorruptFile(
            path, f"cannot be read ({error})", "Restore it, or save the model again."
        ) from error


def read_json(folder: Path, label: str, name: str) -> dict:
    """A configuration file of a saved model, named in errors by the model's own label.

    Raises
    ------
    CorruptFile
        It is not a JSON object.
    """
    with readable(f"{label}/{name}"):
        return dict(json.loads((folder / name).read_text()))


def differing(settings: dict, again: dict) -> set[str]:
    """The names of settings that are not the same after they were JSON, which makes lists of tuples."""
    names = {*settings, *again}
    return {name for name in names if not _is_same(settings.get(name), again.get(name))}


def _is_same(one, other):
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    return bool(one == other) or repr(one) == repr(other)  # NaN is not equal to itself


def _is_pipeline_package(parts):
    return parts[:2] == ["diffusers", "pipelines"] and len(parts) == 3 and parts[2].isidentifier()


def _is_model_module(parts):
    inside = parts[:2] == ["transformers", "models"] and len(parts) == 4
    return inside and parts[2].isidentifier() and parts[3].isidentifier() and parts[3].startswith("modeling_")
