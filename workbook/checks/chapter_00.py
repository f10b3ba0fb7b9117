"""Notebook 00: what a faster load can change, what belongs to a trick, and where a start should be shortened."""

from workbook.checks import A_NUMBER, about, are_two_numbers, respond


def share_left(answer, *, whole, load):
    """Which share of a start is left if the load takes no time at all.

    Examples
    --------
    >>> share_left(0.9, whole=5.0, load=0.5)
    'Right. Whatever the loader does, the rest of the start stays: this is the limit of all faster loaders.'
    >>> share_left(0.1, whole=5.0, load=0.5)
    'Not yet. That is the share that goes away. Which share stays?'
    """
    return respond(
        answer,
        "Whatever the loader does, the rest of the start stays: this is the limit of all faster loaders.",
        A_NUMBER,
        (lambda a: about(a, load / whole) and not about(load, whole / 2), "That is the share that goes away. "
         "Which share stays?"),
        (lambda a: about(a, whole - load) and a > 1, "Those are seconds. Divide them by the whole start."),
        (lambda a: not 0 <= a <= 1, "A share lies between 0 and 1."),
        (lambda a: not about(a, 1 - load / whole, 0.01), "Add up the four parts for the whole start, leave the "
         "load out, and divide by the whole."),
    )  # fmt: skip


def share_of_the_trick(answer, *, plain, trick, both):
    """Which share of the seconds that both save together the trick saves alone.

    Examples
    --------
    >>> share_of_the_trick(0.8, plain=12.0, trick=8.0, both=7.0)
    'Right. What the trick does not save alone is what the format adds, if it adds anything.'
    >>> share_of_the_trick(8 / 12, plain=12.0, trick=8.0, both=7.0)
    'Not yet. That is how long a start takes with the trick. How much does the trick save?'
    """
    saved = (plain - trick) / (plain - both)
    return respond(
        answer,
        "What the trick does not save alone is what the format adds, if it adds anything.",
        A_NUMBER,
        (lambda a: about(a, trick / plain, 0.01) and not about(saved, trick / plain, 0.01),
         "That is how long a start takes with the trick. How much does the trick save?"),
        (lambda a: about(a, (plain - trick) / plain, 0.01) and not about(saved, (plain - trick) / plain, 0.01),
         "That is the saving as a share of the whole start. Divide by what both save together."),
        (lambda a: about(a, 1 / saved, 0.01) and not about(saved, 1, 0.02), "Turn the fraction round."),
        (lambda a: not about(a, saved, 0.01), "Seconds saved by the trick, divided by seconds saved by both."),
    )  # fmt: skip


def savings(answer, *, budget):
    """Seconds that two proposals save: the loads' time halved, and an image that is on the machine already.

    Examples
    --------
    >>> savings((2.5, 20), budget={"image": 20, "weights": 5, "imports": 6})
    'Right. The larger saving lies where no loader reaches. That is why the budget comes first.'
    >>> savings((5, 20), budget={"image": 20, "weights": 5, "imports": 6})
    'Not yet. The first proposal halves the time for the weights. It does not remove it.'
    """
    return respond(
        answer,
        "The larger saving lies where no loader reaches. That is why the budget comes first.",
        (lambda a: not are_two_numbers(a), "Two numbers in brackets: the seconds that each proposal saves."),
        (lambda a: about(a[0], budget["weights"]), "The first proposal halves the time for the weights. "
         "It does not remove it."),
        (lambda a: about(a[0], budget["image"]), "Give the proposals in their order: the weights first."),
        (lambda a: not about(a[0], budget["weights"] / 2), "The first proposal changes the weights alone."),
        (lambda a: not about(a[1], budget["image"]), "The second proposal removes the pull of the image. "
         "All else stays as it is."),
    )  # fmt: skip
