"""One measurement: a fresh process that loads a model by one route and computes a first token."""

import json
import os
import sys
import time
from pathlib import Path

from helpers.timeline import Timeline, phase


def main(name, folder, route, device, spawned):
    """Load, compute, print one line of JSON."""
    started = time.perf_counter()
    from workbook.bench.files import Model
    from workbook.bench.routes import ALL

    with Timeline() as timeline:
        if device != "cpu":
            _wake(device)
        loaded = ALL[route][0](Model(name, Path(folder)), device)
        if device != "cpu":
            _wait()
        with phase("first token"):
            token, score = first_token(loaded)
    finished = time.perf_counter()
    from workbook.machine import peak_bytes, private_bytes

    print(
        json.dumps(
            {
                "phases": {"interpreter": started - spawned, **_sums(timeline)},
                "total": finished - spawned,
                "token": token,
                "score": score,
                "peak_rss": peak_bytes(),
                "private": private_bytes(),
            }
        )
    )


_OUTER = ("prefetch call", "imports", "device", "empty model", "load", "first token")


def _sums(timeline):
    """Seconds of each of the outer phases, of which some come more than once."""
    found = {}
    for name, _, seconds in timeline.phases:
        if name in _OUTER:
            found[name] = found.get(name, 0) + seconds
    return found


def _wake(device):
    """Start CUDA before the route: that takes its time whatever loads, and would be counted as the load."""
    with phase("imports"):
        import torch
    with phase("device"):
        torch.zeros(1, device=device)
        torch.cuda.synchronize()


def _wait():
    """Until what the route has asked of the device is done: a copy may still be on its way."""
    import torch

    with phase("load"):
        torch.cuda.synchronize()


def first_token(model):
    """Index and score of the first token for a fixed input; for a UNet, of its largest output."""
    import torch

    with torch.inference_mode():
        if hasattr(model, "config") and "cross_attention_dim" in model.config:
            generator = torch.Generator().manual_seed(0)
            sample = torch.randn(1, model.config.in_channels, 8, 8, generator=generator)
            text = torch.randn(1, 4, model.config.cross_attention_dim, generator=generator)
            first = next(model.parameters())
            place = {"device": first.device, "dtype": first.dtype}
            scores = model(sample.to(**place), 1, text.to(**place)).sample.flatten()
        else:
            tokens = torch.arange(2, 10, device=next(model.parameters()).device)[None]
            scores = model(input_ids=tokens).logits[0, -1]
        best = scores.float().argmax()
        return best.item(), scores[best].item()


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    arguments = json.loads(sys.argv[1])
    main(**arguments)
