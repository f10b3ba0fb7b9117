"""A base model with PEFT adapters: saved as a reference to its saved base, and the adapters' own tensors.

All variants of one base on a machine map the same file, so that its pages are in memory once.
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any

from helpers.errors import CorruptFile, SkeletonMismatch, UnsupportedModel, extra
from helpers.families import (
    Parts,
    base_model,
    base_settings,
    by_name,
    diffusers,
    generation,
    library,
    peft_layers,
    transformers,
)
from helpers.format.selection import Part, select
from helpers.modules.problems import problem_with
from helpers.modules.skeleton import Skeleton, capture_rehearsed, fill
from helpers.modules.structure import attributes, blank, slots, value
from helpers.modules.views import same_bytes
from helpers.options import Options
from helpers.saved.opened import Opened
from helpers.timeline import phase
from helpers.weights.tensors import entries_of

_BETWEEN = {"base_layer", "original_module"}  # what PEFT puts between a layer's name and its own tensors
_KINDS = {
    "wrapper": str,
    "adapters": list,
    "active": list,
    "disabled": bool,
    "names": dict,
    "structure": dict,
}


def owns(model: object) -> bool:
    """Whether the object is a model of transformers or diffusers that carries adapters of PEFT."""
    return _base_of(model) is not None


def save(model: Any, folder: Path, trusted: Any) -> Parts:
    """Write where the base is and how the adapters are configured, and take the adapters' tensors.

    Raises
    ------
    UnsupportedModel
        The base is no saved model, or no longer what was saved; or the adapters are of a kind that is
        not supported, or in a state that their configurations do not build again (merged, scaled by hand); or the
        base has settings that are not kept.
    """
    base = _base_of(model)
    name = f"peft.{type(model).__name__}" if model is not base else f"{library.name_of(type(model))}"
    configs, states = dict(model.peft_config), peft_layers.states(model)
    for number, config in enumerate(configs.values()):
        peft_layers.write_config(config, folder, number, name)
    opened = base_model.saved(base, name)
    settings = {
        "wrapper": "" if model is base else type(model).__name__,
        "adapters": list(configs),
        "active": peft_layers.active(model),
        "named": peft_layers.is_named(model),
        "disabled": all(off for _, off, *_ in states.values()),
    }
    build = functools.cache(lambda: peft_layers.put_on(_empty(opened), settings, configs))
    tensors, structure = capture_rehearsed(model, name, build)
    again = peft_layers.states(built := build())
    if differing := [place for place, state in states.items() if state != again.get(place)]:
        raise UnsupportedModel(
            name,
            f"has adapters that are merged, scaled or switched one by one: {', '.join(differing)}",
            "Undo that before the save (unmerge_adapter, set_adapter), or save what merge_and_unload gives.",
        )
    names = _of_the_base(tensors, opened, _prefix(model, base), name)
    (folder / base_model.NAME).write_text(json.dumps(base_model.reference(opened, folder), indent=1) + "\n")
    generation.write(base, folder)
    own = {key: held for key, held in tensors.items() if key not in names}
    settings |= {"names": names, "structure": structure}
    settings["base"] = base_settings.changes(base, _base_of(built), name)
    libraries = ("peft", *opened.record.versions.keys() - {"python"})
    return Parts(name, libraries, own, blank(), settings, {}, outside=(opened.label,))


def elsewhere(opened: Opened, options: Options) -> dict[str, Opened]:
    """The saved base under the name "base"; errors as `helpers.families.base_model.find`.

    Raises
    ------
    SkeletonMismatch
        ``only`` is asked for.
    """
    if options.only is not None:
        raise SkeletonMismatch(
            opened.label, "has adapters on a base and is loaded whole", "Leave out only=, or load the base."
        )
    return {"base": base_model.find(opened, options)}


def skeleton(opened: Opened, options: Options) -> None:
    """Nothing yet: the adapters are put on the loaded base."""
    with phase("import the model class"), extra(opened.name(), "adapters"):
        import peft  # noqa: F401


def finish(opened: Opened, skeleton: None, weights: Any, children: dict, options: Options) -> Any:
    """Put empty adapters on the base, and their tensors into them; set in the base what was set anew.

    Raises
    ------
    CorruptFile
        What the manifest says of the adapters cannot be true, or a configuration cannot be read.
    SkeletonMismatch
        The configurations do not build what the file holds.
    """
    settings, base, label = opened.record.settings, children["base"], opened.name()
    places = (*slots(base), *attributes(base))
    tensors = {name: (kind, value(owner, key, kind)) for name, owner, key, kind in places}
    whole = _Whole(weights, _renamed(opened, tensors), settings["structure"])
    whole.check(f"{opened.label}/model.json")
    configs = {
        name: peft_layers.read_config(opened, number) for number, name in enumerate(settings["adapters"])
    }

    def build():
        with library.readable(label):
            return peft_layers.put_on(base, settings, configs)

    model = fill(Skeleton(functools.cache(build), label), whole, options)
    base_settings.set_again(base, opened, options)
    generation.read(base, opened)
    return model


class _Whole:
    """The tensors of the base and of the adapters together, as `helpers.modules.skeleton.fill` takes weights."""

    def __init__(self, weights: Any, tensors: dict, structure: dict):
        self._weights, self._tensors = weights, tensors
        self.part: Part = weights.part._replace(structure=structure)
        for name, (kind, tensor) in tensors.items():
            if kind == "parameter":  # the base may have been saved while it was still trained
                tensor.requires_grad_(name not in structure.get("frozen", ()))

    def tensors(self, device: Any) -> dict:
        return self._tensors | self._weights.tensors(device)

    def check(self, label: str) -> None:
        entries = [*entries_of(self._tensors), *self.part.entries]
        if problem := problem_with(self.part.structure, entries):
            raise CorruptFile(label, problem, "Save the model again.")


def _base_of(model):
    """The base of a model with adapters, if it is one of the two libraries' own; else None."""
    peft: Any = sys.modules.get("peft")
    if peft is None:
        return None
    if isinstance(model, peft.PeftModel):
        base = model.get_base_model()
    else:
        base = model if getattr(model, "_hf_peft_config_loaded", False) else None  # add_adapter, load_adapter
    return base if transformers.owns(base) or diffusers.owns(base) else None


def _empty(opened):
    """The empty base."""
    return by_name(opened.record.family, opened.label).skeleton(opened, Options()).model


def _prefix(model, base):
    """What stands before the names of the base within the model."""
    place = next(place for place, part in model.named_modules() if part is base)
    return f"{place}." if place else ""


def _of_the_base(tensors, opened, prefix, name):
    """What each tensor that the saved base holds is called there, by its name in the whole model."""
    weights = opened.weights(Options(mapped=True))
    weights.begin(select(opened.record, None))
    stored, ties = weights.tensors("cpu"), opened.record.structure["aliases"]
    names, changed = {}, []
    for outer, (_, tensor) in tensors.items():
        inner = ".".join(part for part in outer.removeprefix(prefix).split(".") if part not in _BETWEEN)
        inner = ties.get(inner, inner)
        if outer.startswith(prefix) and inner in stored:
            names[outer] = inner
            if not same_bytes(tensor, stored[inner][1]):
                changed.append(inner)
    if changed:
        raise UnsupportedModel(
            name,
            f"has a base that is not what is saved in {opened.label}: {', '.join(changed)}",
            "Undo the changes (unmerge_adapter), or save the changed base and put the adapters on that.",
        )
    return names


def _renamed(opened, tensors):
    """The tensors of the base under their names in the whole model."""
    settings = opened.record.settings
    if {key: type(settings.get(key)) for key in _KINDS} == _KINDS:
        try:
            return {outer: tensors[inner] for outer, inner in settings["names"].items()}
        except (KeyError, TypeError):
            pass
    raise CorruptFile(
        f"{opened.label}/model.json", "says of the adapters what cannot be true", "Save the model again."
    )
