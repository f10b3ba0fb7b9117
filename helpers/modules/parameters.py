"""A parameter with new data, of the kind and with the marks of another."""

from typing import Any

import torch
from torch import nn


def parameter_like(old: Any, tensor: torch.Tensor, requires_grad: bool) -> torch.Tensor:
    """A parameter over the data of ``tensor``, as ``old`` is one (a plain one where that is None)."""
    if old is None or type(old) is nn.Parameter:
        parameter = nn.Parameter(tensor, requires_grad=requires_grad)
    else:  # a subclass, as some libraries have
        parameter = torch.Tensor._make_subclass(type(old), tensor, requires_grad)
    if old is not None:
        vars(parameter).update(vars(old))  # marks such as _no_weight_decay
    return parameter
