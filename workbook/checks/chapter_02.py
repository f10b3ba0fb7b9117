"""Notebook 02: what a lookup reads, what a cast costs in memory, and a load in pieces."""

from workbook.checks import A_NUMBER, about, respond


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
        A_NUMBER,
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
        A_NUMBER,
        (lambda a: a < 0.1 * weights, "The file holds no float32 numbers that a view could show. "
         "Where do they come from?"),
        (lambda a: about(a, weights, 0.1), "That would be the same numbers in the same type."),
        (lambda a: about(a, (factor + 1) * weights, 0.1), "The pages of the file are shared: they do not count."),
        (lambda a: not about(a, factor * weights, 0.1), "A float32 takes four bytes, a bfloat16 two."),
    )  # fmt: skip


def pipeline(answer, *, pieces, speeds):
    """Seconds until the last of several pieces of 1 GB has passed parts that work at the same time.

    Examples
    --------
    >>> pipeline(2.94, pieces=14, speeds=(5, 10, 25))
    'Right. The slowest part works without a break, and only the last piece has to wait for the others.'
    >>> pipeline(2.8, pieces=14, speeds=(5, 10, 25))
    'Not yet. When the slowest part is done, the last piece has not passed the others yet.'
    """
    piece = [1 / speed for speed in speeds]
    slowest = pieces * max(piece)
    return respond(
        answer,
        "The slowest part works without a break, and only the last piece has to wait for the others.",
        A_NUMBER,
        (lambda a: about(a, pieces * sum(piece), 0.01), "That is one piece after the other, with two parts idle at any "
         "time."),
        (lambda a: about(a, slowest, 0.01), "When the slowest part is done, the last piece has not passed the others "
         "yet."),
        (lambda a: a < slowest, "It cannot be faster than its slowest part alone."),
        (lambda a: about(a, slowest + sum(piece), 0.01), "The last piece's time in the slowest part counts once."),
        (lambda a: not about(a, slowest + sum(piece) - max(piece), 0.01), "Follow the last piece: when does the "
         "slowest part finish it, and where does it have to go from there?"),
    )  # fmt: skip
