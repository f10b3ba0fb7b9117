"""Any torch module with weights that torchao quantised: their plain inner tensors, with torchao's own description.

Around the family that the model would be of without them, which builds the empty model.
"""

import copy
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from helpers.errors import CorruptFile, ModelError, UnsupportedModel, extra
from helpers.families import Parts, diffusers, library, torch_module, transformers
from helpers.format.layout import Entry, stored_name
from helpers.modules.problems import problem_with
from helpers.modules.reach import reached
from helpers.modules.skeleton import Skeleton
from helpers.modules.structure import slots, value
from helpers.options import Options
from helpers.saved.opened import Opened

# torchao 0.18 makes it, for four bits on a CPU; its safetensors support knows it only later, by this description
_OPAQUE = "Int4OpaqueTensor"
_QUANTISERS = {  # of the libraries that mark what they have quantised
    "diffusers": ("diffusers.quantizers.auto", "DiffusersAutoQuantizer"),
    "transformers": ("transformers.quantizers.auto", "AutoHfQuantizer"),
}
_INSIDE = {"diffusers": diffusers, "transformers": transformers, "torch_module": torch_module}


def owns(model: object) -> bool:
    """Whether the object is a torch module with weights of torchao."""
    return isinstance(model, torch.nn.Module) and any(map(_is_quantised, model.parameters()))


def save(model: Any, folder: Path, trusted: Any) -> Parts:
    """Let the family beneath save the model without the quantised weights, and take these apart.

    Raises
    ------
    UnsupportedModel
        A weight is of a kind that torchao does not take apart and put together as it was, the model holds what cannot
        be copied (a lock), or the family refuses the rest.
    """
    names = {}  # of each quantised weight, by its id: the first is where it is stored
    for name, *place in sorted(slots(model), key=lambda slot: slot[3] != "parameter"):
        held, kind = value(*place), place[2]
        # one that is a buffer alone stays in the twin, and is refused there
        if _is_quantised(held) and (kind == "parameter" or id(held) in names):
            names.setdefault(id(held), []).append((name, held))
    twin = _without(model, set(names))
    family = next(name for name, one in _INSIDE.items() if one.owns(twin))
    parts = _INSIDE[family].save(twin, folder, trusted)
    _rehearse_mark(folder / "config.json", family, parts.class_name)
    tensors, problems = dict(parts.tensors), []
    said: dict[str, Any] = {"family": family, "tensors": {}, "ties": {}, "frozen": []}
    for (first, held), *others in names.values():
        inner, described = _apart(first, held)
        if not inner:
            problems.append(f"{first} (a {type(held).__name__})")
        elif lost := _lost(first, held, inner, described):
            problems.append(f"{first} (a {type(held).__name__}: {lost})")
        tensors |= {key.removeprefix("."): ("attribute", tensor) for key, tensor in inner.items()}
        said["tensors"][first] = described
        said["ties"] |= {name: first for name, _ in others}
        said["frozen"] += [] if held.requires_grad else [first]
    if problems:
        raise UnsupportedModel(
            parts.class_name,
            f"holds weights that the installed torchao cannot take apart: {', '.join(problems)}",
            "Quantise with another configuration of torchao (see its safetensors support).",
        )
    settings = parts.settings | {"quantised": said}
    libraries = ("torchao", *parts.libraries)
    return parts._replace(tensors=tensors, settings=settings, libraries=libraries)


def skeleton(opened: Opened, options: Options) -> Skeleton:
    """The empty model, not quantised; errors as the family beneath.

    Raises
    ------
    CorruptFile
        The manifest does not say which family that is, or names what it does not hold.
    ModelError
        ``dtype`` is asked for.
    """
    if options.dtype is not None:
        raise ModelError(
            opened.label, "is quantised, so its weights cannot be cast to another type", "Leave out dtype=."
        )
    with extra(opened.name(), "quantised"):
        import torchao  # noqa: F401
    return _beneath(opened).skeleton(opened, options)


def finish(opened: Opened, skeleton: Skeleton, weights: Any, children: dict, options: Options) -> Any:
    """Put the quantised weights together, and all weights into the empty model.

    Raises
    ------
    CorruptFile
        The description does not fit what is stored.
    SkeletonMismatch
        The empty model does not fit.
    """
    said = opened.record.settings["quantised"]
    together = _Together(weights, said, f"{opened.label}/model.json")
    model = _INSIDE[said["family"]].finish(opened, skeleton, together, children, options)
    if said["family"] in _QUANTISERS and getattr(model.config, "quantization_config", None) is not None:
        with library.readable(opened.name("config.json")):
            _mark(model, said["family"])
    return model


class _Together:
    """Weights in which those that torchao quantised are whole again, as `helpers.modules.skeleton.fill` takes them."""

    def __init__(self, weights: Any, said: dict, label: str):
        self._weights, self._said, self._label = weights, said, label
        structure = weights.part.structure
        omitted = structure.get("omitted", set())
        left_out = {name for name, one in said["tensors"].items() if omitted.intersection(_inner(name, one))}
        left_out |= {name for name, first in said["ties"].items() if first in left_out}
        known = {*said["tensors"], *said["ties"]}
        changed = {
            "none": [name for name in structure["none"] if name not in known],
            "aliases": structure["aliases"] | {n: f for n, f in said["ties"].items() if n not in left_out},
            "frozen": structure["frozen"] + [name for name in said["frozen"] if name not in left_out],
        }
        if omitted:
            changed["omitted"] = omitted | left_out
        self.part = weights.part._replace(structure=structure | changed)
        self._wanted = {name: one for name, one in said["tensors"].items() if name not in left_out}

    def tensors(self, device: Any) -> dict:
        found = dict(self._weights.tensors(device))
        for name, described in self._wanted.items():
            full = stored_name(name)
            with library.readable(self._label):
                inner = {key: found.pop(key.removeprefix("."))[1] for key in _inner(name, described)}
                found[name] = "parameter", _whole(full, inner, described)
        left = {key for name, one in self._said["tensors"].items() for key in _inner(name, one)}
        return {name: held for name, held in found.items() if name not in left}


def _is_quantised(tensor):
    torchao: Any = sys.modules.get("torchao.utils")
    return torchao is not None and isinstance(tensor, torchao.TorchAOBaseTensor)


def _beneath(opened: Opened) -> ModuleType:
    said: Any = opened.record.settings.get("quantised")
    kinds = {"family": str, "tensors": dict, "ties": dict, "frozen": list}
    good = isinstance(said, dict) and {key: type(held) for key, held in said.items()} == kinds
    good = good and said["family"] in _INSIDE
    problem = _problem_with(said, opened.record) if good else "does not say what was quantised"
    if problem:
        raise CorruptFile(f"{opened.label}/model.json", problem, "Save the model again.")
    return _INSIDE[said["family"]]


def _problem_with(said, record):
    """What is wrong with the names in a description, and with a structure that is to go with it, or None."""
    tensors, structure = said["tensors"], record.structure
    for name in (*said["ties"].values(), *said["frozen"]):
        if not isinstance(name, str) or name not in tensors:
            return f"names {name!r}, which it does not say to be quantised"
    inner = {key.removeprefix(".") for name, one in tensors.items() for key in _inner(name, one)}
    entries = [entry for entry in record.entries if entry.name not in inner]
    # of integers, which cannot have a gradient; no parameters, which would have to be frozen
    entries += [Entry(name, "buffer", "uint8", (), 0) for name in tensors]
    return problem_with(structure | {"aliases": structure["aliases"] | said["ties"]}, entries)


def _without(model, quantised):
    """The same model over the same memory, the slots of its quantised weights empty."""
    shared = {id(part): part for part in reached(model) if isinstance(part, torch.Tensor)}
    try:
        twin = copy.deepcopy(model, {key: None if key in quantised else part for key, part in shared.items()})
    except Exception as error:  # of many types, from whatever has no copy; it names the class
        raise UnsupportedModel(
            f"{type(model).__module__}.{type(model).__qualname__}",
            f"is quantised and holds what cannot be copied, as its save needs it ({error})",
            "Take that off the model for the save, and put it back afterwards.",
        ) from error
    for part in twin.modules():
        vars(part).pop("extra_repr", None)  # torchao's, for printing: it holds the module that it came from
    if getattr(twin, "hf_quantizer", None) is not None:
        twin.hf_quantizer = None
        twin.is_quantized = False
    return twin


def _apart(name, tensor):
    """The inner tensors of a quantised weight by their names, and torchao's description of it as JSON."""
    from torchao.prototype.safetensors.safetensors_utils import TensorSubclassAttributeJSONEncoder

    try:  # not its flatten_tensor_state_dict, which copies every inner tensor besides
        described = json.dumps(tensor, cls=TensorSubclassAttributeJSONEncoder)
    except TypeError:  # of a kind that it does not know
        described = _described(tensor)
    prefix = _prefix(name)
    inner = {key: getattr(tensor, key.removeprefix(prefix)) for key in _inner(name, described)}
    if inner:  # JSON makes lists of tuples
        tuples = [key for key, held in _attributes(tensor).items() if type(held) is tuple]
        described = json.dumps(json.loads(described) | {"_tuples": tuples})
    return inner, described


def _attributes(tensor):
    return tensor.__tensor_flatten__()[1]


def _lost(name, tensor, inner, described):
    """What of a quantised weight would not come back, in words; "" if nothing."""
    try:
        given, found = _attributes(tensor), _attributes(_whole(stored_name(name), inner, described))
    except Exception as error:  # of many types
        return str(error)
    changed = [key for key in given if given[key] != found.get(key)]
    return f"{', '.join(changed)} would change" if changed else ""


def _described(tensor):
    """The description of an `_OPAQUE` tensor whose activations stay as they are; nothing of any other."""
    if type(tensor).__name__ != _OPAQUE or tensor.act_mapping_type is not None:
        return ""
    names = (*tensor.tensor_data_names, *tensor.optional_tensor_data_names)
    return json.dumps(
        {
            "_type": _OPAQUE,
            "_data": {"block_size": list(tensor.block_size), "shape": list(tensor.shape)},
            "_tensor_data_names": [name for name in names if getattr(tensor, name) is not None],
        }
    )


def _whole(full, inner, described):
    """A quantised weight from its inner tensors; raises what torchao raises."""
    from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict

    said = json.loads(described)
    if said["_type"] == _OPAQUE:
        from torchao.prototype.quantization.int4 import Int4OpaqueTensor

        parts = {key.removeprefix(_prefix(full)): part for key, part in inner.items()}
        whole, rest = {full: Int4OpaqueTensor(**parts, **said["_data"])}, {}
    else:
        whole, rest = unflatten_tensor_state_dict(
            inner, {"tensor_names": json.dumps([full]), full: described}
        )
    if rest or set(whole) != {full}:
        raise ValueError(f"{full} cannot be put together")
    for key in said.get("_tuples", ()):
        setattr(whole[full], key, tuple(getattr(whole[full], key)))
    return whole[full]


def _prefix(name):
    """What the names of a weight's inner tensors begin with, as torchao makes them: "net._weight_" of "net.weight"."""
    module, _, key = stored_name(name).rpartition(".")
    return f"{module}._{key}_"


def _inner(name, described):
    """The names of the inner tensors, such as "net._weight_qdata"; none where the description is none."""
    try:
        return [_prefix(name) + inner for inner in json.loads(described)["_tensor_data_names"]]
    except (TypeError, KeyError, ValueError, RecursionError):
        return []


def _rehearse_mark(path, family, name):
    """Refuse a model whose configuration its library would not read again, now and not at the next start."""
    fields = json.loads(path.read_text()) if path.is_file() else {}
    try:
        if fields.get("quantization_config"):
            _quantiser(fields["quantization_config"], family)
    except (ValueError, TypeError) as error:
        raise UnsupportedModel(
            name,
            f"was quantised through a configuration that its library writes and does not read ({error})",
            "Quantise the loaded model with torchao.quantization.quantize_(model, …) instead.",
        ) from error


def _mark(model, family):
    """Tell a model of a library what it is, as from_pretrained does."""
    quantiser = model.hf_quantizer = _quantiser(model.config.quantization_config, family)
    quantiser.validate_environment(device_map=None)
    quantiser.preprocess_model(model, device_map=None)
    quantiser.postprocess_model(model)
    if family == "diffusers":
        model.register_to_config(quantization_config=quantiser.quantization_config)


def _quantiser(config, family):
    module, name = _QUANTISERS[family]
    return getattr(importlib.import_module(module), name).from_config(config, pre_quantized=True)
