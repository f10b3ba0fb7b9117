"""Modules that keep tensors where a state dict does not look: each with the place to be named."""

import functools
import threading
import warnings
from collections import OrderedDict

import torch
from torch import nn
from torch.nn.utils import parametrizations, prune


class Plain:
    """Any object that is no module."""

    def __init__(self, table):
        self.table = table

    def shifted(self, x):
        return x + self.table


class Slotted:
    __slots__ = ("table",)


class Locked(Plain):
    """Cannot be pickled."""

    def __init__(self, table):
        super().__init__(table)
        self.lock = threading.Lock()

    def __reduce_ex__(self, protocol):
        raise RuntimeError("not this one")


class Extra(nn.Linear):
    """Adds to the state dict what it makes at that moment."""

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "scale"] = torch.ones(1)


class Bank(nn.Module):
    """Tensors in containers, some under two names."""

    def __init__(self, listed=True):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.again = torch.arange(4.0)
        self.listed = [torch.ones(3), self.again, self.weight] if listed else []
        self.by_name = {"deep": [(1, self.again)] if listed else [], 3: torch.ones(1, dtype=torch.int8)}
        self.pair = (torch.zeros(2), torch.ones(2))
        self.same_pair = self.pair


def tensors_of(bank):
    return [bank.weight, bank.again, *bank.listed, bank.by_name["deep"][0][1], bank.by_name[3], *bank.pair]


def _linear(**held):
    module = nn.Linear(2, 2)
    for name, value in held.items():
        setattr(module, name, value)
    return module


def _hooked(hook):
    module = nn.Sequential(nn.Linear(2, 2))
    module[0].register_forward_hook(hook)
    return module


def _beside_an_empty_cell():
    table = torch.ones(2)

    def shift(x):
        return x + table + later

    if table is None:
        later = 1  # never: the function's cell for it stays empty
    return shift


def _closure():
    table = torch.ones(2)
    return lambda module, inputs, output: output + table


def _slotted():
    held = Slotted()
    held.table = torch.ones(2)
    return _linear(held=held)


def _cached():
    @functools.lru_cache
    def table(size):
        return torch.ones(size)

    table(2)
    return _linear(table=table)


def _generator():
    table = torch.ones(2)
    yield table
    yield table


def _started():
    numbers = _generator()
    next(numbers)
    return _linear(numbers=numbers)


def _quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still in use
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 4)), {nn.Linear})


def _scripted(function=torch.jit.script):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function()


def _local_class():
    table = torch.ones(2)

    class Local(nn.Module):
        def forward(self, x):
            return x + table

    return nn.Sequential(Local())


def _marked():
    module = nn.Linear(2, 2)
    module.weight.importance = torch.ones(2)
    return module


def _gradient_hook():
    module, mask = nn.Linear(2, 2), torch.ones(2)
    module.bias.register_hook(lambda gradient: gradient * mask)
    return module


REFUSED = {  # how to build it, and the name of the place
    "object": (lambda: nn.Sequential(_linear(held=Plain(torch.ones(2)))), "0.held.table"),
    "objects in a list": (lambda: _linear(held=[1, Plain(torch.ones(2))]), "held.1.table"),
    "object that cannot be pickled": (lambda: _linear(held=Locked(torch.ones(2))), "held.table"),
    "slots": (_slotted, "held.0"),
    "ordered dictionary": (lambda: _linear(held=OrderedDict(a=torch.ones(2))), "held.a"),
    "set": (lambda: _linear(held={torch.ones(2)}), "held.0"),
    "closure of a hook": (lambda: _hooked(_closure()), "0._forward_hooks"),
    "closure beside an empty one": (lambda: _linear(later=_beside_an_empty_cell()), "later.table"),
    "partial": (lambda: _linear(shift=functools.partial(torch.add, torch.ones(2))), "shift.2.0"),
    "bound method": (lambda: _linear(shift=Plain(torch.ones(2)).shifted), "shift.1.table"),
    "built-in method": (lambda: _linear(shift=torch.ones(2).add), "shift.0"),
    "cache of a function": (_cached, "table"),
    "generator": (_started, "numbers"),
    "class made in a function": (_local_class, "0"),
    "mark of a parameter": (_marked, "weight.importance"),
    "hook of a parameter": (_gradient_hook, "bias"),
    "memory": (lambda: _linear(raw=torch.ones(2).untyped_storage()), "raw"),
    "unregistered module": (lambda: _linear(teacher=[nn.Linear(2, 2)]), "teacher.0.weight"),
    "packed parameters": (_quantised, "0._packed_params._packed_params"),
    "scripted": (lambda: _scripted(lambda: torch.jit.script(nn.Linear(2, 2))), "the module itself"),
    "scripted part": (lambda: nn.Sequential(_scripted(lambda: torch.jit.script(nn.Linear(2, 2)))), "0"),
    "traced": (lambda: _scripted(lambda: torch.jit.trace(nn.Linear(2, 2), torch.ones(2))), "the module itself"),
    "traced function": (lambda: _linear(f=_scripted(lambda: torch.jit.trace(torch.sin, torch.ones(2)))), "f"),
    "state dict": (lambda: nn.Sequential(Extra(2, 2)), "0.scale"),
}  # fmt: skip


def _trained():
    module = nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 2))
    module(torch.ones(3, 2))[0].sum().backward()
    return module


def _used(make):
    module = nn.Sequential(make(nn.Linear(2, 2)))
    module(torch.ones(3, 2)).sum().backward()
    return module


def _offloaded():
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    return add_hook_to_module(nn.Linear(2, 2), AlignDevicesHook(execution_device="cpu"))


HARMLESS = {
    "gradients": _trained,
    "weight norm": lambda: _used(parametrizations.weight_norm),
    "orthogonal": lambda: _used(parametrizations.orthogonal),
    "pruned": lambda: _used(lambda module: prune.l1_unstructured(module, "weight", 1)),
    "hook without tensors": lambda: _hooked(lambda module, inputs, output: None),
    "hook of accelerate": _offloaded,
    "compiled": lambda: torch.compile(nn.Linear(2, 2)),
    "operators and modules": lambda: _linear(op=torch.ops.aten.mm, f=torch.nn.functional.max_pool2d, torch=torch),
    "lock and generator": lambda: _linear(lock=threading.Lock(), random=torch.Generator(), numbers=_generator()),
    "itself": lambda: _linear(held=Plain(None)).apply(lambda module: vars(module).update(me=module, all=[module])),
}  # fmt: skip
