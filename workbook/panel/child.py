"""The process behind one press of a button: load, serialise or verify, and say each step as it begins."""

import contextlib
import json
import os
import sys
import threading
import time

from helpers.timeline import Phase, Timeline
from workbook.panel import loads, sources
from workbook.panel.request import Request
from workbook.panel.say import instead_of_bars, say

_SHOWN = ("imports", "empty model", "load", "first token", "serialise", "verify")


def end_with_parent():
    """End when the kernel that started this is gone: its end of the pipe is closed then."""

    def watch():
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(request, spawned):
    """Do what is asked and print one line of JSON with the times, which begin at the spawn."""
    begun = time.perf_counter()
    instead_of_bars()
    with Timeline() as timeline, _around(request):
        size = {"load": _load, "serialise": _serialise, "verify": _verify}[request.action](request)
    ended = time.perf_counter()
    from workbook.machine import private_bytes

    interpreter = begun - spawned
    phases = [Phase(p.name, p.start + interpreter, p.seconds) for p in outer(timeline.phases)]
    say(
        seconds=ended - spawned,
        phases=[Phase("interpreter", 0.0, interpreter), *phases],
        bytes=size or loads.weights_in(request.source),
        private=private_bytes(),
    )


def _around(request):
    """The block that a request asks for."""
    if not request.cold_start:
        return contextlib.nullcontext()
    from helpers import cold_start

    return cold_start(request.source, cache=request.cache or None)


def outer(phases):
    """The phases that are told, in their order, without those inside another.

    Examples
    --------
    >>> [p.name for p in outer([Phase("verify", 1.2, 0.1), Phase("load", 1.0, 0.5), Phase("imports", 0.0, 1.0)])]
    ['imports', 'load']
    """
    found = []
    for one in sorted(phases, key=lambda phase: phase.start):
        if one.name in _SHOWN and (not found or one.start >= found[-1].start + found[-1].seconds):
            found.append(one)
    return found


def _load(request):
    model = loads.load(request)
    if _can_be_called(model):
        from workbook.bench.child import first_token

        with loads.step("first token"):
            first_token(model)


def _can_be_called(model):
    """Whether it is known how: a language model that continues a text, or a UNet conditioned on text alone."""
    config = getattr(model, "config", None)
    if type(model).__name__ == "UNet2DConditionModel":
        return config.addition_embed_type is None
    return hasattr(config, "vocab_size") and model.can_generate() and not config.is_encoder_decoder


def _serialise(request):
    again = os.path.lexists(request.destination)  # which the panel allowed; not what appears meanwhile
    model = loads.load(request)
    with loads.step("serialise"):
        from helpers import serialise

        beside = loads.companions(request.source)
        return serialise(model, request.destination, companions=beside, overwrite=again).bytes


def _verify(request):
    with loads.step("imports"):
        from helpers import verify
    with loads.step("verify"):
        return verify(request.source).bytes


def in_words(error, source):
    """What went wrong, for a reader who wants no traceback."""
    from helpers.errors import ModelError

    text = str(error).strip()
    if isinstance(error, ModelError):
        return " ".join(text.split())
    return f"{source}: {type(error).__name__}: {text.splitlines()[0] if text else 'no reason given'}"


if __name__ == "__main__":
    end_with_parent()
    asked = Request(**json.loads(sys.argv[1]))
    try:
        main(asked, float(sys.argv[2]))
    except Exception as error:  # shown in the panel, whatever it is
        say(error=in_words(error, sources.without_signature(asked.source)))
