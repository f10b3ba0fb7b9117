"""The layers that PEFT puts into a model: configured, put on empty, looked at."""

import copy
from pathlib import Path
from typing import Any

from helpers.errors import CorruptFile, UnsupportedModel
from helpers.families import library
from helpers.saved.opened import Opened


def folder_of(number: int) -> str:
    """Where an adapter's configuration is: an adapter may have a name that no file can have."""
    return f"adapter-{number}"


def write_config(config: Any, folder: Path, number: int, name: str) -> None:
    """Write the configuration of an adapter.

    Raises
    ------
    UnsupportedModel
        The adapter is of a kind that is not supported, or PEFT does not read its configuration again, so that
        the saved model could not be loaded.
    """
    import peft

    remedy = (
        "Keep the adapters in PEFT's own format, by save_pretrained() of the model, beside the saved base."
    )
    if reason := refusal(config):
        raise UnsupportedModel(name, f"has adapters that {reason}, which is not supported", remedy)
    place = folder / folder_of(number)
    config.save_pretrained(place)
    try:
        peft.PeftConfig.from_pretrained(str(place))
    except Exception as error:  # of many types, as the checks of each kind of adapter say it
        remedy = "Make the adapter with settings that its configuration can be read back from."
        said = f"has an adapter whose configuration PEFT writes and does not read again ({error})"
        raise UnsupportedModel(name, said, remedy) from error


def read_config(opened: Opened, number: int) -> Any:
    """The configuration of an adapter.

    Raises
    ------
    CorruptFile
        It cannot be read, or it asks for more than adapters.
    """
    import peft

    folder = folder_of(number)
    library.read_json(opened.home, opened.name(), f"{folder}/adapter_config.json")
    with library.readable(opened.name(folder)):
        config = peft.PeftConfig.from_pretrained(str(opened.home / folder))
    if reason := refusal(config):
        raise CorruptFile(
            opened.name(folder), f"asks for adapters that {reason}, which is not supported", "Save it anew."
        )
    return config


def refusal(config: Any) -> str:
    """What adapters of a PEFT configuration do that is not supported; "" if nothing."""
    kind = getattr(config.peft_type, "value", config.peft_type)
    if config.is_prompt_learning:
        return f"learn a prompt instead of layers in the base ({kind})"
    if kind == "XLORA" or getattr(config, "shadow_model", "mirror") != "mirror":
        return f"take in other models by paths or names of their own ({kind})"
    if kind == "SHIRA":
        return f"compute anew which of the base's numbers they change ({kind})"
    if getattr(config, "megatron_config", None):
        return "are made by Megatron, whose module PEFT imports by a name"
    return ""


def put_on(base: Any, settings: dict, configs: dict) -> Any:
    """A base with empty adapters, switched on and off as they were.

    Parameters
    ----------
    base : transformers.PreTrainedModel or diffusers.ModelMixin
        Changed in place.
    settings : dict
        ``wrapper``: the class of PEFT around it, "" for none; ``active``: names; ``named``: whether PEFT notes the
        active one by its name, not by a list; ``disabled``.
    configs : dict of str to peft.PeftConfig
        By the name of the adapter.

    Raises
    ------
    Exception
        What PEFT raises, where they do not belong together.
    """
    import peft

    if not configs or not {*settings["active"]} <= {*configs}:
        raise ValueError("there are no adapters, or active ones that are none")
    (first, config), *others = [(name, _uninitialised(config)) for name, config in configs.items()]
    if settings["wrapper"]:
        cls = getattr(peft, settings["wrapper"])
        if not (isinstance(cls, type) and issubclass(cls, peft.PeftModel)):
            raise TypeError(f"peft.{settings['wrapper']} is no PeftModel")
        model = cls(base, config, adapter_name=first, autocast_adapter_dtype=False)
        for name, other in others:
            model.add_adapter(name, other, autocast_adapter_dtype=False)
        first = settings["active"][0]
        model.base_model.set_adapter(first if settings.get("named") else settings["active"])
        model.active_adapter = first
        if settings["disabled"]:
            model.base_model.disable_adapter_layers()
    else:
        model = base
        for name, other in [(first, config), *others]:
            model.add_adapter(other, name)
        model.set_adapter(settings["active"])
        if settings["disabled"]:
            model.disable_adapters()
    model.peft_config.update(configs)
    return model


def _uninitialised(config):
    """A configuration without its way to begin, some of which compute for minutes: the tensors are there."""
    copied = copy.copy(config)
    if hasattr(copied, "init_lora_weights"):
        copied.init_lora_weights = False
    return copied


def active(model: Any) -> list[str]:
    """The names of the adapters that are switched on."""
    names = model.active_adapters
    return list(names() if callable(names) else names)


def is_named(model: Any) -> bool:
    """Whether PEFT notes the active adapter by its name, as after ``set_adapter("a")``, not by a list of one."""
    return isinstance(getattr(getattr(model, "base_model", None), "active_adapter", None), str)


def states(model: Any) -> dict[str, tuple]:
    """What PEFT's layers are switched to, by the names of their modules."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    found = {}
    for place, part in model.named_modules():
        if isinstance(part, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            merged, scaling = getattr(part, "merged_adapters", []), dict(getattr(part, "scaling", {}))
            found[place] = list(part.active_adapters), part.disable_adapters, list(merged), scaling
    return found
