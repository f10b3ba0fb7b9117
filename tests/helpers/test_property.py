"""Any module that can be generated comes back exactly."""

import tempfile
from pathlib import Path

import torch
from equality import assert_same_module
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from helpers import deserialise, serialise
from helpers.format.layout import DTYPES

NAMES = st.sampled_from(["a", "b", "weight", "bias", "x_1", "ünïcode", "0"])
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def tensors(draw):
    """Any type, any shape (0-d and empty too), any strides, any bits."""
    dtype = getattr(torch, draw(st.sampled_from(sorted(DTYPES))))
    shape = draw(SHAPES)
    count = torch.Size(shape).numel()
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    size = DTYPES[str(dtype).removeprefix("torch.")][1]
    top = 2 if dtype == torch.bool else 256  # a bool of neither 0 nor 1 is no bool
    raw = torch.randint(0, top, (count * size,), dtype=torch.uint8, generator=generator)
    tensor = (raw.view(dtype) if count else torch.empty(0, dtype=dtype)).reshape(shape)
    return draw(st.sampled_from([lambda t: t, _transposed, _viewed, _expanded]))(tensor)


def _transposed(tensor):
    return tensor.permute(tuple(reversed(range(tensor.dim()))))


def _viewed(tensor):
    """Every second element of a larger memory."""
    larger = torch.empty((*tensor.shape, 2), dtype=tensor.dtype)
    larger[..., 0] = tensor
    return larger[..., 0]


def _expanded(tensor):
    return tensor.expand(2, *tensor.shape)


@st.composite
def modules(draw, depth=2):
    """Nesting, shared submodules, ties, frozen parameters, buffers of both kinds, None entries."""
    module = nn.Module()
    pool = []  # submodules and parameters to share
    for name in draw(st.lists(NAMES, unique=True, max_size=4)):
        kind = draw(
            st.sampled_from(["parameter", "buffer", "transient", "none", "module", "tie", "attribute"])
        )
        if kind == "module" and depth:
            child = draw(modules(depth=depth - 1))
            shared = [part for part in pool if isinstance(part, nn.Module)]
            module.add_module(name, draw(st.sampled_from([child, *shared])))
            pool += [module._modules[name], *module._modules[name]._parameters.values()]
        elif kind == "tie" and (parameters := [p for p in pool if isinstance(p, nn.Parameter)]):
            module.register_parameter(name, draw(st.sampled_from(parameters)))
        elif kind == "none":
            draw(st.sampled_from([module.register_parameter, module.register_buffer]))(name, None)
        elif kind in ("buffer", "transient"):
            module.register_buffer(name, draw(tensors()), persistent=kind == "buffer")
        elif kind == "attribute":
            setattr(module, name, draw(tensors()))
        else:
            tensor = draw(tensors())
            differentiable = tensor.is_floating_point() or tensor.is_complex()
            module.register_parameter(name, nn.Parameter(tensor, differentiable and draw(st.booleans())))
            pool.append(module._parameters[name])
    module.train(draw(st.booleans()))
    return module


def blank(module, made=None):
    """The same structure with other values, as a constructor would build it."""
    made = {} if made is None else made
    if id(module) in made:
        return made[id(module)]
    copy = made[id(module)] = nn.Module()
    for key, parameter in module._parameters.items():
        if parameter is not None and id(parameter) not in made:
            made[id(parameter)] = nn.Parameter(torch.empty_like(parameter), parameter.requires_grad)
        copy.register_parameter(key, None if parameter is None else made[id(parameter)])
    for key, buffer in module._buffers.items():
        persistent = key not in module._non_persistent_buffers_set
        copy.register_buffer(key, None if buffer is None else torch.empty_like(buffer), persistent)
    for key, child in module._modules.items():
        copy.add_module(key, blank(child, made))
    return copy


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(modules(), st.booleans(), st.booleans())
def test_any_module_comes_back_equal(module, mapped, verify):
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "m"
        serialise(module, path, progress=False)
        loaded = deserialise(path, skeleton=lambda: blank(module), mapped=mapped, verify=verify, device="cpu")
        assert_same_module(module, loaded)
        for (name, part), other in zip(module.named_modules(), loaded.modules(), strict=True):
            for key, held in vars(part).items():
                if isinstance(held, torch.Tensor):
                    assert key in vars(other), f"{name}.{key} is lost"
