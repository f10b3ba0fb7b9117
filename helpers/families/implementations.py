"""Which code each part of a transformers model computes attention and experts with.

A model has a configuration for each of its parts, and some parts keep a copy of their own. Each says its
implementation, which config.json does not hold: it is read here while saving and set again while loading.
"""

from collections.abc import Iterator
from typing import Any

_FIELDS = {  # what every machine has; others, such as flash attention, are chosen anew
    "_attn_implementation_internal": ("eager", "sdpa", None),
    "_experts_implementation_internal": ("eager", "batched_mm", "grouped_mm", None),
}


def read(model: Any) -> dict:
    """The implementations of each part of a model, by the name of its module and of its configuration."""
    return {place: [getattr(c, field, None) for field in _FIELDS] for place, c in configurations(model)}


def set_before(config: Any, saved: dict) -> None:
    """Set what the parts of a configuration use, before a model is built of it."""
    for place, part in parts(config):
        _set(part, saved.get(place))


def set_after(model: Any, saved: dict) -> None:
    """Set it in the copies too that parts of the model have made for themselves."""
    for place, part in configurations(model):
        _set(part, saved.get(place))


def parts(config: Any) -> Iterator[tuple[str, Any]]:
    """The configuration of a model and of each part within it, with its place, as `configurations` names it."""
    yield from _of_config(config, ":", set())


def configurations(model: Any) -> Iterator[tuple[str, Any]]:
    """Each configuration that a part of a model has, with its place: the names of its module and of itself."""
    seen = set()
    for name, module in model.named_modules():
        yield from _of_config(vars(module).get("config"), f"{name}:", seen)


def _of_config(config, place, seen) -> Iterator:
    if hasattr(config, "_attn_implementation_internal") and id(config) not in seen:
        seen.add(id(config))
        yield place, config
        for key, part in vars(config).items():
            yield from _of_config(part, f"{place}.{key}", seen)


def _set(config, values):
    for (field, everywhere), value in zip(_FIELDS.items(), values or (), strict=False):
        if value in everywhere:
            setattr(config, field, value)
