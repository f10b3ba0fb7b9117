"""A checkpoint as its own library writes it: the model in it, and what belongs beside the model.

Hugging Face directories and names (transformers, diffusers, whole pipelines), and files of stock tensorizer.
"""

import collections
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers.deserialise import deserialise
from helpers.errors import (
    CorruptFile,
    ModelError,
    NotAModel,
    SkeletonMismatch,
    UnsupportedModel,
    extra,
    storage_errors,
)

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
_INDEX = "model_index.json"
_GENERATION = "generation_config.json"


def open_checkpoint(checkpoint: str | os.PathLike) -> tuple[Any, list[Any]]:
    """Load a checkpoint with its own library, in the types that its files have, on the CPU.

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
        There is no checkpoint.
    CorruptFile
        Tensors of the model, or of a part of the pipeline, are missing in it (all of them are named), or it or its
        tokenizer cannot be read.
    SkeletonMismatch
        The configuration beside a ``.tensors`` file is of another model, or does not name its class.
    UnsupportedModel
        It needs code of its own, or a class that the installed library does not have; or the library
        itself is not installed.
    StorageError
        The storage refuses.

    Examples
    --------
    >>> model, companions = open_checkpoint("models/llama")  # doctest: +SKIP
    """
    name = os.path.expanduser(os.fspath(checkpoint))
    with storage_errors(name, "looking for the checkpoint"):
        is_there = Path(name).exists()
    if name.endswith(".tensors"):
        return _stock(Path(name))
    with extra(name, "hf"):
        import diffusers  # noqa: F401
        import transformers  # noqa: F401
    is_path = is_there or os.path.isabs(name) or name.startswith(".")
    if is_path and not Path(name).is_dir():
        raise NotAModel(name, "there is no such directory", "Check the path.")
    if _found(name, _INDEX):
        return _pipeline(name), []
    config = _config(name)
    if "_class_name" in config:
        return _diffusers(name, config["_class_name"]), []
    return _transformers(name, config)


def _found(name, file):
    """Where a file of a directory, or of a name on the hub, is; None if there is none."""
    from transformers.utils import cached_file

    with _as_errors(name):
        return cached_file(name, file, _raise_exceptions_for_missing_entries=False)


def _config(name):
    path = _found(name, "config.json")
    if path is None and _found(name, "adapter_config.json"):
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
    with _as_errors(path):
        return dict(json.loads(Path(path).read_text()))


def _transformers(name, config):
    cls = _architecture(name, config)
    model, missing = _loaded(cls, name, dtype="auto", trust_remote_code=False)
    _refuse(name, missing)
    return model, _companions(name)


def _loaded(cls, name, **options):
    """A model, and the names of its tensors that the files lack: its library would make them up."""
    with _as_errors(name):
        model, said = cls.from_pretrained(name, output_loading_info=True, **options)
    return model, sorted(said["missing_keys"])


def _refuse(name, missing):
    if missing:
        raise CorruptFile(
            name, f"lacks tensors of the model: {', '.join(missing)}", "Fetch the checkpoint again."
        )


def _architecture(name, config):
    import transformers

    named = config.get("architectures")
    if not named and "auto_map" in config:
        raise _own_code(name, "its class")
    return _class_of(transformers, name, (named or ["AutoModel"])[0], config)


def _class_of(library, name, class_name, config=()):
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


def _companions(name):
    """The processor, or the tokenizer, where there is one."""
    import transformers

    if not any(_found(name, file) for file in _BESIDE):
        return []
    remedy = "Install what it needs, such as sentencepiece, or load the model yourself and serialise() it."
    with _as_errors(name, "has a tokenizer or a processor that cannot be loaded", remedy):
        return [transformers.AutoProcessor.from_pretrained(name, trust_remote_code=False)]


def _diffusers(name, class_name):
    import diffusers

    model, missing = _loaded(_class_of(diffusers, name, class_name), name, dtype=_dtype(name))
    _refuse(name, missing)
    return model


def _pipeline(name):
    import diffusers

    if not Path(name).is_dir():
        with _as_errors(name):
            name = diffusers.DiffusionPipeline.download(name)
    types = {path.name: found for path in Path(name).iterdir() if path.is_dir() and (found := _dtype(path))}
    ready, missing = {}, []
    for part, cls, may_be_given in _models(name):
        folder = os.path.join(name, part)
        if os.path.isdir(folder):
            model, lacking = _loaded(cls, folder, dtype=types.get(part))
        else:  # as diffusers looks for it
            model, lacking = _loaded(cls, name, dtype=_dtype(name))
        missing += [f"{part}.{key}" for key in lacking]
        if may_be_given:
            ready[part] = model
    _refuse(name, missing)
    with _as_errors(name):
        return diffusers.DiffusionPipeline.from_pretrained(name, dtype=types, **ready)


def _models(name):
    """The models that a pipeline's index names: part, class, and whether diffusers takes one without a warning."""
    import diffusers
    import transformers

    libraries = {"diffusers": diffusers, "transformers": transformers}
    bases = (diffusers.ModelMixin, transformers.PreTrainedModel)
    path = Path(name) / _INDEX
    with _as_errors(path):
        parts = dict(json.loads(path.read_text()))
    for part, value in parts.items():
        match value:
            case [str(library), str(class_name)]:
                # any other library is a folder of diffusers, such as that of the safety checker
                home = libraries.get(library) or getattr(diffusers.pipelines, library, None)
                cls = getattr(home, class_name, None)
                # what is around several ControlNets loads each itself, and does not say what they lack
                if isinstance(cls, type) and issubclass(cls, bases) and "from_pretrained" not in vars(cls):
                    yield part, cls, library in libraries


def _dtype(name):
    """The type that most tensors of a model's safetensors files have; None without such files.

    diffusers would make float32 of them, which takes twice the bytes and is another model.
    """
    import torch
    from safetensors import safe_open

    counts: Any = collections.Counter()
    for path in _weights(name):
        with _as_errors(path), safe_open(path, "pt") as file:
            counts.update(file.get_slice(key).get_dtype() for key in file.keys())  # noqa: SIM118 - it is no dict
    names = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    found = [names[name] for name, _ in counts.most_common() if name in names]
    return found[0] if found else None


def _weights(name):
    """The safetensors files that a library loads of a directory or a name: no variants, nothing else beside them."""
    for stem in ("diffusion_pytorch_model", "model"):
        if index := _found(name, f"{stem}.safetensors.index.json"):
            with _as_errors(index):
                shards = sorted(set(json.loads(Path(index).read_text())["weight_map"].values()))
            return [path for shard in shards if (path := _found(name, shard))]
        if path := _found(name, f"{stem}.safetensors"):
            return [path]
    return []


def _stock(path):
    """A file of stock tensorizer, put into the model that the config.json beside it describes."""
    if not path.is_file():
        raise NotAModel(path, "there is no such file", "Check the path.")
    folder = path.parent
    if not (folder / "config.json").is_file():
        raise NotAModel(
            path,
            "does not say which model it holds",
            "Put the model's config.json beside it, or load it with deserialise(…, skeleton=…) and save that.",
        )
    with extra(path, "hf"):
        import diffusers
        import transformers  # noqa: F401
    config = _config(folder)
    if "_class_name" in config:
        cls = _class_of(diffusers, path, config["_class_name"])
        return deserialise(path, skeleton=lambda: cls.from_config(config).eval(), device="cpu"), []
    model = _stock_by_class(path, config) if config.get("architectures") else _stock_by_type(path)
    if (folder / _GENERATION).is_file() and model.can_generate():
        with _as_errors(folder / _GENERATION):
            model.generation_config = model.generation_config_class.from_pretrained(folder)
    return model, _companions(folder)


def _stock_by_class(path, config):
    cls = _architecture(path, config)
    with _as_errors(path):
        configured = cls.config_class.from_pretrained(path.parent)
    return deserialise(path, skeleton=lambda: cls._from_config(configured).eval(), device="cpu")


def _stock_by_type(path):
    """The same where the configuration names no class: the plain model of its type, as AutoModel makes it."""
    import transformers

    with _as_errors(path):
        configured = transformers.AutoConfig.from_pretrained(path.parent, trust_remote_code=False)

        def skeleton():
            return transformers.AutoModel.from_config(configured, trust_remote_code=False).eval()

        try:
            return deserialise(path, skeleton=skeleton, device="cpu")
        except SkeletonMismatch as error:
            raise SkeletonMismatch(
                path,
                f"is not the plain model of the type {configured.model_type!r}, and config.json names no other class",
                'Add the class to config.json, such as "architectures": ["LlamaForCausalLM"].',
            ) from error


@contextlib.contextmanager
def _as_errors(
    name: str | os.PathLike,
    problem: str = "cannot be loaded",
    remedy: str = "Check the name, or fetch it again.",
) -> Iterator[None]:
    """Turn whatever a library raises over a checkpoint into a sentence with its name."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # of many types
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise CorruptFile(name, f"{problem} ({reason})", remedy) from error
