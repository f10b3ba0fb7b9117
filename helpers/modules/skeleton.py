"""The empty model of an architecture: built, filled with loaded tensors, rehearsed before a save."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.utils.parametrize import type_before_parametrizations
from torch.overrides import TorchFunctionMode

from helpers.errors import ModelError, SkeletonMismatch, UnsupportedModel, with_article
from helpers.modules.comparison import some
from helpers.modules.reach import reached
from helpers.modules.restore import restore, without_data
from helpers.modules.stock import structure_of
from helpers.modules.structure import capture, slots
from helpers.modules.twins import parameters_on_meta
from helpers.options import Options
from helpers.timeline import phase


class Skeleton:
    """An empty model, built on the meta device, where nothing is allocated or initialised.

    Some constructors cannot run there (they read the value of a tensor), and some keep tensors that are neither
    stored nor registered. For these all but the parameters is built for real, which is still quick; and at last,
    if the constructor reads parameters too, or keeps a real one beside the module's empty one, everything, which costs
    the initialisation.

    Attributes
    ----------
    model : torch.nn.Module
        The empty model.

    Raises
    ------
    SkeletonMismatch
        What was built is no module.
    """

    def __init__(self, build: Callable[[], torch.nn.Module], label: str):
        self.build, self.label = build, label
        self._ways = iter((_on_meta, _parameters_on_meta, _for_real))
        self.model: torch.nn.Module
        self.rebuild()

    def rebuild(self) -> bool:
        """Build the model in the next way that works; False, and nothing done, after the last."""
        for way in self._ways:
            try:
                model = way(self.build)
            except Exception:  # whatever it is, the build for real repeats it if it was not meta's doing
                if way is _for_real:
                    raise
                continue
            if not isinstance(model, torch.nn.Module):
                raise SkeletonMismatch(
                    self.label,
                    f"skeleton() gave {with_article(model)}",
                    "Let it return a torch.nn.Module.",
                )
            self.model = model
            return True
        return False


@contextlib.contextmanager
def buildable(label: str, refusal: type[ModelError], remedy: str) -> Iterator[None]:
    """Turn whatever a class raises over its configuration into a sentence; also a decorator of what builds it.

    Parameters
    ----------
    label : str
        Named in errors.
    refusal : type
        Of the error to raise.
    remedy : str
        What the reader can do next.

    Raises
    ------
    refusal
        The class does not build a model of this configuration.
    UnsupportedModel
        It needs a package that is not installed; its own message, which says how to install it, is kept.

    Examples
    --------
    >>> with buildable("models/mine", ModelError, "Restore its configuration."):
    ...     pass
    """
    try:
        yield
    except (ModelError, MemoryError, torch.OutOfMemoryError):
        raise
    except ImportError as error:
        said = " ".join(str(error).split())  # transformers writes paragraphs
        raise UnsupportedModel(
            label, f"cannot be built with what is installed here ({said})", "Install what is missing."
        ) from error
    except Exception as error:  # of many types
        said = f"{type(error).__name__}: {error}"
        raise refusal(label, f"cannot be built from its configuration ({said})", remedy) from error


@contextlib.contextmanager
def by_caller(label: str) -> Iterator[None]:
    """Note beneath whatever a caller's function raises where it came from; also a decorator of that function.

    The error itself stays what it is: it belongs to the caller, who looks for it in code of their own.

    Parameters
    ----------
    label : str
        Of the model that is loaded.

    Raises
    ------
    Exception
        The same that the function raised.

    Examples
    --------
    >>> with by_caller("models/mine"):
    ...     pass
    """
    try:
        yield
    except Exception as error:  # whatever it is
        note = f"{label}: skeleton() raised this, the function that was passed as skeleton=."
        if isinstance(error, TypeError):
            note += " A class that takes arguments is passed as skeleton=lambda: My(...), with its arguments."
        error.add_note(note)
        raise


def fill(skeleton: Skeleton, weights: Any, options: Options) -> torch.nn.Module:
    """Put the stored tensors into an empty model.

    Parameters
    ----------
    skeleton : Skeleton
    weights : Mapped, Private or Streamed
        Begun; see `helpers.weights`.
    options : helpers.options.Options

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    SkeletonMismatch
        The empty model does not fit, or a part of it stays without data.
    ModelError
        ``dtype`` is asked for, and a buffer that keeps its type shares memory with what is cast.
    """
    tensors = weights.tensors(options.device)
    structure = weights.part.structure
    while empty := _put_in(skeleton.model, tensors, structure, skeleton.label, options):
        if skeleton.rebuild():
            continue
        raise SkeletonMismatch(
            skeleton.label,
            f"these have no data after loading: {some(sorted(empty))}",
            "Build the skeleton without torch.device('meta') of its own.",
        )
    model = skeleton.model
    here = (options.device, torch.device("meta"))
    if options.device.type != "cpu" or not all(buffer.device in here for buffer in model.buffers()):
        # what was built, not loaded (constants), follows to where the weights are
        model._apply(lambda t: t if t.is_meta else t.to(options.device))
    return model


def _put_in(model, tensors, structure, label, options):
    """Cast and restore; the names of what is left without data against the caller's wish."""
    with phase("put the weights in"):
        chosen = dict(tensors)
        if not structure:  # a bare file has none: the skeleton's own
            structure = structure_of(model, chosen, label)
        if options.dtype is not None:
            for name in _to_cast(model, chosen, structure, label, options.dtype):
                kind, tensor = chosen[name]
                # in both, so that one after the other is freed: a GPU has no room for all of them twice
                tensors[name] = chosen[name] = kind, tensor.to(options.dtype)
        parts = restore(model, chosen, structure, label)
        return set(without_data(model, parts)) - structure.get("omitted", set())


def _to_cast(model, tensors, structure, label, dtype):
    """What is stored of parameters and persistent buffers in floating point, whatever else lies in its memory."""

    def stored(name):  # under which name it is stored
        first = structure["aliases"].get(name, name)
        return structure["shared"].get(first, first)

    transient = set(structure["transient"])
    kept = {stored(name): name for name in structure["transient"]}
    cast = {stored(name): name for name, *_ in slots(model) if name not in transient}
    found = [name for name, (_, tensor) in tensors.items() if name in cast and tensor.is_floating_point()]
    if both := [f"{kept[name]} and {cast[name]}" for name in found if name in kept]:
        raise ModelError(
            label,
            f"cannot be cast to {dtype}: a buffer that is not persistent keeps its type, and these share their "
            f"memory: {', '.join(both)}",
            "Leave out dtype=, and cast the loaded model with model.to().",
        )
    return found


def capture_rehearsed(model: torch.nn.Module, name: str, build: Callable[[], Any]) -> tuple[dict, dict]:
    """Take a model's tensors and structure, and make sure that the empty model can be built again and fits.

    Parameters
    ----------
    model : torch.nn.Module
    name : str
        Named in errors.
    build : callable
        Builds the empty model, as it will be built on loading.

    Returns
    -------
    tensors, structure
        As `helpers.modules.structure.capture`.

    Raises
    ------
    UnsupportedModel
        Its configuration builds no model or another one, or it cannot be captured.
    """
    build = buildable(name, UnsupportedModel, "Undo what was changed in its configuration.")(build)
    tensors, structure = capture(model, name, build)
    meta = {key: (kind, tensor.to("meta")) for key, (kind, tensor) in tensors.items()}
    empty = Skeleton(build, name).model
    try:
        restore(empty, meta, structure, name)
    except SkeletonMismatch as error:
        raise UnsupportedModel(
            name,
            f"is not what its configuration builds ({error.problem})",
            "Undo what was added to it or changed in it (adapters, layers), or make it a part of a torch.nn.Module of "
            "your own and load with skeleton=.",
        ) from error
    if differing := _differing(model, empty):
        raise UnsupportedModel(
            name,
            f"has parts of other classes than its configuration builds: {', '.join(differing)}",
            "Put back what was replaced in it, or make it a part of a torch.nn.Module of your own and load with "
            "skeleton=.",
        )
    return tensors, structure


def _differing(model, empty):
    """Where an empty model has modules of other classes than a model, and what this has, such as "act (a ReLU)"."""
    here, built = _classes(model), _classes(empty)
    differing = [place for place in {**here, **built} if here.get(place) is not built.get(place)]
    return [
        f"{place} (a {here[place].__name__})" if place in here else f"{place} (none)" for place in differing
    ]


def _classes(model):
    parts = model.named_modules(remove_duplicate=False)
    return {place: type_before_parametrizations(part) for place, part in parts}


class _NoInitialisation(TorchFunctionMode):
    """Skips ``torch.nn.init`` on the meta device: there is nothing to fill, and asking costs half the build."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__module__", None) == "torch.nn.init":
            tensor = kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
            if tensor.is_meta:
                return tensor
        return function(*args, **(kwargs or {}))


def _on_meta(build):
    with phase("build the empty model"), torch.device("meta"), _NoInitialisation():
        return build()


def _parameters_on_meta(build):
    """All else for real: what a constructor computes besides. The random state is left alone."""
    with phase("build the empty model"), torch.random.fork_rng(devices=[]), _NoInitialisation():
        with parameters_on_meta() as twins:
            model = build()
        kept = {id(parameter) for parameter in twins}
        if kept and not kept.isdisjoint(map(id, reached(model))):  # with random numbers, nobody would see it
            raise RuntimeError("the model holds a real parameter besides the empty one: build it for real")
        return model


def _for_real(build):
    """With memory and initialisation; the random state is left alone."""
    with phase("build the model for real"), torch.random.fork_rng(devices=[]):
        return build()
