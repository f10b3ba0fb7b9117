"""Replicas of a model on Ray Serve, and parts of one model on several actors.

Ray does the scheduling, the queues and the calls; nothing here does. It is imported when a
function is called, from the extra ``scale``.
"""

from pathlib import Path

from helpers.errors import ModelError, StorageError

_PROCESS = 700 << 20  # bytes that a replica needs besides weights: torch, transformers, Ray's worker


def require_ray():
    """The ray module.

    Raises
    ------
    ModelError
        It is not installed.
    """
    try:
        import ray
        import ray.serve
    except ImportError:
        raise ModelError("ray", "is not installed", "pip install 'ray[serve]'") from None
    return ray


def check_memory(source, replicas, mapped=None, cache=None):
    """Refuse more replicas than the memory holds, before any of them starts.

    Mapped replicas on one host share the weights, others each hold their own: those of an address
    without a copy in ``cache``, and those that decrypt.

    Parameters
    ----------
    source : str
    replicas : int
    mapped, cache
        As for `deserialise`.

    Raises
    ------
    StorageError
        Says how much is needed and how much there is.

    Examples
    --------
    >>> check_memory("models/llama", 4)  # doctest: +SKIP
    """
    from helpers import inspect
    from helpers.storage import is_remote, memory

    found = inspect(source)
    on_disk = cache is not None or not is_remote(str(source))
    shared = mapped is not False and on_disk and not found.encryption
    needed = replicas * _PROCESS + found.bytes * (1 if shared else replicas)
    available = memory.available_bytes()
    if needed > available:
        raise StorageError(
            "memory",
            f"{replicas} replicas need about {needed:,} bytes, {available:,} are available",
            "Start fewer, or map the model from a local disk so that they share it.",
        )


class Replica:
    """A language model that answers with its next token. Ray makes actors and deployments of it.

    Parameters
    ----------
    source : str
        A saved model: directory, or address.
    ahead : bool
        Call `prefetch` before the imports.
    options
        For `deserialise`.
    """

    def __init__(self, source, ahead=True, **options):
        if ahead:
            from helpers import prefetch

            prefetch(source)  # before torch is imported: here, not at the top of the file
        from helpers import deserialise

        self.model = deserialise(source, progress=False, **options)

    def __call__(self, tokens):
        """The most likely next token of each sequence, and the process that says so.

        Parameters
        ----------
        tokens : list of list of int

        Returns
        -------
        tuple of (list of int, int)
        """
        import os

        import torch

        with torch.inference_mode():
            ids = torch.tensor(tokens, device=self.model.device)
            return self.model(input_ids=ids).logits[:, -1].argmax(-1).tolist(), os.getpid()


def application(source, *, replicas=1, most=None, ahead=True, cpus=0.25, **options):
    """A Ray Serve application of replicas of one model.

    Parameters
    ----------
    source : str
        A directory that every node sees, or ``s3://bucket/prefix``.
    replicas : int
        How many there are at first, and at least.
    most : int, optional
        Up to how many Ray may add under load; by default none.
    ahead : bool
        Prefetch.
    cpus : float
        What Ray reserves for each.
    options
        For `deserialise`, such as ``cache=``.

    Returns
    -------
    ray.serve.Application
        For ``ray.serve.run``. ``ray.init()`` decides where: here, or on a cluster by its address.

    Raises
    ------
    ModelError
        Ray is not installed.
    StorageError
        Too little memory here for the replicas asked for.
    """
    from ray import serve

    check_memory(source, most or replicas, options.get("mapped"), options.get("cache"))
    source = source if "://" in str(source) else str(Path(source).resolve())
    scaling = {"num_replicas": replicas}
    if most:
        bounds = {"min_replicas": replicas, "initial_replicas": replicas, "max_replicas": most}
        scaling = {"autoscaling_config": bounds | {"target_ongoing_requests": 2, "upscale_delay_s": 1}}
    settings = {"ray_actor_options": {"num_cpus": cpus}, "health_check_period_s": 1} | scaling
    return serve.deployment(**settings)(Replica).bind(source, ahead, **options)


class Stage:
    """A run of layers of a Llama-like model, loaded without the others.

    Parameters
    ----------
    source : str
    first, last : int
        Layers ``first`` to ``last - 1``. The one that has layer 0 embeds, the one with the last
        layer answers.
    """

    def __init__(self, source, first, last):
        import torch

        from helpers import deserialise, inspect

        count = 1 + max(int(t.name.split(".")[2]) for t in inspect(source).tensors if ".layers." in t.name)
        self.begins, self.ends = first == 0, last == count

        def wanted(name):
            if ".layers." in name:
                return first <= int(name.split(".")[2]) < last
            if "embed_tokens" in name:
                return self.begins
            return "rotary" in name or self.ends

        self.model = deserialise(source, only=wanted, progress=False)
        self.model.model.layers = self.model.model.layers[first:last]
        if not self.ends:
            self.model.model.norm = torch.nn.Identity()

    def __call__(self, given):
        """Tokens (or what the stage before gave) to what the next one takes, or to scores."""
        import torch

        with torch.inference_mode():
            kind = "input_ids" if self.begins else "inputs_embeds"
            hidden = self.model.model(**{kind: given}, use_cache=False).last_hidden_state
            return self.model.lm_head(hidden) if self.ends else hidden

    def bytes(self):
        """Bytes of weights that this stage holds."""
        held = {t.data_ptr(): t.nbytes for t in self.model.parameters() if not t.is_meta}
        return sum(held.values())
