"""Torch tensors as bytes and back."""

import mmap
from typing import Any

import torch

from helpers.format import layout
from helpers.weights import onto_gpu, ring

Tensors = dict[str, tuple[str, torch.Tensor]]  # kind (see `helpers.format.layout.KINDS`) and tensor by name


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.bfloat16`` as ``"bfloat16"``."""
    return str(dtype).removeprefix("torch.")


def entries_of(tensors: Tensors) -> list[layout.Entry]:
    """What is stored of each tensor besides its data; not yet where."""
    return [
        layout.Entry(name, kind, dtype_name(tensor.dtype), tuple(tensor.shape), 0)
        for name, (kind, tensor) in tensors.items()
    ]


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The data of a tensor in row-major order, wherever it lies; a copy only if it is not so already."""
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().reshape(-1)
    if flat.stride() != (1,):  # a single element counts as contiguous whatever its stride is
        flat = flat.clone(memory_format=torch.contiguous_format)
    data: Any = flat.view(torch.uint8).numpy()
    return memoryview(data)


def view(raw: mmap.mmap, entry: layout.Entry) -> torch.Tensor:
    """One tensor of a mapped file, without a copy where its data is aligned.

    Parameters
    ----------
    raw : mmap.mmap
        The whole file; the tensor keeps it alive.
    entry : helpers.format.layout.Entry
        Checked to lie inside the file.

    Returns
    -------
    torch.Tensor
        A view; a copy if a file from elsewhere put the data at a misaligned offset.
    """
    dtype = getattr(torch, entry.dtype)
    if entry.nbytes == 0:
        return torch.empty(entry.shape, dtype=dtype)
    flat = torch.frombuffer(raw, dtype=torch.uint8, count=entry.nbytes, offset=entry.offset)
    if entry.offset % layout.ALIGNMENT:
        flat = flat.clone()
    return flat.view(dtype).view(entry.shape)


def views(raw: mmap.mmap, entries: list[layout.Entry], device: Any) -> Tensors:
    """Kind and tensor by name: views of the map where the device is the CPU, else copies on the device."""
    if torch.device(device).type == "cuda" and onto_gpu.way == "ring":
        loaded = ring.from_memory(raw, entries, torch.device(device))
        return {entry.name: (entry.kind, loaded[entry.name]) for entry in entries}
    return {entry.name: (entry.kind, view(raw, entry).to(device)) for entry in entries}
