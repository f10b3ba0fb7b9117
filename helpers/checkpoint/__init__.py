"""A checkpoint as its own library writes it: the model in it, and what belongs beside the model.

Hugging Face directories and names (transformers, diffusers, whole pipelines), and files of stock tensorizer.
"""

import os
from pathlib import Path
from typing import Any

from helpers.checkpoint import files, pipeline, stock
from helpers.errors import NotAModel, extra, storage_errors
from helpers.format import manifest
from helpers.saved.sources import check_scheme
from helpers.storage.names import may_be_on_hub


def open_checkpoint(checkpoint: str | os.PathLike) -> tuple[Any, list[Any]]:
    """Load a checkpoint with its own library, in the type that most of its weights have, on the CPU.

    A library gives all weights of a model one type, but for the few that its class keeps in float32. Where the files
    have several, that is the type of most numbers in its safetensors files, and the rest is cast. Of files of another
    format, and of quantised ones, transformers takes the type that config.json names.

    Parameters
    ----------
    checkpoint : str or path-like
        A directory that ``save_pretrained`` wrote (``~`` is expanded), in one file of weights or in shards; a
        name on the Hugging Face hub; or a ``.tensors`` file of stock tensorizer with its config.json beside it, from
        whose directory the settings of generation and the tokenizer are taken too.

    Returns
    -------
    model : transformers.PreTrainedModel, diffusers.ModelMixin or diffusers.DiffusionPipeline
        In eval mode. Weights in safetensors files are mapped, not copied, as the library does it.
    companions : list
        The tokenizer or the processor, for ``serialise(model, …, companions=companions)``.

    Raises
    ------
    NotAModel
        There is no checkpoint, or it is a saved model already.
    CorruptFile
        Tensors of the model, or of a part of the pipeline, are missing in it (all of them are named), or it or its
        tokenizer cannot be read.
    SkeletonMismatch
        The configuration beside a ``.tensors`` file is of another model, or does not name its class.
    UnsupportedModel
        It needs code of its own, or a class that the installed library does not have; or the library
        itself, or a package that it needs for this model, is not installed.
    ModelError
        There is too little memory for it.
    StorageError
        The storage refuses, or the hub cannot be asked for a name.

    Examples
    --------
    >>> model, companions = open_checkpoint("models/llama")  # doctest: +SKIP
    """
    check_scheme(checkpoint)
    name = os.path.expanduser(os.fspath(checkpoint))
    with storage_errors(name, "looking for the checkpoint"):
        is_there = Path(name).exists()
    if name.endswith(".tensors"):
        return stock.load(Path(name))
    if not (is_there or may_be_on_hub(name)):
        remedy = "Check the path; what begins with a directory here is not looked up on the hub."
        raise NotAModel(name, "there is no such directory", remedy)
    if is_there and not Path(name).is_dir():
        raise NotAModel(name, "is a file, but no .tensors file", "Give the directory of the checkpoint.")
    if all(os.path.isfile(os.path.join(name, file)) for file in (manifest.NAME, manifest.TENSORS)):
        raise NotAModel(name, "is a saved model already", "Copy the directory.")
    with extra(name, "hf"):
        import diffusers  # noqa: F401
        import transformers  # noqa: F401
    if not is_there:
        files.check_name(name)
    if files.found(name, pipeline.INDEX):
        return pipeline.load(name), []
    config = files.config_of(name)
    if "_class_name" in config:
        return _diffusers(name, config["_class_name"]), []
    return _transformers(name, config)


def _transformers(name, config):
    cls = files.architecture(name, config)
    # a quantised one computes in another type than most of its numbers have
    dtype = None if config.get("quantization_config") else files.dtype_of(name)
    model, missing = files.loaded(cls, name, dtype=dtype or "auto", trust_remote_code=False)
    files.refuse(name, missing)
    return model, files.companions_of(name)


def _diffusers(name, class_name):
    import diffusers

    cls = files.class_of(diffusers, name, class_name)
    model, missing = files.loaded(cls, name, dtype=files.dtype_of(name))
    files.refuse(name, missing)
    return model
