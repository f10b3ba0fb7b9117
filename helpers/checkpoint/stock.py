"""A file of stock tensorizer, put into the model that the config.json beside it describes."""

from helpers.checkpoint import files
from helpers.deserialise import deserialise
from helpers.errors import NotAModel, SkeletonMismatch, extra

_GENERATION = "generation_config.json"


def load(path):
    """The model of a file, and its companions."""
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
    config = files.config_of(folder)
    if "_class_name" in config:
        cls = files.class_of(diffusers, path, config["_class_name"])
        return deserialise(path, skeleton=lambda: cls.from_config(config).eval(), device="cpu"), []
    model = _by_class(path, config) if config.get("architectures") else _by_type(path)
    if (folder / _GENERATION).is_file() and model.can_generate():
        with files.as_errors(folder / _GENERATION):
            model.generation_config = model.generation_config_class.from_pretrained(folder)
    return model, files.companions_of(folder)


def _by_class(path, config):
    cls = files.architecture(path, config)
    with files.as_errors(path):
        configured = cls.config_class.from_pretrained(path.parent)
    return deserialise(path, skeleton=lambda: cls._from_config(configured).eval(), device="cpu")


def _by_type(path):
    """The same where the configuration names no class: the plain model of its type, as AutoModel makes it."""
    import transformers

    with files.as_errors(path):
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
