"""Modules that trip simple loaders, each a function that builds one."""

import torch
from torch import nn
from torch.nn.utils import parametrizations


class Everything(nn.Module):
    """A root parameter, a root buffer, ties, a shared part, a frozen part, a transient buffer."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(3))
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("mask", torch.ones(4, 4).tril(), persistent=False)
        self.register_buffer("unset", None)
        self.register_parameter("bias", None)
        self.embed = nn.Embedding(10, 6)
        self.head = nn.Linear(6, 10, bias=False)
        self.head.weight = self.embed.weight
        self.block = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
        self.again = self.block
        self.frozen = nn.Linear(6, 6).requires_grad_(False)

    def forward(self, x):
        return self.head(self.again(self.block(self.frozen(self.embed(x)))))


class Holder(nn.Module):
    """Tensors that are not registered: plain attributes, a list, a dictionary, a tuple."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4))
        self.register_buffer("table", torch.arange(3.0))
        self.original_table = self.table  # the same object
        self.plain = torch.linspace(0, 1, 5)
        self.listed = [self.weight, {"table": self.table}, (self.weight,)]

    def forward(self, x):
        return x * self.weight.sum() + self.plain.sum()


class SpecialParameter(nn.Parameter):
    """A subclass, as quantisation and sharding libraries define them."""


class Special(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = SpecialParameter(torch.randn(3))
        self.weight._no_weight_decay = True
        self.bias = nn.Parameter(torch.randn(3))
        self.bias._no_weight_decay = True


class Unregistered(nn.Module):
    """Parameters in containers, one of them frozen and of a class of its own, and a tensor with a gradient."""

    def __init__(self):
        super().__init__()
        self.listed = [nn.Parameter(torch.randn(3)), SpecialParameter(torch.randn(2), False)]
        self.named = {"again": self.listed[0]}
        self.learned = torch.randn(2, requires_grad=True)


class BufferAndParameter(nn.Module):
    """A buffer that is a parameter of a part, and one that is a parameter nowhere else."""

    def __init__(self):
        super().__init__()
        self.part = nn.Linear(2, 2)
        self.register_buffer("weight", self.part.weight)
        self.register_buffer("alone", nn.Parameter(torch.randn(2)))


def tied_blocks():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight, second.bias = first.weight, first.bias
    return nn.ModuleDict({"first": first, "second": second})


def mixed_modes():
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.BatchNorm1d(3))
    module[2].eval()
    return module


def channels_last():
    return nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)


def weight_norm_hook():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated, and still in many models
        return nn.utils.weight_norm(nn.Linear(4, 3))


def buffer_with_gradient():
    module = nn.Linear(2, 2)
    module.register_buffer("learned", torch.ones(2, requires_grad=True))
    return module


def transformer():
    return nn.Transformer(8, 2, 1, 1, 16, batch_first=True)


ALL = {
    "everything": Everything,
    "holder": Holder,
    "special": Special,
    "unregistered": Unregistered,
    "buffer_and_parameter": BufferAndParameter,
    "tied_blocks": tied_blocks,
    "mixed_modes": mixed_modes,
    "channels_last": channels_last,
    "weight_norm_hook": weight_norm_hook,
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(4, 3)),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 3)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(4, 4)),
    "lstm": lambda: nn.LSTM(4, 5, num_layers=2, bidirectional=True),
    "gru": lambda: nn.GRU(4, 5),
    "transformer": transformer,
    "multihead": lambda: nn.MultiheadAttention(8, 2, kdim=4, vdim=6),
    "batch_norm_3d": lambda: nn.BatchNorm3d(3),
    "group_norm": lambda: nn.GroupNorm(2, 4),
    "no_tensors": nn.ReLU,
    "buffer_with_gradient": buffer_with_gradient,
    "integers": lambda: nn.ParameterList([nn.Parameter(torch.arange(4), requires_grad=False)]),
    "nested_parameters": lambda: nn.ParameterDict({"a": torch.ones(2), "b": torch.zeros(3)}),
}
