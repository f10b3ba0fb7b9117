"""Notebook 02: what a lookup reads, what a cast costs in memory, and reading and copying at the same time."""

from workbook.checks import about, respond


def lookup_bytes(answer, *, width, element):
    """How many bytes of the embedding the lookup of one token needs.

    Examples
    --------
    >>> lookup_bytes(1152, width=576, element=2)
    'Right. The system reads whole pages and some of their neighbours, but nothing else of the matrix is needed.'
    >>> lookup_bytes(576, width=576, element=2)
    'Not yet. That is how many numbers a row has. Each of them takes more than one byte.'
    """
    return respond(
        answer,
        "The system reads whole pages and some of their neighbours, but nothing else of the matrix is needed.",
        (lambda a: a == width, "That is how many numbers a row has. Each of them takes more than one byte."),
        (lambda a: a == 2 * element * width, "The model computes in the type in which it was saved: two bytes."),
        (lambda a: a > 1_000_000, "A lookup does not read the matrix, it picks one row of it."),
        (lambda a: a % 4096 == 0, "The system will read whole pages. How many bytes does the lookup itself need?"),
        (lambda a: a != width * element, "One row: its length times the bytes of a number."),
    )  # fmt: skip


def private_after_cast(answer, *, weights, factor):
    """How many MB of private memory a load takes that turns bfloat16 into float32.

    Examples
    --------
    >>> private_after_cast(538, weights=269.0, factor=2)
    'Right. A cast writes every number anew, so nothing can be shared with the file any more.'
    >>> private_after_cast(0, weights=269.0, factor=2)
    'Not yet. The file holds no float32 numbers that a view could show. Where do they come from?'
    """
    return respond(
        answer,
        "A cast writes every number anew, so nothing can be shared with the file any more.",
        (lambda a: a < 0.1 * weights, "The file holds no float32 numbers that a view could show. "
         "Where do they come from?"),
        (lambda a: about(a, weights, 0.1), "That would be the same numbers in the same type."),
        (lambda a: about(a, (factor + 1) * weights, 0.1), "The pages of the file are shared: they do not count."),
        (lambda a: not about(a, factor * weights, 0.1), "A float32 takes four bytes, a bfloat16 two."),
    )  # fmt: skip


def pipeline(answer, *, gigabytes, disk, bus):
    """Seconds for reading and copying one after the other, and at the same time in small pieces.

    Examples
    --------
    >>> pipeline((7.5, 7.0), gigabytes=14, disk=2.0, bus=28.0)
    'Right. At the same time costs as much as the slower of the two alone, and that is the disk.'
    >>> pipeline((7.5, 0.5), gigabytes=14, disk=2.0, bus=28.0)
    'Not yet. The bus has to wait for what the disk has not delivered yet.'
    """
    read, copy = gigabytes / disk, gigabytes / bus
    return respond(
        answer,
        "At the same time costs as much as the slower of the two alone, and that is the disk.",
        (lambda a: len(a) != 2, "Two numbers in brackets: one after the other, then at the same time."),
        (lambda a: about(a[0], max(read, copy), 0.01), "One after the other: both times add up."),
        (lambda a: not about(a[0], read + copy, 0.01), "First number: gigabytes divided by speed, for each of the two, "
         "added."),
        (lambda a: about(a[1], min(read, copy), 0.01), "The bus has to wait for what the disk has not delivered yet."),
        (lambda a: about(a[1], (read + copy) / 2, 0.01), "Two things at once are not done in the mean of their times."),
        (lambda a: not about(a[1], max(read, copy), 0.02), "Which of the two is done last, if both begin at once?"),
    )  # fmt: skip
