"""Checks of the exercises in notebook 13: what a faster start is worth."""

import math
import statistics

from workbook.checks import A_NUMBER, about, are_two_numbers, respond


def seconds_won(answer, *, imports, reading):
    """Exercise 1: the seconds that `cold_start` takes off a start whose reading is longer than its imports.

    Examples
    --------
    >>> seconds_won(4.0, imports=4.0, reading=70.0)
    'Right. The reading hides behind the imports for as long as they last, and no longer.'
    >>> seconds_won(70.0, imports=4.0, reading=70.0)
    'Not yet. That is the whole reading. Which part of it runs beside the imports?'
    >>> seconds_won(66.0, imports=4.0, reading=70.0)
    'Not yet. That is what the service still waits for once the imports are done.'
    >>> seconds_won(1.0, imports=4.0, reading=70.0)
    'Not yet. Draw the two starts as bars below each other: what is missing from the second?'
    """
    return respond(
        answer,
        "The reading hides behind the imports for as long as they last, and no longer.",
        A_NUMBER,
        (lambda a: about(a, reading), "That is the whole reading. Which part of it runs beside the imports?"),
        (
            lambda a: about(a, reading - imports),
            "That is what the service still waits for once the imports are done.",
        ),
        (
            lambda a: not about(a, imports),
            "Draw the two starts as bars below each other: what is missing from the second?",
        ),
    )


def size_that_gains_most(answer, *, imports, bandwidth):
    """Exercise 2: the bytes of the model that wins the largest share of its start.

    Examples
    --------
    >>> size_that_gains_most(8e9, imports=4.0, bandwidth=2e9)
    'Right. A smaller model leaves the imports with nothing to hide, a larger one waits for its reading.'
    >>> size_that_gains_most(8, imports=4.0, bandwidth=2e9)
    'Not yet. The answer is a number of bytes, and yours is less than a megabyte.'
    >>> size_that_gains_most(1e9, imports=4.0, bandwidth=2e9)
    'Not yet. At this size the imports could hide more than there is to read.'
    >>> size_that_gains_most(50e9, imports=4.0, bandwidth=2e9)
    'Not yet. At this size a part of the reading finds nothing to hide behind.'
    """
    best = imports * bandwidth
    return respond(
        answer,
        "A smaller model leaves the imports with nothing to hide, a larger one waits for its reading.",
        A_NUMBER,
        (lambda a: a < 1e6, "The answer is a number of bytes, and yours is less than a megabyte."),
        (lambda a: a < 0.95 * best, "At this size the imports could hide more than there is to read."),
        (lambda a: a > 1.05 * best, "At this size a part of the reading finds nothing to hide behind."),
    )


def starts_until_saved(answer, *, saving, gained):
    """Exercise 3: the starts after which one more save is won back, against two ways to start without it.

    Examples
    --------
    >>> facts = {"saving": 7.0, "gained": [[1.7, 1.8, 1.6], [0.3, -0.1, 0.1]]}
    >>> starts_until_saved((5, None), **facts)
    'Right. What a copy is worth depends on the best that can be had without it.'
    >>> starts_until_saved((5, 70), **facts)
    'Not yet. Against the checkpoint, look at the rounds one by one: was the mapped start faster in each?'
    >>> starts_until_saved((4.1, None), **facts)
    'Not yet. Against the snippet, divide `saving` by the median of the gains, and round up to a whole start.'
    >>> starts_until_saved((None, None), **facts)
    'Not yet. Against the snippet the mapped start was faster in every round, so at some time it pays.'
    >>> starts_until_saved(5, **facts)
    'Not yet. Two answers are wanted: (against the snippet, against the checkpoint).'
    """
    expected = [math.ceil(saving / statistics.median(won)) if min(won) > 0 else None for won in gained]
    return respond(
        answer,
        "What a copy is worth depends on the best that can be had without it.",
        (
            lambda a: not are_two_numbers(a, or_none=True),
            "Two answers are wanted: (against the snippet, against the checkpoint).",
        ),
        *_hints(0, expected[0], "the snippet"),
        *_hints(1, expected[1], "the checkpoint"),
    )


def _hints(place, right, other):
    """What to say to one of several answers, each None or a number of starts."""
    return (
        (
            lambda a: right is None and a[place] is not None,
            f"Against {other}, look at the rounds one by one: was the mapped start faster in each?",
        ),
        (
            lambda a: right is not None and a[place] is None,
            f"Against {other} the mapped start was faster in every round, so at some time it pays.",
        ),
        (
            lambda a: a[place] != right,
            f"Against {other}, divide `saving` by the median of the gains, and round up to a whole start.",
        ),
    )
