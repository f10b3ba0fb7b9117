"""Parameters that stay on the meta device while all else of a model is built for real: the twin of each.

A module asks torch's hooks before it takes a parameter, and takes what they give it. The constructor still holds the
real parameter and may pass it on: so each has one twin, however often it is registered, and whoever builds learns
which of the real ones are still held.
"""

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils.weak import WeakTensorKeyDictionary

from helpers.modules.parameters import parameter_like


class _Thread(threading.local):
    """What the hook knows of the thread that it is called in."""

    twins: Any = None  # None outside `parameters_on_meta`


_thread, _first = _Thread(), threading.Lock()


@contextlib.contextmanager
def parameters_on_meta() -> Iterator[Any]:
    """Let the modules that this thread builds inside the block take twins on meta for their parameters.

    Returns
    -------
    torch.utils.weak.WeakTensorKeyDictionary
        The twin of each real parameter that is still held somewhere; what nobody holds is freed at once.

    Examples
    --------
    >>> import torch
    >>> with parameters_on_meta():
    ...     layer = torch.nn.Linear(2, 2)
    >>> layer.weight.device
    device(type='meta')
    """
    with _first:
        _hook()
    before, _thread.twins = _thread.twins, WeakTensorKeyDictionary()
    try:
        yield _thread.twins
    finally:
        _thread.twins = before


@functools.cache
def _hook():
    """Registered at the first need and for good: to take it away fails a build in another thread that is at it."""
    return register_module_parameter_registration_hook(_twin)


def _twin(module, name, parameter):
    twins = _thread.twins
    if twins is None or parameter.is_meta:
        return None  # as it is
    if parameter not in twins:
        twin = parameter_like(parameter, parameter.detach().to("meta"), parameter.requires_grad)
        twin.__dict__ = vars(parameter)  # what the constructor marks later is marked on both
        twins[parameter] = twin
    return twins[parameter]
