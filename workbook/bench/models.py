"""The models of the benchmark, and their weights in every format that a route reads."""

import collections
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from helpers.errors import ModelError, NotAModel, StorageError, UnsupportedModel
from helpers.format import manifest
from helpers.storage import atomic as commit
from workbook import paths
from workbook.bench.child import first_token
from workbook.bench.files import FORMATS, Model, class_of

__all__ = ["FORMATS", "NAMES", "SHAPES", "Model", "check_memory", "class_of", "make", "prepare"]

_SMOL = {
    "vocab_size": 49152,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
SHAPES = {  # the SmolLM2 family, and a larger one, with random weights
    name: _SMOL
    | {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
    }
    for name, hidden, inner, layers, heads, groups in [
        ("135m", 576, 1536, 30, 9, 3),
        ("360m", 960, 2560, 32, 15, 5),
        ("1.7b", 2048, 8192, 24, 32, 32),
        ("7b", 4096, 11008, 32, 32, 32),  # Llama 2's layers
    ]
}
NAMES = ("smollm2", *SHAPES, "sd-unet")


def prepare(name, forms, scratch):
    """Make a model's files in the wanted formats, if they are not there.

    Parameters
    ----------
    name : str
        One of `NAMES`, or a Hugging Face directory of the user's own.
    forms : set of str
        Of `FORMATS`.
    scratch : pathlib.Path
        Where the files of a user's own model go; the caller removes it. Others stay in data/cache.

    Returns
    -------
    Model

    Raises
    ------
    NotAModel
        No such name and no such directory.
    StorageError
        Too little disk or memory: said before anything is written, with the bytes needed.
    CorruptFile
        The user's own model cannot be loaded.
    UnsupportedModel
        Its class is unknown, or it is of a kind that the benchmark cannot time.
    """
    if name not in NAMES and not (Path(name) / "config.json").is_file():
        raise NotAModel(
            name, "is no model of the benchmark", f"Choose {', '.join(NAMES)} or a Hugging Face directory."
        )
    folder = (paths.CACHE / "bench" if name in NAMES else scratch) / os.path.basename(os.path.abspath(name))
    model = Model(name, folder)
    if (folder / "helpers").exists() and not _is_current(folder / "helpers"):
        shutil.rmtree(folder / "helpers")
    if model.hf.exists() and model.is_unet and not (model.hf / "dtype").exists():
        shutil.rmtree(model.hf)  # made before the type was noted
    missing = [form for form in FORMATS if form in forms | {"hf"} and not (folder / form).exists()]
    if missing:
        # In a process of its own, since this one must not have torch mapped: what a process maps
        # cannot be taken out of the page cache, and "all cold" could not be measured.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as maker:
            maker.submit(make, model, missing).result()
    check_memory(model.file("hf").stat().st_size)
    return model


def make(model, missing):
    """Write a model's weights in the formats that are missing, in this process.

    Parameters
    ----------
    model : Model
    missing : list of str
        Of `FORMATS`.

    Raises
    ------
    StorageError
        Too little disk or memory: said before anything is written, with the bytes needed.
    CorruptFile, UnsupportedModel
        As `prepare`.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()  # the caller's own setting does not reach this process
    source, size = _source(model.name)
    model.folder.mkdir(parents=True, exist_ok=True)
    needed, free = len(missing) * size, shutil.disk_usage(model.folder).free
    if needed > 0.95 * free:
        raise StorageError(
            model.folder,
            f"the benchmark needs {needed:,} bytes of disk for {', '.join(missing)}, {free:,} are free",
            "Free some space, choose fewer --routes or a smaller --model.",
        )
    check_memory(size)
    weights = source()
    if model.name not in NAMES:
        _check_measurable(model.name, weights)
    for form in missing:
        with commit.directory(model.folder / form, overwrite=False, strangers=None) as place:
            _write(weights, form, place)


def _is_current(place):
    """Whether a kept file is of this package's own format: an older package may have made it."""
    try:
        manifest.read(place)
    except ModelError:
        return False
    return True


def check_memory(size):
    """Refuse a model that does not fit: a route may hold it twice for a moment.

    Raises
    ------
    StorageError
    """
    import psutil

    available = psutil.virtual_memory().available
    if available < 2.2 * size:
        raise StorageError(
            "memory",
            f"the benchmark needs {int(2.2 * size):,} bytes of memory, {available:,} are available",
            "Choose a smaller --model.",
        )


def _check_measurable(name, weights):
    """Refuse a model of which no first token can be computed."""
    try:
        first_token(weights)
    except Exception as error:  # of many types: each kind of model misses something else
        raise UnsupportedModel(
            name,
            f"is a {type(weights).__name__}, of which the benchmark computes no first token "
            f"({type(error).__name__})",
            "It times language models (such as a LlamaForCausalLM) and UNets that take a text "
            "(UNet2DConditionModel).",
        ) from error


def _source(name):
    """A function that gives the model with its weights, and their size in bytes."""
    if name in SHAPES or name == "sd-unet":
        import torch

        build = _stable_diffusion_unet if name == "sd-unet" else lambda: _llama(SHAPES[name])
        with torch.device("meta"):
            size = sum(p.numel() * p.element_size() for p in build().parameters())
        return lambda: _filled(build), size
    from helpers.checkpoint import files as checkpoint
    from helpers.checkpoint import open_checkpoint
    from workbook.samples import smollm2

    folder = smollm2() if name == "smollm2" else Path(name)
    size = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    config = checkpoint.config_of(folder)
    if "_class_name" in config:  # diffusers itself would make everything float32
        return lambda: open_checkpoint(folder)[0], size
    cls = checkpoint.architecture(folder, config)
    return lambda: checkpoint.loaded(cls, folder, dtype="auto")[0], size


def _stable_diffusion_unet():
    from workbook.samples import stable_diffusion_unet

    return stable_diffusion_unet()


def _llama(shape):
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM._from_config(LlamaConfig(**shape))


def _filled(build):
    """Build, with small random weights; much faster than the initialisation that it replaces."""
    import torch
    from transformers.initialization import no_init_weights

    with no_init_weights():
        model = build()
    if hasattr(model, "tie_weights"):
        model.tie_weights()

    def fill(number, name, parameter):
        if "norm" in name and parameter.dim() == 1:
            parameter.fill_(1.0)
        else:
            parameter.normal_(0, 0.02, generator=torch.Generator().manual_seed(number))

    parameters = [parameter.detach() for _, parameter in model.named_parameters()]
    names = [name for name, _ in model.named_parameters()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # one generator fills by one thread alone
        list(pool.map(fill, range(len(names)), names, parameters))
    return model.eval()


def _write(model, form, place):
    import torch

    if form == "hf":
        model.save_pretrained(place, max_shard_size="100GB")
        types = collections.Counter(tensor.dtype for tensor in model.state_dict().values())
        (place / "dtype").write_text(str(types.most_common(1)[0][0]).removeprefix("torch."))
    elif form == "torch":
        torch.save(model.state_dict(), place / "model.pt")
    elif form == "guide":
        from tensorizer import TensorSerializer

        serializer = TensorSerializer(str(place / "model.tensors"))
        serializer.write_module(model)
        serializer.close()
    elif form == "flashpack":
        from flashpack import pack_to_file

        pack_to_file(model, str(place / "model.flashpack"), target_dtype=next(model.parameters()).dtype)
    else:
        from helpers import serialise

        place.rmdir()
        serialise(model, place, progress=False)
