"""Replicas of a model on Ray Serve, and parts of one model on several actors.

Ray does the scheduling, the queues and the calls; nothing here does. It is imported when a
function is called, from the extra ``scale``.
"""

import os
from pathlib import Path

from helpers.errors import ModelError, StorageError

_PROCESS = 700 << 20  # bytes that a replica needs besides weights: torch, transformers, Ray's worker
_SERVE = 2  # workers that Ray Serve takes for itself: its controller, and a proxy on each node
_BASES = {
    "transformers": "transformers.PreTrainedModel",
    "diffusers": "diffusers.ModelMixin",
    "diffusion_pipeline": "diffusers.DiffusionPipeline",
}


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


def preloaded(source, idle=1, modules=()):
    """What ``ray.init`` needs so that the next replicas of a model find its imports done.

    Ray's own setting ``preload_python_modules`` lets every new worker import modules before it
    takes work. A replica that is added while such a worker is idle begins with its constructor;
    ``python -m workbook.bench.scaling`` measures it.

    Parameters
    ----------
    source : str
        A saved model. The class that it names is imported here too, to learn its module.
    idle : int
        How many workers to keep ready on each node, for as many replicas: count the first ones
        too. Each holds 0.35 GB (proportional set size of one
        of five, Llama's class, Ray 2.60; 0.07 GB without preloading) until a replica takes it,
        which would have needed that anyway. Serve's own two hold as much more for nothing.
    modules : sequence of str
        More modules to import, such as the one of the function that you pass as ``skeleton=``.

    Returns
    -------
    dict
        ``num_cpus`` and ``_system_config``. Ray starts as many workers as it counts processors,
        and at most ``worker_maximum_startup_concurrency``, when a node joins; it keeps
        ``num_workers_soft_limit`` of them while they are idle. Two more than ``idle``, since
        Serve's controller and its proxy take the first two.

    Raises
    ------
    ModelError
        A module is not found: Ray itself would only write so into the log of each worker.
    NotAModel, CorruptFile, StorageError
        As for `inspect`.

    Notes
    -----
    - **When none is idle**, Ray starts a worker, which pays the imports: such a replica takes as
      long as without preloading. Ray starts no other idle worker in the place of one that was
      taken. So let ``idle`` be the most replicas that a node is to have.
    - ``ray.init`` returns before the workers have imported everything.
    - Workers import before they know the driver's ``sys.path``: the modules must be installed, or
      on ``PYTHONPATH``. They must not start CUDA.
    - A deployment with a ``runtime_env`` gets no worker that was started without it.
    - For a cluster of several machines, give the same to ``ray start`` on each, as
      ``RAY_preload_python_modules=torch,…``, ``RAY_worker_maximum_startup_concurrency`` and
      ``RAY_num_workers_soft_limit`` in its environment, and ``--num-cpus``.

    The setting is called experimental by those who made it: https://github.com/ray-project/ray/pull/33572

    Examples
    --------
    >>> import ray
    >>> ray.init(**preloaded("models/llama", idle=2))  # doctest: +SKIP
    """
    import importlib.util

    from helpers import inspect
    from helpers.families import library

    found = inspect(source)
    names = ["torch", "ray.serve", "helpers.deserialise", *modules]
    if found.family:
        names.append(f"helpers.families.{found.family}")
    if found.family in _BASES:
        cls = library.find(found.class_name, str(source), _BASES[found.family])
        names.append(cls.__module__)
    for name in names:
        try:
            known = importlib.util.find_spec(name) is not None
        except (ImportError, ValueError):  # its package is not there, or it is no name at all
            known = False
        if not known:
            raise ModelError(
                name, "is no module that is found here", "Correct the name, or install its package."
            )
    workers = idle + _SERVE
    settings = {
        "preload_python_modules": names,
        "worker_maximum_startup_concurrency": workers,
        "num_workers_soft_limit": workers,
    }
    return {"num_cpus": max(workers, os.cpu_count()), "_system_config": settings}


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
        import torch

        from helpers import deserialise

        # Ray sets it by the processors that it reserves, too late for a torch that a worker has preloaded
        if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
            torch.set_num_threads(int(threads))
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
        import torch

        with torch.inference_mode():
            ids = torch.tensor(tokens, device=self.model.device)
            return self.model(input_ids=ids).logits[:, -1].argmax(-1).tolist(), os.getpid()


def answer(source, connection):
    """Load a saved language model, compute a first token and send it: what a process of a `Standby` runs here.

    Parameters
    ----------
    source : str
        A saved model.
    connection : multiprocessing.connection.Connection
    """
    import torch

    from helpers import deserialise

    model = deserialise(source, device="cpu", progress=False)
    with torch.inference_mode():
        connection.send(model(input_ids=torch.arange(2, 10)[None]).logits[0, -1].argmax().item())


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
