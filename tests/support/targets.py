"""What replicas run in the tests of `Standby`. It imports nothing heavy, since replicas import it."""

import os
import signal
import sys
import time


def tell(answers, *names):
    """Which modules were there at the start, and where this process stands."""
    found = [name in sys.modules for name in names]
    answers.send((found, os.getppid(), os.getcwd(), os.environ.get("STANDBY_TEST")))


def sleep(answers, stubborn=False):
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    answers.send(os.getpid())
    time.sleep(100)


def draw(answers):
    import random

    import numpy
    import torch

    answers.send((random.random(), numpy.random.rand(), torch.rand(1).item()))


def multiply(answers):
    """Products that are large enough for several threads, in torch and in numpy."""
    import numpy
    import torch

    torch.set_num_threads(2)
    ones = torch.ones(700, 700)
    answers.send(((ones @ ones).unique().tolist(), numpy.unique(ones.numpy() @ ones.numpy()).tolist()))


def load(answers, folder, width):
    """Load a square linear layer, use each of its weights, collect garbage and stay."""
    import gc

    import torch

    from helpers import deserialise

    torch.set_num_threads(2)
    layer = deserialise(folder, skeleton=lambda: torch.nn.Linear(width, width), device="cpu", progress=False)
    with torch.inference_mode():
        answer = layer(torch.ones(4, width)).sum().item()
    gc.collect()
    answers.send(answer)
    time.sleep(100)


def next_token(answers, folder):
    import torch

    from helpers import deserialise

    model = deserialise(folder, device="cpu", progress=False)
    with torch.inference_mode():
        answers.send(model(input_ids=torch.arange(2, 10)[None]).logits[0, -1].tolist())


def save(answers, place, seed, overwrite):
    """Save a module when told to; say that it is saved, or why not."""
    import torch
    from torch import nn

    from helpers import serialise

    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(200, 300), nn.BatchNorm1d(300), nn.Linear(300, 100))
    answers.send("ready")
    answers.recv()
    try:
        serialise(model, place, overwrite=overwrite, progress=False)
    except Exception as error:
        answers.send(str(error))
        sys.exit(1)
    answers.send("saved")


def save_again_and_again(answers, place, sizes, values, turns):
    """Save a chain of linear layers with each of the values in turn, and say after each that it is saved."""
    import torch

    from helpers import serialise

    module = torch.nn.Sequential(*[torch.nn.Linear(size, size) for size in sizes])
    answers.send("ready")
    for turn in range(turns):
        for parameter in module.parameters():
            torch.nn.init.constant_(parameter, values[turn % len(values)])
        serialise(module, place, overwrite=True, progress=False)
        answers.send(turn)
