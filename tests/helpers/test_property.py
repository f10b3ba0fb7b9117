"""Any module that can be generated comes back exactly, or is refused with the place that cannot be kept."""

import functools
import tempfile
from pathlib import Path

import hidden
import pytest
import torch
from equality import assert_same_module, assert_same_tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers import deserialise, serialise
from helpers.errors import UnsupportedModel
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


def _closure(tensor):
    return lambda x: x + tensor


HIDERS = [  # ways to keep a tensor where a state dict does not look
    hidden.Plain,
    hidden.Locked,
    _closure,
    lambda tensor: [0, hidden.Plain(tensor)],
    lambda tensor: {"x": [(hidden.Plain(tensor),)]},
    lambda tensor: functools.partial(torch.add, tensor),
    lambda tensor: functools.partial(torch.add, other=[{tensor}]),
    lambda tensor: hidden.Plain(tensor).shifted,
    lambda tensor: tensor.untyped_storage(),
]
CONTAINERS = [
    lambda tensor: [tensor],
    lambda tensor: [None, "x", (tensor, 1.5, [tensor])],
    lambda tensor: {"x": tensor, 3: (tensor,), ("y",): 1},
]
VIEWS = [
    lambda tensor: tensor.permute(tuple(reversed(range(tensor.dim())))),
    lambda tensor: tensor[1:],
    lambda tensor: tensor[..., ::2],
    lambda tensor: tensor.expand(2, *tensor.shape),
]
KINDS = ["parameter", "buffer", "transient", "none", "module", "tie", "tied buffer", "attribute", "container"]


@st.composite
def modules(draw, depth=2, more=()):
    """Nesting, shared submodules, ties, frozen parameters, buffers of both kinds, None entries, containers."""
    module = nn.Module()
    pool = []  # submodules and parameters to share
    for name in draw(st.lists(NAMES, unique=True, max_size=4)):
        kind = draw(st.sampled_from([*KINDS, *more]))
        parameters = [part for part in pool if isinstance(part, nn.Parameter)]
        if kind == "module" and depth:
            child = draw(modules(depth=depth - 1, more=more))
            shared = [part for part in pool if isinstance(part, nn.Module)]
            module.add_module(name, draw(st.sampled_from([child, *shared])))
            pool += [module._modules[name], *module._modules[name]._parameters.values()]
        elif kind == "tie" and parameters:
            module.register_parameter(name, draw(st.sampled_from(parameters)))
        elif kind == "tied buffer" and parameters:
            tied = draw(st.sampled_from(parameters))
            module.register_buffer(name, tied, persistent=draw(st.booleans()))
        elif kind == "none":
            draw(st.sampled_from([module.register_parameter, module.register_buffer]))(name, None)
        elif kind in ("buffer", "transient"):
            module.register_buffer(name, draw(learning()), persistent=kind == "buffer")
        elif kind == "attribute":
            setattr(module, name, draw(learning(parameters=False)))
        elif kind == "container":
            setattr(
                module,
                name,
                draw(st.sampled_from(CONTAINERS))(draw(st.one_of(learning(), _one_of(parameters)))),
            )
        elif kind == "hidden":
            vars(module)[name] = draw(st.sampled_from(HIDERS))(draw(tensors()))
        elif kind == "hook":
            hook = draw(st.sampled_from([module.register_forward_hook, module.register_state_dict_pre_hook]))
            hook(_closure(draw(tensors())))
        elif kind == "view" and (large := [p for p in parameters if p.dim() and p.numel()]):
            view = draw(st.sampled_from(VIEWS))(draw(st.sampled_from(large)).detach())
            module.register_buffer(name, view)
        else:
            tensor = draw(tensors())
            differentiable = tensor.is_floating_point() or tensor.is_complex()
            module.register_parameter(name, nn.Parameter(tensor, differentiable and draw(st.booleans())))
            pool.append(module._parameters[name])
    module.train(draw(st.booleans()))
    return module


@st.composite
def learning(draw, parameters=True):
    """As `tensors`, some with a gradient, some a parameter wherever it is kept."""
    tensor = draw(tensors())
    learns = (tensor.is_floating_point() or tensor.is_complex()) and draw(st.booleans())
    if parameters and draw(st.booleans()):
        return nn.Parameter(tensor, learns)
    return tensor.requires_grad_(learns)


def _one_of(items):
    return st.sampled_from(items) if items else tensors()


def blank(module, made=None):
    """The same structure with other values, as a constructor would build it."""
    made = {} if made is None else made
    if id(module) in made:
        return made[id(module)]
    copy = made[id(module)] = nn.Module()
    for key, parameter in module._parameters.items():
        copy.register_parameter(key, _emptied(parameter, made))
    for key, buffer in module._buffers.items():
        persistent = key not in module._non_persistent_buffers_set
        copy.register_buffer(key, _emptied(buffer, made), persistent)
    for key, child in module._modules.items():
        copy.add_module(key, blank(child, made))
    for key, held in vars(module).items():
        if isinstance(held, (list, dict)) and not key.startswith("_"):
            setattr(copy, key, _emptied(held, made))
    return copy


def _emptied(held, made):
    if isinstance(held, nn.Parameter):
        if id(held) not in made:
            made[id(held)] = nn.Parameter(torch.empty_like(held), held.requires_grad)
        return made[id(held)]
    if isinstance(held, torch.Tensor):
        return torch.empty_like(held)
    if isinstance(held, dict):
        return {key: _emptied(part, made) for key, part in held.items()}
    return type(held)(_emptied(part, made) for part in held) if isinstance(held, (list, tuple)) else held


def contents(held):
    """All tensors in containers, in order."""
    if isinstance(held, torch.Tensor):
        return [held]
    if isinstance(held, dict):
        held = held.values()
    return [t for part in held for t in contents(part)] if hasattr(held, "__iter__") and held != "x" else []


def assert_comes_back_equal(module, mapped, verify):
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "m"
        serialise(module, path, progress=False)
        loaded = deserialise(path, skeleton=lambda: blank(module), mapped=mapped, verify=verify, device="cpu")
        assert_same_module(module, loaded)
        for (name, part), other in zip(module.named_modules(), loaded.modules(), strict=True):
            for key, held in vars(part).items():
                if isinstance(held, torch.Tensor) or (type(held) in (list, dict) and not key.startswith("_")):
                    assert key in vars(other), f"{name}.{key} is lost"
                    for one, another in zip(contents(held), contents(vars(other)[key]), strict=True):
                        assert_same_tensor(f"{name}.{key}", one, another)
    return loaded


@settings(max_examples=150)
@given(modules(), st.booleans(), st.booleans())
def test_any_module_comes_back_equal(module, mapped, verify):
    assert_comes_back_equal(module, mapped, verify)


@settings(max_examples=150)
@given(modules(more=["hidden", "hook", "hidden", "hook"]))
def test_a_module_with_hidden_tensors_is_refused_with_each_place(module):
    places = {}  # of each module that hides something: the names that it may be called by
    for prefix, part in module.named_modules(remove_duplicate=False):
        prefix += "." if prefix else ""
        own = {key: held for key, held in vars(part).items() if key not in vars(nn.Module())}
        for key in ("_forward_hooks", "_state_dict_pre_hooks"):
            own[key] = hidden.Plain(None) if vars(part)[key] else None
        for key, held in own.items():
            odd = held is not None and type(held) not in (torch.Tensor, dict, list)
            if odd or any(isinstance(inner, hidden.Plain) for inner in walk(held)):
                places.setdefault((id(part), key), []).append(prefix + key)
    if not places:
        assert_comes_back_equal(module, True, False)
        return
    with tempfile.TemporaryDirectory() as folder, pytest.raises(UnsupportedModel) as error:
        serialise(module, Path(folder) / "m", progress=False)
    assert all(any(name in str(error.value) for name in names) for names in places.values())


def walk(held):
    parts = held.values() if isinstance(held, dict) else held if isinstance(held, (list, tuple)) else ()
    return [held, *(each for part in parts for each in walk(part))]


@settings(max_examples=150)
@given(modules(more=["view", "view", "view"]), st.booleans())
def test_views_come_back_as_views_or_are_refused(module, mapped):
    try:
        loaded = assert_comes_back_equal(module, mapped, False)
    except UnsupportedModel as error:
        refused = str(error)
    else:
        refused = None
    if refused:
        assert "(overlaps " in refused
        return
    state, again = module.state_dict(), loaded.state_dict()
    for one in state:
        for other in state:
            if state[one].numel() and state[other].numel() and touch(state[one], state[other]):
                before, after = (s[one].data_ptr() - s[other].data_ptr() for s in (state, again))
                assert before == after, (one, other)


def touch(one, other):
    """Whether two tensors share an element."""
    return not addresses(one).isdisjoint(addresses(other))


def addresses(tensor):
    found = {tensor.data_ptr()}
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        found = {place + n * stride * tensor.itemsize for place in found for n in range(size)}
    return found
