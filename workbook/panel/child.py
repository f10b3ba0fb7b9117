"""The process behind one press of a button: load or serialise, and say each step as it begins."""

import contextlib
import json
import os
import sys
import threading
from pathlib import Path

from helpers.timeline import Timeline, phase
from workbook.panel.runs import SAMPLE, Request


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


def main(request):
    """Do what is asked and print one line of JSON with the times."""
    say(step="start")
    source = request.source
    if source == SAMPLE:
        from workbook.samples import smollm2

        source = str(smollm2())
    saved = "://" in source or (Path(source) / "model.json").exists()
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
        seconds=timeline.seconds,
        phases=[phase for phase in timeline.phases if phase.name in _SHOWN],
        bytes=size,
        private=private_bytes(),
        note=note,
    )


_SHOWN = ("prefetch call", "imports", "load", "first token", "serialise")


def weights_in(folder):
    """Bytes of the files of weights in a directory; 0 for an address."""
    found = [path for path in folder.rglob("*") if path.suffix in (".tensors", ".safetensors", ".bin")]
    return sum(path.stat().st_size for path in found)


def make_cold(folder):
    """Take the files of weights out of the page cache; a note if they would not go."""
    from workbook.bench import pagecache

    if not folder.is_dir():
        return "not on this disk: not made cold"
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    for path in files:
        pagecache.evict(path)
    stayed = max((pagecache.resident(path) for path in files), default=0)
    return f"not cold: {stayed:.0%} of a file stayed in memory" if stayed > 0.02 else ""


def _dtype(request):
    import torch

    return None if request.dtype == "as saved" else getattr(torch, request.dtype)


def load_saved(source, request):
    with step("imports"):
        from helpers import deserialise, inspect

        if inspect(source).class_name.startswith("transformers."):
            import transformers

            getattr(transformers, inspect(source).class_name.partition(".")[2], None)
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
        kind = {"torch_dtype": _dtype(request)} if diffusers else {"dtype": _dtype(request) or "auto"}
        return cls.from_pretrained(source, **kind).to(request.device)


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
        main(asked)
    except Exception as error:  # shown in the panel, whatever it is
        say(error=in_words(error, asked.source.partition("?")[0]))
