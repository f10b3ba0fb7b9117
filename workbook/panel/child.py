"""The process behind one press of a button: load or serialise, and say each step as it begins."""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from helpers.timeline import Phase, Timeline, phase
from workbook import paths
from workbook.panel.runs import SAMPLE, Request, is_saved


def say(**message):
    print(json.dumps(message), flush=True)


@contextlib.contextmanager
def step(name):
    say(step=name)
    with phase(name):
        yield


def end_with_parent():
    """End when the kernel that started this is gone: its end of the pipe is closed then."""

    def watch():
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(request, spawned):
    """Do what is asked and print one line of JSON with the times, which begin when the process was made."""
    interpreter = time.perf_counter() - spawned
    say(step="start")
    source = sample() if request.source == SAMPLE else request.source
    saved = is_saved(source)
    note = make_cold(Path(source)) if request.cold else ""
    timeline = Timeline()
    with timeline:
        if request.prefetch:
            from helpers import prefetch

            with phase("prefetch call"):
                prefetch(source)
        model = load_saved(source, request) if saved else load_foreign(source, request)
        if request.action == "serialise":
            size = save(model, source, request)
        else:
            first_token(model)
            size = weights_in(Path(source))
    from workbook.machine import private_bytes

    say(
        seconds=interpreter + timeline.seconds,
        phases=[
            Phase("interpreter", 0.0, interpreter),
            *(p._replace(start=interpreter + p.start) for p in timeline.phases if p.name in _SHOWN),
        ],
        bytes=size,
        private=private_bytes(),
        note=note,
    )


_SHOWN = ("prefetch call", "imports", "load", "first token", "serialise")


def sample():
    """The directory of the sample model, made by another process: to make it imports what is timed here."""
    folder = paths.CACHE / "smollm2-135m-instruct"
    if not (folder / "config.json").is_file():
        make = [sys.executable, "-c", "from workbook import samples; samples.smollm2()"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    return str(folder)


def weights_in(folder):
    """Bytes of the files of weights in a directory; 0 for an address."""
    found = [path for path in folder.rglob("*") if path.suffix in (".tensors", ".safetensors", ".bin")]
    return sum(path.stat().st_size for path in found)


def make_cold(folder):
    """Take a model's files out of the page cache, then wait five seconds; a note if they would not go.

    Memory that was freed just now is at hand at once, which it is not at a real start.
    """
    from workbook.bench import pagecache

    if not folder.is_dir():
        return "not on this disk: not made cold"
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    for path in files:
        pagecache.evict(path)
    say(step="five seconds after the page cache was emptied")
    time.sleep(5)
    stayed = max((pagecache.resident(path) for path in files), default=0)
    return f"not cold: {stayed:.0%} of a file stayed in memory" if stayed > 0.02 else ""


def _dtype(request):
    import torch

    return None if request.dtype == "as saved" else getattr(torch, request.dtype)


def load_saved(source, request):
    with step("imports"):
        from helpers import deserialise, inspect

        library, _, name = inspect(source).class_name.partition(".")
        if library in ("transformers", "diffusers"):  # their classes are imported when they are asked for
            getattr(importlib.import_module(library), name, None)
    with step("load"):
        return deserialise(
            source,
            device=request.device,
            dtype=_dtype(request),
            mapped={"by itself": None, "yes": True, "no": False}[request.mapped],
            verify=request.verify,
            readers=request.readers or None,
            progress=False,
        )


def load_foreign(source, request):
    with step("imports"):
        import transformers

        transformers.utils.logging.disable_progress_bar()
        cls = transformers.AutoModelForCausalLM
        config = Path(source) / "config.json"
        if config.exists():
            from workbook.bench.models import class_of

            cls = class_of(Path(source))
    with step("load"):
        diffusers = config.exists() and "_class_name" in json.loads(config.read_text())
        if diffusers:  # it knows no "auto" and would make the weights float32
            kind = {"torch_dtype": _dtype(request) or stored_dtype(Path(source))}
        else:
            kind = {"dtype": _dtype(request) or "auto"}
        return cls.from_pretrained(source, **kind).to(request.device)


def stored_dtype(folder):
    """The type of the first tensor in a directory of safetensors files."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            return weights.get_tensor(next(iter(weights.keys()))).dtype
    return None


def save(model, source, request):
    companions = []
    with step("serialise"):
        from helpers import serialise

        if (Path(source) / "tokenizer_config.json").exists():
            from transformers import AutoTokenizer

            companions = [AutoTokenizer.from_pretrained(source)]
        destination = request.destination
        return serialise(model, destination, companions=companions, overwrite=True, progress=False).bytes


def first_token(model):
    """One forward pass where it is known how: a language model or a conditioned UNet."""
    config = getattr(model, "config", None)
    if hasattr(config, "vocab_size") or (config and "cross_attention_dim" in config):
        from workbook.bench.child import first_token

        with step("first token"):
            first_token(model)


def in_words(error, source):
    """What went wrong, for a reader who wants no traceback."""
    from helpers.errors import ModelError

    text = str(error).strip()
    if isinstance(error, ModelError):
        return text
    return f"{source}: {type(error).__name__}: {text.splitlines()[0] if text else 'no reason given'}"


if __name__ == "__main__":
    end_with_parent()
    asked = Request(**json.loads(sys.argv[1]))
    try:
        main(asked, float(sys.argv[2]))
    except Exception as error:  # shown in the panel, whatever it is
        say(error=in_words(error, asked.source.partition("?")[0]))
