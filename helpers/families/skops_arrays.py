"""skops with the arrays kept apart: it describes, audits and rebuilds an object, and no array goes through it.

skops puts each array into a zip file in memory: that is one copy more while saving, and two while loading. Here
it is given something else in the place of the zip file, which takes the arrays as they are and gives them back
as they are. skops has no documented way for that, so this file, and no other, uses its internals.
"""

import io
import json
import warnings
from typing import Any

import numpy as np
import scipy.sparse
import skops
import torch
from skops.io import _numpy, _persist, _scipy, _sklearn
from skops.io._audit import NODE_TYPE_MAPPING, Node, get_tree
from skops.io._protocol import PROTOCOL
from skops.io._utils import SaveContext, get_module, get_state, gettype, read_schema

SCHEMA = "schema.json"
_SPARSE = {  # what a sparse matrix is made of besides its data and its shape, by its format
    "csr": ("indices", "indptr"),
    "csc": ("indices", "indptr"),
    "bsr": ("indices", "indptr"),
    "dia": ("offsets",),
    "coo": ("row", "col"),
}


class Apart:
    """What skops takes for its zip file.

    Attributes
    ----------
    files : dict of str to bytes
        All that is no array, ``schema.json`` among it.
    arrays : dict of str to numpy.ndarray, or to a dict of them
        By the name of the ``.npy`` file that skops would have written; what a sparse matrix is made of by
        the name of its ``.npz`` file.
    """

    def __init__(self, files: dict, arrays: dict):
        self.files, self.arrays = files, arrays

    def namelist(self) -> dict:
        return self.files

    def writestr(self, name: str, content: Any) -> None:
        self.files[name] = bytes(content)

    def read(self, name: str) -> bytes:
        return b"" if name in self.arrays else self.files[name]


class _Numbered(SaveContext):
    """Names what is saved by running numbers, not by places in memory, so that two saves are equal."""

    def memoize(self, obj):
        number, _ = self.memo.setdefault(id(obj), (len(self.memo) + 1, obj))  # to skops 0 is no number
        return number


def describe(model: object) -> Apart:
    """Let skops say how an object is made; raises many types."""
    apart = Apart({}, {})
    state = get_state(model, _Numbered(zip_file=apart))
    state |= {"protocol": PROTOCOL, "_skops_version": skops.__version__}
    apart.writestr(SCHEMA, json.dumps(state, indent=2).encode())
    return apart


def tree_of(apart: Apart, *, rehearsal: bool = False) -> Node:
    """The nodes of a description: they can be audited, nothing is made before ``construct()``; raises many types.

    For a rehearsal decision trees are left out: they are surely made again, and each would copy its arrays.
    """
    schema, context = read_schema(apart)
    _take_apart(schema, apart.arrays)
    root = get_tree(schema, context, trusted=None)
    for node in context.memo.values() if rehearsal else ():
        if isinstance(node, _sklearn.TreeNode):
            node._constructed = None
    return root


def flat(arrays: dict) -> dict[str, np.ndarray]:
    """The arrays by one name each, those of sparse matrices too."""
    named = {}
    for name, held in arrays.items():
        named |= (
            {f"{name}/{key}": each for key, each in held.items()} if isinstance(held, dict) else {name: held}
        )
    return named


def nested(named: dict[str, np.ndarray]) -> dict:
    """What `flat` has made one level of."""
    arrays: dict[str, Any] = {}
    for name, array in named.items():
        outer, _, key = name.partition("/")
        if key:
            arrays.setdefault(outer, {})[key] = array
        else:
            arrays[name] = array
    return arrays


def part(array: np.ndarray) -> tuple[bytes, torch.Tensor]:
    """An array as the header of its ``.npy`` file and a tensor over its memory; types that torch lacks become bytes."""
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        array = array.copy()
    head = io.BytesIO()
    try:
        np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    except ValueError:
        # long, or with the names of fields in other alphabets: numpy has no function for its header
        np.save(head, array, allow_pickle=False)
        head.truncate(head.tell() - array.nbytes)
    array = array.T if np.isfortran(array) else array
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # it is only read
        try:
            return head.getvalue(), torch.from_numpy(array)
        except (TypeError, ValueError):  # structured, text, big-endian
            raw = array.reshape(-1).view(np.uint8) if array.nbytes else np.empty(0, np.uint8)
            return head.getvalue(), torch.from_numpy(raw)


def whole(head: bytes, tensor: torch.Tensor) -> np.ndarray:
    """The array of this header, over the memory of the tensor; raises ValueError if they do not fit."""
    data, file = tensor.contiguous().reshape(-1).view(torch.uint8).numpy(), io.BytesIO(head)
    if np.lib.format.read_magic(file) != (1, 0):
        return np.load(io.BytesIO(head + data.tobytes()), allow_pickle=False)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError("an array of objects has no data")
    array = np.ndarray(shape, dtype, data, order="F" if fortran else "C")
    if array.nbytes != data.nbytes:
        raise ValueError(f"an array of {array.nbytes} bytes has {data.nbytes}")
    return array


def _take_apart(state, arrays):
    """Let the nodes below, instead of those of skops, make what is in these arrays."""
    if isinstance(state, dict):
        if state.get("__loader__") in _LOADERS and state.get("file") in arrays:
            state["__loader__"] = _LOADERS[state["__loader__"]]
        state = state.values()
    if not isinstance(state, str):
        for below in state:
            if isinstance(below, (dict, list)):
                _take_apart(below, arrays)


class _ArrayNode(_numpy.NdArrayNode):
    """An array, or a scalar of numpy, audited as skops' own node of it."""

    def __init__(self, state, load_context, trusted=None):
        super().__init__(state, load_context, trusted)
        self.array = load_context.src.arrays[state["file"]]

    def _construct(self):
        kind = self.module_name, self.class_name
        return self.array if kind == ("numpy", "ndarray") else gettype(*kind)(self.array)


class _SparseNode(_scipy.SparseMatrixNode):
    """A sparse matrix, audited as skops' own node; made as ``scipy.sparse.load_npz`` does, of these very arrays."""

    def __init__(self, state, load_context, trusted=None):
        super().__init__(state, load_context, trusted)
        self.parts = {
            key.removesuffix(".npy"): array for key, array in load_context.src.arrays[state["file"]].items()
        }

    def _construct(self):
        form = self.parts["format"].item().decode()
        kind = "array" if self.parts.get("_is_array") else "matrix"
        places = [self.parts[key] for key in _SPARSE[form] if key in self.parts] or self.parts["coords"]
        if form == "coo":
            places = [tuple(places)]
        make = getattr(scipy.sparse, f"{form}_{kind}")
        matrix = make((self.parts["data"], *places), shape=tuple(self.parts["shape"]))
        # that has copied what has room to spare, or indices that smaller types hold too
        matrix.data = self.parts["data"]
        for key, held in zip(("coords",) if form == "coo" else _SPARSE[form], places, strict=True):
            setattr(matrix, key, held)
        return matrix


_LOADERS = {"NdArrayNode": "helpers.ArrayNode", "SparseMatrixNode": "helpers.SparseNode"}
NODE_TYPE_MAPPING[_LOADERS["NdArrayNode"], PROTOCOL] = _ArrayNode
NODE_TYPE_MAPPING[_LOADERS["SparseMatrixNode"], PROTOCOL] = _SparseNode


def _array_state(array, context):
    apart = isinstance(context.zip_file, Apart)
    # skops makes it again from nested lists, where what is empty or holds lists takes another shape
    nested_lists = apart and array.dtype == object and array.ndim > 1
    if nested_lists and np.array(array.tolist(), dtype=object).shape != array.shape:
        raise ValueError(f"an array of objects of shape {array.shape} would lose its shape")
    if not apart or array.dtype.hasobject:
        return _numpy.ndarray_get_state(array, context)
    name = f"{context.memoize(array)}.npy"
    context.zip_file.arrays[name] = np.asarray(array)
    return _state(array, "NdArrayNode", "numpy", name)


def _masked_state(array, context):
    default = np.ma.empty(0, array.dtype).fill_value
    if isinstance(context.zip_file, Apart) and str(array.fill_value) != str(default):
        raise ValueError(f"a masked array would lose its fill_value, {array.fill_value!r}")
    return _numpy.maskedarray_get_state(array, context)


def _sparse_state(matrix, context):
    plain = matrix.format in _SPARSE and matrix.ndim == 2
    if not isinstance(context.zip_file, Apart) or not plain:
        return _scipy.sparse_matrix_get_state(matrix, context)
    name = f"{context.memoize(matrix)}.npz"
    parts = {"format": matrix.format.encode(), "shape": matrix.shape, "data": matrix.data}
    parts |= {key: getattr(matrix, key) for key in _SPARSE[matrix.format]}
    if isinstance(matrix, scipy.sparse.sparray):
        parts["_is_array"] = True
    context.zip_file.arrays[name] = {f"{key}.npy": np.asarray(each) for key, each in parts.items()}
    return _state(matrix, "SparseMatrixNode", "scipy", name)


def _state(held, loader, kind, name):
    cls = type(held)
    return {
        "__class__": cls.__name__,
        "__module__": get_module(cls),
        "__loader__": loader,
        "type": kind,
        "file": name,
    }


# What others save by skops goes on as before: the context of their saves has a real zip file.
for _kind in (np.ndarray, np.generic):
    _persist._get_state.register(_kind, _array_state)
_persist._get_state.register(np.ma.MaskedArray, _masked_state)
for _kind in (scipy.sparse.spmatrix, scipy.sparse.sparray):
    _persist._get_state.register(_kind, _sparse_state)
