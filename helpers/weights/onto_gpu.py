"""Which way weights take onto a GPU, and what is said where they do not fit."""

import gc
import traceback

import torch

from helpers.errors import ModelError
from helpers.storage import memory

# The one place where the way is chosen:
# - "tensorizer": a file is read by tensorizer, by eight threads. Each has one pinned buffer as large as its
#   largest tensor, and waits until the GPU has fetched a tensor before it reads the next. What is mapped or
#   came from a store is copied tensor by tensor, through the driver's own buffer.
# - "ring": `helpers.weights.ring`, by four threads with two small pinned buffers each, so that reading and
#   copying overlap within a thread too.
# tensorizer's way stays until both have been measured on a GPU: it has served longer, and no recorded figure
# speaks for the other one yet. `make gpu` measures both ("helpers read" and "helpers ring").
way = "tensorizer"


def let_go(error: BaseException) -> None:
    """Let go of all that the functions held that an error ended, and give the memory back to the device.

    An error that is kept (a debugger does so, a notebook too) keeps these functions' variables alive
    otherwise, and with them tensors on the device.

    Parameters
    ----------
    error : BaseException
        Caught, and not to be raised again.
    """
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def does_not_fit(label: str, device: torch.device, needed: int) -> ModelError:
    """The error for weights that a device has too little memory for.

    Parameters
    ----------
    label : str
        Of the model.
    device : torch.device
    needed : int
        Bytes.

    Returns
    -------
    ModelError
    """
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return ModelError(
        label,
        f"does not fit on {device}: its weights need {needed:,} bytes there, {free_bytes(device):,} are free",
        "Free memory there, choose another device, or load a part of it with only=.",
    )


def free_bytes(device: torch.device) -> int:
    """Memory of a device that this process may still take: what is free there, and within its own limit.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    int
    """
    if device.type != "cuda":
        return memory.available_bytes()
    free, whole = torch.cuda.mem_get_info(device)
    share = torch.cuda.get_per_process_memory_fraction(device)
    return max(0, min(free, int(share * whole) - torch.cuda.memory_reserved(device)))
