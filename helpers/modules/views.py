"""Tensors as memory: their bytes, their strides, and those that lie in the memory of others.

What lies in another's memory is found while saving, stored once, and put back as a view.
"""

import torch


def same_bytes(one: object, other: object) -> bool:
    """Whether two objects are tensors that are equal to the bit."""
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return False
    flat = (tensor.detach().to(one.device).reshape(-1).view(torch.uint8) for tensor in (one, other))
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*flat)


def dense_strides(tensor: torch.Tensor) -> list | None:
    """The strides of a permuted but gapless tensor (channels_last, a transpose), else None."""
    strides = list(tensor.stride())
    return strides if not tensor.is_contiguous() and is_dense(tensor.shape, strides) else None


def is_dense(shape: list, strides: list) -> bool:
    """Whether strides visit every element of a block of memory once, in whatever order."""
    expected = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def extent(shape: list, strides: list) -> int:
    """How many elements of memory a tensor spans."""
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def share(tensors: dict, structure: dict) -> list[str]:
    """Take out of the tensors those that are views of another, and note them in the structure.

    Parameters
    ----------
    tensors : dict of str to (str, torch.Tensor)
        Kind and tensor by name. Changed in place.
    structure : dict
        Its ``"shared"`` and ``"views"`` are filled.

    Returns
    -------
    list of str
        What overlaps in a way that cannot be put back, in words.
    """
    problems, near = [], {}
    filled = {name: tensor for name, (_, tensor) in tensors.items() if tensor.numel()}
    for name, tensor in sorted(filled.items(), key=lambda item: _place(item[1])):
        near = {base: other for base, other in near.items() if _end(other) > _place(tensor)}
        views = {base: view for base, other in near.items() if (view := _view(tensor, other))}
        if views:
            base, view = next(iter(views.items()))
            structure["shared"][name] = base
            if view != _view(near[base], near[base]):
                structure.setdefault("views", {})[name] = view
            del tensors[name]
        else:
            problems += [f"{name} (overlaps {base})" for base, other in near.items() if _meet(other, tensor)]
            near[name] = tensor
    return problems


def lay_out(tensors: dict, structure: dict) -> dict[str, torch.Tensor]:
    """Each tensor of a structure, by name, with its strides; views lie in the memory of their base."""
    laid = {name: tensor.detach() for name, (_, tensor) in tensors.items()}
    for name, strides in structure["strides"].items():
        tensor = laid[name]
        place = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)
        laid[name] = place.copy_(tensor)
    views = structure.get("views", {})
    for name, base in structure["shared"].items():
        tensor = laid[base]
        offset, shape, strides = views.get(name, (0, tensor.shape, tensor.stride()))
        laid[name] = tensor.as_strided(shape, strides, tensor.storage_offset() + offset)
    return laid


def _place(tensor):
    """Sorts by the beginning in memory; what can be the base of others comes before them."""
    dense = tensor.is_contiguous() or is_dense(tensor.shape, tensor.stride())
    return str(tensor.device), tensor.data_ptr(), not dense, -tensor.numel()


def _end(tensor):
    stop = tensor.data_ptr() + extent(tensor.shape, tensor.stride()) * tensor.itemsize
    return str(tensor.device), stop


def _view(tensor, base):
    """Offset, shape and strides of a tensor in a base, or None."""
    marks = [(t.dtype, t.is_conj(), t.is_neg()) for t in (tensor, base)]
    offset, rest = divmod(tensor.data_ptr() - base.data_ptr(), base.itemsize)
    view = [offset, list(tensor.shape), list(tensor.stride())]
    within = offset + extent(*view[1:]) <= base.numel() and is_dense(base.shape, base.stride())
    same = view == [0, list(base.shape), list(base.stride())]
    return view if marks[0] == marks[1] and not rest and (within or same) else None


def _meet(base, tensor):
    """Whether two tensors have a byte in common; the base begins first."""
    size = max(_end(base), _end(tensor))[1] - base.data_ptr()
    touched = torch.zeros(2, size, dtype=torch.bool)
    for row, each in zip(touched, (base, tensor), strict=True):
        strides = [stride * each.itemsize for stride in each.stride()]
        flat = row[each.data_ptr() - base.data_ptr() :]
        flat.as_strided((*each.shape, each.itemsize), (*strides, 1)).fill_(True)
    return bool(touched.all(0).any())
