"""A program that runs where nothing but the base of the package is installed (see test_base_install.py).

with_the_base.py use DIRECTORY      save, load, verify and inspect a torch module there
with_the_base.py load DIRECTORY     load a model; print the error if there is one
"""

import sys
from importlib.util import find_spec
from pathlib import Path

EXTRAS = ("transformers", "diffusers", "accelerate", "safetensors", "sklearn", "skops", "workbook")


def use(place):
    """Everything that a torch module needs."""
    import torch

    from helpers import deserialise, inspect, serialise, verify

    def build():
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))

    module = build()
    serialise(module, place)
    for options in ({}, {"mapped": False}, {"verify": True}):
        loaded = deserialise(place, skeleton=build, device="cpu", **options)
        state = loaded.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert verify(place).tensors == len(inspect(place).tensors) == 7
    print("done")


def look(place):
    """What needs no class, so no library."""
    from helpers import inspect, verify

    print(verify(place).tensors == len(inspect(place).tensors))


def load(place):
    """A model that may need more than the base."""
    from helpers import deserialise
    from helpers.errors import ModelError

    try:
        model = deserialise(place, device="cpu")
    except ModelError as error:
        print(f"{type(error).__name__}: {error}")
    else:
        print(f"loaded a {type(model).__name__}")


if __name__ == "__main__":
    assert not [name for name in EXTRAS if find_spec(name)], "there is more than the base"
    {"use": use, "load": load, "look": look}[sys.argv[1]](Path(sys.argv[2]))
