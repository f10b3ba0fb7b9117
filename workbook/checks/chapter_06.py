"""Checks of notebook 06: what a trick gives, what a faster load gives, when saving is won back."""

import math
import statistics

from workbook.checks import about, respond


def share_of_the_trick(answer, *, plain, trick, both):
    """Exercise 1: the trick's share of a gain that was reached by trick and format together.

    Parameters
    ----------
    answer : float
    plain, trick, both : float
        Seconds of the start without either, with the trick alone, and with trick and format.

    Returns
    -------
    str

    Examples
    --------
    >>> share_of_the_trick(0.75, plain=12.0, trick=9.0, both=8.0)
    'Right. This part of the gain needs no other file: every loader can have it.'
    >>> share_of_the_trick(75, plain=12.0, trick=9.0, both=8.0)
    'Not yet. A share is wanted: a number near 1 at most, no percentage.'
    >>> share_of_the_trick(0.25, plain=12.0, trick=9.0, both=8.0)
    "Not yet. That is the format's part. The trick's is what from_pretrained gains when cold_start alone is added."
    >>> share_of_the_trick(9 / 12, plain=12.0, trick=9.0, both=10.0)
    'Not yet. Divide the seconds that the trick saves by the seconds that both together save.'
    """
    share = (plain - trick) / (plain - both)
    return respond(
        answer,
        "This part of the gain needs no other file: every loader can have it.",
        (lambda a: not 0 <= a < 10, "A share is wanted: a number near 1 at most, no percentage."),
        (
            lambda a: about(a, 1 - share) and not about(a, share),
            "That is the format's part. The trick's is what from_pretrained gains when cold_start alone is added.",
        ),
        (
            lambda a: not about(a, share),
            "Divide the seconds that the trick saves by the seconds that both together save.",
        ),
    )


def start_with_a_faster_load(answer, *, whole, load, times):
    """Exercise 2: how long a start takes when its load alone becomes faster.

    Parameters
    ----------
    answer : float
        Seconds.
    whole, load : float
        Seconds of the whole start and of the load in it.
    times : float
        How many times as fast the load becomes.

    Returns
    -------
    str

    Examples
    --------
    >>> start_with_a_faster_load(8.06, whole=11.0, load=3.0, times=50)
    'Right. However fast the load becomes, the rest of the start stays.'
    >>> start_with_a_faster_load(0.22, whole=11.0, load=3.0, times=50)
    'Not yet. Only the load becomes faster, and you have divided the whole start.'
    >>> start_with_a_faster_load(0.06, whole=11.0, load=3.0, times=50)
    'Not yet. That is the new load alone. Add what the start consists of besides.'
    >>> start_with_a_faster_load(9, whole=11.0, load=3.0, times=50)
    'Not yet. Take the old load away from the start and put the new one in its place.'
    """
    return respond(
        answer,
        "However fast the load becomes, the rest of the start stays.",
        (
            lambda a: about(a, whole / times),
            "Only the load becomes faster, and you have divided the whole start.",
        ),
        (
            lambda a: about(a, load / times),
            "That is the new load alone. Add what the start consists of besides.",
        ),
        (
            lambda a: not about(a, whole - load + load / times, within=0.01),
            "Take the old load away from the start and put the new one in its place.",
        ),
    )


def starts_until_won_back(answer, *, saving, gains):
    """Exercise 3: after how many starts a saving is won back, for several services.

    Parameters
    ----------
    answer : sequence of (int or None)
        One for each service; None where its rounds do not show a gain.
    saving : float
        Seconds that saving the model once more takes.
    gains : sequence of list of float
        For each service the seconds that a start has become faster, round by round.

    Returns
    -------
    str

    Examples
    --------
    >>> gains = [[1.0, 1.2, 1.1], [0.3, -0.1, 0.1]]
    >>> starts_until_won_back((5, None), saving=5.0, gains=gains)
    'Right. A median alone would have promised the second service a gain that its rounds do not show.'
    >>> starts_until_won_back((5, 50), saving=5.0, gains=gains)
    'Not yet. Look at the rounds of the second service one by one: is every start faster than before?'
    >>> starts_until_won_back((4.55, None), saving=5.0, gains=gains)
    'Not yet. Nobody makes a part of a start: round up to a whole number.'
    >>> starts_until_won_back((4, None), saving=5.0, gains=gains)
    'Not yet. For the first service divide the seconds of saving by the median of the gains.'
    >>> starts_until_won_back(5, saving=5.0, gains=gains)
    'Not yet. Two answers are wanted, one for each service: (…, …).'
    """
    first = math.ceil(saving / statistics.median(gains[0]))
    return respond(
        answer,
        "A median alone would have promised the second service a gain that its rounds do not show.",
        (lambda a: len(a) != len(gains), "Two answers are wanted, one for each service: (…, …)."),
        (
            lambda a: a[1] is not None,
            "Look at the rounds of the second service one by one: is every start faster than before?",
        ),
        (
            lambda a: a[0] is not None and a[0] != int(a[0]),
            "Nobody makes a part of a start: round up to a whole number.",
        ),
        (
            lambda a: a[0] != first,
            "For the first service divide the seconds of saving by the median of the gains.",
        ),
    )
