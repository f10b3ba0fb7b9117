"""Checks of notebook 12: the answers are functions, which are called on cases here."""

import torch

from workbook.checks import respond

_NOT_A_FUNCTION = (
    lambda answer: not callable(answer),
    "The answer is the function itself: answer = name, without parentheses.",
)


def align(answer):
    """Whether a function gives the smallest multiple that is not below an offset.

    Examples
    --------
    >>> align(lambda offset, to: offset + -offset % to)
    'Right. Every tensor can start where direct I/O can read, and none lies in another.'
    >>> align(lambda offset, to: offset // to * to)
    'Not yet. Some results lie below the offset, inside the tensor before.'
    """
    cases = [(offset, to) for to in (64, 4096) for offset in (0, 1, 63, 64, 65, 4095, 4096, 4097)]
    return respond(
        answer,
        "Every tensor can start where direct I/O can read, and none lies in another.",
        _NOT_A_FUNCTION,
        (
            lambda f: any(type(f(*case)) is not int for case in cases),
            "It has to take an offset and a multiple, and return a whole number (/ gives none, // does).",
        ),
        (
            lambda f: any(f(*case) < case[0] for case in cases),
            "Some results lie below the offset, inside the tensor before.",
        ),
        (lambda f: any(f(*case) % case[1] for case in cases), "Some results are no multiples of `to`."),
        (
            lambda f: any(f(to, to) != to for _, to in cases),
            "An offset that is a multiple already should stay where it is.",
        ),
        (
            lambda f: any(f(*case) >= sum(case) for case in cases),
            "There is a smaller multiple that would do.",
        ),
    )


def outside(answer):
    """Whether a function names the tensors that do not lie inside a file.

    Examples
    --------
    >>> def right(rows, start, size):
    ...     def end(dtype, shape, offset):
    ...         return start + offset + torch.Size(shape).numel() * getattr(torch, dtype).itemsize
    ...     return [name for name, row in rows.items() if row[2] < 0 or end(*row[:3]) > size]
    >>> outside(right)
    'Right. With this before the views are made, no header can show bytes that are no weights.'
    >>> outside(lambda rows, start, size: [])
    'Not yet. A file that was cut by one byte should have its last tensor named.'
    """
    rows = {"a": ["float32", [2, 3], 0, ""], "none": ["float32", [0], 24, ""], "b": ["bfloat16", [5], 64, ""]}
    before = {"a": ["uint8", [4], -4, ""]}
    scalar = {"a": ["float64", [], 0, ""]}
    return respond(
        answer,
        "With this before the views are made, no header can show bytes that are no weights.",
        _NOT_A_FUNCTION,
        (
            lambda f: not all(name in rows for name in f(rows, 128, 128 + 74)),
            "It has to take rows, start and size, and return a list of names.",
        ),
        (
            lambda f: len(f(rows, 128, 128 + 74)) > 0,
            "In a file that fits exactly nothing should be named. Offsets count from `start`.",
        ),
        (
            lambda f: list(f(rows, 128, 128 + 73)) != ["b"],
            "A file that was cut by one byte should have its last tensor named.",
        ),
        (
            lambda f: sorted(f(rows, 128, 128 + 23)) not in (["a", "b"], ["a", "b", "none"]),
            "Where less is left, every tensor that no longer fits should be named.",
        ),
        (lambda f: list(f(before, 128, 1000)) != ["a"], "An offset may point backwards, into the header."),
        (
            lambda f: list(f(scalar, 8, 15)) != ["a"] or len(f(scalar, 8, 16)) > 0,
            "A shape without dimensions is one number: the product of nothing is 1.",
        ),
    )


def key(answer):
    """Whether a function tells tensors that are one from tensors that are not.

    Examples
    --------
    >>> key(lambda tensor: (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()))
    'Right. Ties are stored once, and what only shares some memory keeps its own numbers.'
    >>> key(lambda tensor: tensor.data_ptr())
    'Not yet. The first row of a matrix begins at the same address and is another tensor.'
    """
    matrix, square = torch.arange(6.0).view(2, 3), torch.arange(4.0).view(2, 2)

    def same(function, one, other):
        return function(one) == function(other)

    return respond(
        answer,
        "Ties are stored once, and what only shares some memory keeps its own numbers.",
        _NOT_A_FUNCTION,
        (
            lambda f: len({f(matrix): 1, f(square): 2}) != 2,
            "It has to return something that can be a key of a dictionary: no list, and no tensor.",
        ),
        (
            lambda f: (
                not same(f, matrix, matrix.view(2, 3)) or not same(f, matrix, torch.nn.Parameter(matrix))
            ),
            "The same memory seen in the same way should have the same key, whichever object holds it.",
        ),
        (
            lambda f: same(f, matrix, matrix.clone()),
            "Two tensors with equal numbers in two places are no tie: training may change one of them.",
        ),
        (
            lambda f: same(f, matrix, matrix[0]),
            "The first row of a matrix begins at the same address and is another tensor.",
        ),
        (
            lambda f: same(f, matrix, matrix.view(3, 2)),
            "The same bytes in another shape are another tensor.",
        ),
        (
            lambda f: same(f, square, square.T),
            "A square matrix and its transpose have one address and one shape, and differ in the order of the bytes.",
        ),
        (
            lambda f: same(f, matrix, matrix.view(torch.int32)),
            "The same bytes read as another type are other numbers.",
        ),
    )
