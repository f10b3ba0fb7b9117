"""A weight that an object of the module's own keeps as well: after loading both are one tensor, or it is refused."""

import functools
import threading

import hidden
import odd_modules
import pytest
import torch
from equality import assert_same_module
from torch import nn

from helpers import deserialise, serialise
from helpers.errors import SkeletonMismatch


class Held(nn.Module):
    """A layer whose parameter and buffer lie with an object, too."""

    def __init__(self, keep=hidden.Plain, reads=False):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3, 3))
        self.register_buffer("shift", torch.rand(3))
        self.kept = keep(self.weight), keep(self.shift)
        if reads:
            self.norm = float(self.weight.detach().norm())  # cannot be built on meta


def closure(tensor):
    return lambda: tensor


def inside(keeper):
    """The tensor in an object of one of these kinds."""
    if isinstance(keeper, functools.partial):
        return keeper.args[0]
    return keeper.table if isinstance(keeper, hidden.Plain) else keeper()


def there_and_back(build, path, **options):
    """A module that was saved and loaded, and equals what it was."""
    saved = build()
    serialise(saved, path)
    loaded = deserialise(path, skeleton=build, **options)
    assert_same_module(saved, loaded)
    return loaded


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("keep", [hidden.Plain, functools.partial(functools.partial, torch.add), closure])
def test_an_object_holds_the_loaded_tensor_as_the_module_does(tmp_path, keep, reads, mapped):
    build = functools.partial(Held, keep, reads)
    loaded = there_and_back(build, tmp_path / "m", mapped=mapped)
    assert inside(loaded.kept[0]) is loaded.weight
    assert inside(loaded.kept[1]) is loaded.shift


def test_an_object_holds_a_loaded_tensor_that_is_not_registered(tmp_path):
    def build():
        module = nn.Module()
        module.table = torch.rand(3)
        module.kept = hidden.Plain(module.table)
        return module

    loaded = there_and_back(build, tmp_path / "m")
    assert loaded.kept.table is loaded.table


def test_an_object_holds_a_parameter_that_is_a_buffer_too(tmp_path):
    def build():
        module = odd_modules.BufferAndParameter()
        module.kept = hidden.Plain(module.weight)
        return module

    loaded = there_and_back(build, tmp_path / "m")
    assert loaded.kept.table is loaded.weight is loaded.part.weight


def test_such_a_module_trains_through_its_object(tmp_path):
    serialise(Held(), tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=Held)
    inside(loaded.kept[0]).sum().backward()
    assert torch.equal(loaded.weight.grad, torch.ones(3, 3))


def test_an_object_that_holds_a_tied_weight_holds_it_after_loading(tmp_path):
    def build():
        module = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        module[1].weight = module[0].weight
        module.kept = hidden.Plain(module[0].weight)
        module.listed = [module[1].weight]
        return module

    loaded = there_and_back(build, tmp_path / "m")
    assert loaded.kept.table is loaded[0].weight is loaded[1].weight is loaded.listed[0]


def test_a_weight_to_which_torch_keeps_a_weak_reference_is_refused_by_name(tmp_path):
    def build():
        layer = nn.LSTM(2, 3)  # it refers weakly to its weights
        layer.kept = closure(layer.weight_hh_l0)
        return layer

    serialise(build(), tmp_path / "m")
    with pytest.raises(SkeletonMismatch, match=r"keeps a tensor in kept\.tensor as well"):
        deserialise(tmp_path / "m", skeleton=build)


def test_two_objects_that_hold_what_was_tied_after_construction_are_refused_by_name(tmp_path):
    def build():
        module = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        module.kept = [hidden.Plain(part.weight) for part in module]
        return module

    saved = build()
    saved[1].weight = saved[0].weight
    saved.kept[1].table = saved[0].weight
    serialise(saved, tmp_path / "m")
    with pytest.raises(SkeletonMismatch, match=r"keeps a tensor in kept\.[01]\.table as well"):
        deserialise(tmp_path / "m", skeleton=build)


def test_an_object_that_holds_what_the_file_does_not_have_is_refused_by_name(tmp_path):
    saved = nn.Linear(2, 2)
    saved.bias = None
    serialise(saved, tmp_path / "m")

    def build():
        module = nn.Linear(2, 2)
        module.kept = hidden.Plain(module.bias)
        return module

    with pytest.raises(SkeletonMismatch, match=r"keeps a tensor in kept\.table as well"):
        deserialise(tmp_path / "m", skeleton=build)


def test_loads_in_several_threads_do_not_mix_their_objects(tmp_path):
    saved = [Held() for _ in range(4)]
    loaded = [None] * 4
    for number, module in enumerate(saved):
        serialise(module, tmp_path / str(number))

    def load(number):
        loaded[number] = deserialise(tmp_path / str(number), skeleton=Held)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(saved, loaded, strict=True):
        assert torch.equal(inside(other.kept[0]), one.weight)
