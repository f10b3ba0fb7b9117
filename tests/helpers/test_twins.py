"""A module that cannot be built on meta, whose parameters alone are: one parameter stays one for whoever holds it."""

import functools
import sys
from concurrent.futures import ThreadPoolExecutor

import hidden
import pytest
import torch
from equality import assert_same_module
from tensorizer import TensorSerializer
from torch import nn

from helpers import deserialise, serialise, serialise_model
from helpers.modules import skeleton


class Reading(nn.Module):
    """Reads a constant while it is built."""

    def __init__(self):
        super().__init__()
        self.count = int(torch.ones(3).sum())


class Passing(Reading):
    """Gives its own parameter to another, not the one that the module has."""

    def __init__(self, keep):
        super().__init__()
        weight = nn.Parameter(torch.randn(self.count, self.count))
        self.weight = weight
        self.kept = keep(weight)


class Tied(Reading):
    """Registers one parameter in two places, and marks it afterwards."""

    def __init__(self):
        super().__init__()
        weight = nn.Parameter(torch.randn(self.count, self.count))
        self.one, self.other = (nn.Linear(self.count, self.count, bias=False) for _ in range(2))
        self.one.weight, self.other.weight = weight, weight
        weight.no_decay = True


class Deep(Reading):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(self.count, self.count) for _ in range(100)))


@pytest.fixture
def real(monkeypatch):
    """What was built wholly for real."""
    built, for_real = [], skeleton._for_real
    monkeypatch.setattr(skeleton, "_for_real", lambda build: built.append(build) or for_real(build))
    return built


@pytest.mark.parametrize("save", [serialise, serialise_model])
@pytest.mark.parametrize("keep", [hidden.Plain, lambda weight: lambda: weight])
def test_an_object_that_was_given_the_parameter_itself_holds_the_loaded_one(tmp_path, keep, save):
    build = functools.partial(Passing, keep)
    saved, path = build(), tmp_path / "m"
    save(saved, path)
    loaded = deserialise(path, skeleton=build)
    assert_same_module(saved, loaded)
    kept = loaded.kept.table if isinstance(loaded.kept, hidden.Plain) else loaded.kept()
    assert kept is loaded.weight


def stock(module, path):
    serialiser = TensorSerializer(str(path))
    serialiser.write_module(module)
    serialiser.close()


@pytest.mark.parametrize("save", [serialise, serialise_model, stock])
def test_a_parameter_in_two_places_stays_one_with_its_marks(tmp_path, save, real):
    saved, path = Tied(), tmp_path / "m"
    save(saved, path)
    loaded = deserialise(path, skeleton=Tied)
    assert_same_module(saved, loaded)
    assert loaded.one.weight is loaded.other.weight and loaded.one.weight.no_decay
    assert real == []


def test_loads_and_builds_in_many_threads_do_not_disturb_one_another(tmp_path, real):
    saved, interval = Deep(), sys.getswitchinterval()
    serialise(saved, tmp_path / "m")
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(6) as pool:
            loads, builds = [], []
            for _ in range(12):
                loads.append(pool.submit(deserialise, tmp_path / "m", skeleton=Deep, progress=False))
                builds.append(pool.submit(Deep))
    finally:
        sys.setswitchinterval(interval)
    for load in loads:
        assert_same_module(saved, load.result())
    assert not any(parameter.is_meta for build in builds for parameter in build.result().parameters())
    assert real == []
