"""What every kind of checkpoint is looked at for: its files, its configuration, its class, what belongs beside it.

A checkpoint is a directory, or a name on the Hugging Face hub, as transformers and diffusers take both.
"""

import collections
import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers.errors import CorruptFile, ModelError, NotAModel, StorageError, UnsupportedModel

_BESIDE = (  # files that say that a tokenizer or a processor is there
    "tokenizer_config.json",
    "tokenizer.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "vocab.txt",  # from here on of older tokenizers, which may have nothing else
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)


def found(name, file):
    """Where a file of a directory, or of a name on the hub, is; None if there is none."""
    from transformers.utils import cached_file

    with as_errors(name):
        return cached_file(name, file, _raise_exceptions_for_missing_entries=False)


def check_name(name):
    """Ask the hub once for a name that its cache does not have: for each file a library would try for 23 s."""
    from huggingface_hub import constants, errors, file_exists, try_to_load_from_cache

    with as_errors(name):
        known = [try_to_load_from_cache(name, file) for file in ("config.json", "model_index.json")]
    if any(isinstance(path, str) for path in known):
        return
    try:
        file_exists(name, "config.json")
    except (errors.HfHubHTTPError, errors.FileMetadataError):  # an answer, which `found` puts into words
        return
    except Exception as error:  # of the library below, or that it may not ask
        said = f"is no directory here, and the hub cannot be asked for it ({_first_line(error)})"
        remedy = f"Check the path, or the connection to {constants.ENDPOINT}."
        raise StorageError(name, said, remedy) from error


def config_of(name):
    path = found(name, "config.json")
    if path is None and found(name, "adapter_config.json"):
        raise UnsupportedModel(
            name,
            "holds adapters without their base",
            "Save the base, load it with deserialise(), put them on it with PeftModel.from_pretrained(base, …) and "
            "serialise() that.",
        )
    if path is None:
        raise NotAModel(
            name,
            "holds no config.json and no model_index.json",
            "Check the path or the name of the checkpoint.",
        )
    with as_errors(path):
        return dict(json.loads(Path(path).read_text()))


def loaded(cls, name, **options):
    """A model, and the names of its tensors that the files lack: its library would make them up."""
    with as_errors(name):
        model, said = cls.from_pretrained(name, output_loading_info=True, **options)
    return model, sorted(said["missing_keys"])


def refuse(name, missing):
    if missing:
        raise CorruptFile(
            name, f"lacks tensors of the model: {', '.join(missing)}", "Fetch the checkpoint again."
        )


def architecture(name, config):
    import transformers

    named = config.get("architectures")
    if not named and "auto_map" in config:
        raise _own_code(name, "its class")
    return class_of(transformers, name, (named or ["AutoModel"])[0], config)


def class_of(library, name, class_name, config=()):
    found = getattr(library, class_name, None)
    if isinstance(found, type):
        return found
    if "auto_map" in config:
        raise _own_code(name, class_name)
    raise UnsupportedModel(
        name,
        f"is a {class_name}, which the installed {library.__name__} does not have",
        "Install a newer version.",
    )


def _own_code(name, class_name):
    return UnsupportedModel(
        name,
        f"brings the code of {class_name} with it, which is not run",
        "Load it yourself and pass the model to helpers.serialise; load it with skeleton=.",
    )


def companions_of(name):
    """The processor, or the tokenizer, where there is one."""
    import transformers

    if not any(found(name, file) for file in _BESIDE):
        return []
    remedy = "Install what it needs, such as sentencepiece, or load the model yourself and serialise() it."
    with as_errors(name, "has a tokenizer or a processor that cannot be loaded", remedy):
        return [transformers.AutoProcessor.from_pretrained(name, trust_remote_code=False)]


def dtype_of(name):
    """The type that most numbers in a model's safetensors files have; None without such files.

    diffusers would make float32 of them, which takes twice the bytes and is another model. transformers would take the
    type that config.json names, and round what the files have in a larger one.
    """
    import torch
    from safetensors import safe_open

    counts: Any = collections.Counter()
    for path in _weights(name):
        with as_errors(path), safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 - it is no dict
                tensor = file.get_slice(key)
                counts[tensor.get_dtype()] += math.prod(tensor.get_shape())
    names = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    found = [names[name] for name, _ in counts.most_common() if name in names]
    return found[0] if found else None


def _weights(name):
    """The safetensors files that a library loads of a directory or a name: no variants, nothing else beside them."""
    for stem in ("diffusion_pytorch_model", "model"):
        if index := found(name, f"{stem}.safetensors.index.json"):
            with as_errors(index):
                shards = sorted(set(json.loads(Path(index).read_text())["weight_map"].values()))
            return [path for shard in shards if (path := found(name, shard))]
        if path := found(name, f"{stem}.safetensors"):
            return [path]
    return []


@contextlib.contextmanager
def as_errors(
    name: str | os.PathLike,
    problem: str = "cannot be loaded",
    remedy: str = "Check the name, or fetch it again.",
) -> Iterator[None]:
    """Turn whatever a library raises over a checkpoint into a sentence with its name."""
    try:
        yield
    except ModelError:
        raise
    except ImportError as error:
        said = " ".join(str(error).split())  # transformers writes paragraphs
        raise UnsupportedModel(
            name, f"needs what is not installed here ({said})", "Install what is missing."
        ) from error
    except Exception as error:  # of many types
        if _is_lack_of_memory(error):
            raise ModelError(
                name, "does not fit into memory", "Free memory there, or do it on a larger machine."
            ) from error
        raise CorruptFile(name, f"{problem} ({_first_line(error)})", remedy) from error


def _first_line(error):
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _is_lack_of_memory(error):
    import torch

    # of the CPU torch says it by a plain RuntimeError
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)
