"""Checks of the exercises in notebook 13: what a faster start is worth."""

from workbook.checks import about, respond


def seconds_won(answer, *, imports, reading):
    """Exercise 1: the seconds that prefetch takes off a start whose reading is longer than its imports.

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
        (lambda a: a < 1e6, "The answer is a number of bytes, and yours is less than a megabyte."),
        (lambda a: a < 0.95 * best, "At this size the imports could hide more than there is to read."),
        (lambda a: a > 1.05 * best, "At this size a part of the reading finds nothing to hide behind."),
    )


def starts_until_saved(answer):
    """Exercise 3: the starts after which one more save is won back, if prefetch is the only gain.

    Examples
    --------
    >>> starts_until_saved("never")
    'Right. The gain needs no second copy; a saved form pays for what it does beyond the best loader without one.'
    >>> starts_until_saved(12)
    'Not yet. Would `from_pretrained` with prefetch not win the same seconds, without the copy?'
    """
    return respond(
        answer,
        "The gain needs no second copy; a saved form pays for what it does beyond the best loader without one.",
        (
            lambda a: str(a).strip().lower() != "never",
            "Would `from_pretrained` with prefetch not win the same seconds, without the copy?",
        ),
    )
