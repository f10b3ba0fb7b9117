"""What "equal to what was saved" means, as one assertion used by every test."""

import torch
from torch.nn.utils.parametrize import type_before_parametrizations


def bits(tensor):
    """The tensor's bytes, so that NaN equals NaN and -0.0 differs from 0.0."""
    plain = tensor.detach()
    direct = plain.layout == torch.strided and plain.device.type == "cpu" and plain.is_contiguous()
    if not direct or plain.is_conj() or plain.is_neg():
        plain = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(plain)
    flat = plain.reshape(-1)
    # one element, or none, counts as contiguous whatever its stride, which a view as bytes refuses
    return flat.as_strided(flat.shape, (1,)).view(torch.uint8)


def assert_same_tensor(name, one, other):
    assert one.dtype == other.dtype, f"{name}: {one.dtype} became {other.dtype}"
    assert one.shape == other.shape, f"{name}: {one.shape} became {other.shape}"
    assert torch.equal(bits(one), bits(other)), f"{name}: values differ"


def unregistered(module):
    """The tensors that a module and its parts hold as attributes and in containers there, by name."""
    found, own = {}, vars(torch.nn.Module())
    level = [(f"{prefix}.", vars(part), own) for prefix, part in module.named_modules()]
    seen = set()
    while level:
        prefix, place, hidden = level.pop()
        for key, held in place.items() if isinstance(place, dict) else enumerate(place):
            if key in hidden or id(held) in seen:
                continue
            if isinstance(held, torch.Tensor):
                found[f"{prefix}{key}".removeprefix(".")] = held
            elif type(held) in (list, tuple, dict):
                seen.add(id(held))
                level.append((f"{prefix}{key}.", held, ()))
    return found


def ties(module):
    """Groups of names that are one object, whether it is a parameter here, a buffer there or not registered."""
    groups = {}
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for name, tensor in (*named, *unregistered(module).items()):
        groups.setdefault(id(tensor), []).append(name)
    return sorted(sorted(names) for names in groups.values())


def assert_same_module(one, other):
    """Class, tensors to the bit, registered or not, ties, buffers, persistence, frozen flags and modes."""
    # parametrised modules get a class of their own for each object
    assert type_before_parametrizations(one) is type_before_parametrizations(other)
    state, loaded = one.state_dict(), other.state_dict()
    assert list(state) == list(loaded)
    for name in state:
        assert_same_tensor(name, state[name], loaded[name])
    assert [n for n, _ in one.named_parameters()] == [n for n, _ in other.named_parameters()]
    assert ties(one) == ties(other)
    parameters = dict(other.named_parameters(remove_duplicate=False))
    for name, parameter in one.named_parameters(remove_duplicate=False):
        assert isinstance(parameters[name], torch.nn.Parameter)
        assert_same_tensor(name, parameter, parameters[name])
        assert parameter.requires_grad == parameters[name].requires_grad, name
    buffers = dict(other.named_buffers(remove_duplicate=False))
    assert list(buffers) == [n for n, _ in one.named_buffers(remove_duplicate=False)]
    for name, buffer in one.named_buffers(remove_duplicate=False):
        assert isinstance(buffers[name], torch.nn.Parameter) == isinstance(buffer, torch.nn.Parameter)
        assert_same_tensor(name, buffer, buffers[name])
        assert buffer.requires_grad == buffers[name].requires_grad, name
    held = unregistered(other)
    for name, was in unregistered(one).items():
        assert type(held[name]) is type(was), name
        assert held[name].requires_grad == (was.requires_grad and was.is_leaf), name
        if not was.is_meta:
            assert_same_tensor(name, was, held[name])
    for (name, was), (also, now) in zip(one.named_modules(), other.named_modules(), strict=True):
        assert name == also
        assert was.training == now.training, f"{name}: mode changed"
        assert was._non_persistent_buffers_set == now._non_persistent_buffers_set, name
        assert list(was._parameters) == list(now._parameters), name
        for key in was._parameters:
            assert (was._parameters[key] is None) == (now._parameters[key] is None), (name, key)
    assert not any(t.is_meta for t in [*other.parameters(), *other.buffers()])
