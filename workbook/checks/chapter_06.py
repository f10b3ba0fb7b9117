"""Checks of notebook 06: what a fair comparison shows, what a faster load gives, when saving is won back."""

import math
import statistics

import numpy as np

from workbook.checks import A_NUMBER, about, are_two_numbers, respond


def fair_comparison(answer, *, ours, theirs):
    """Exercise 1: in how many rounds one of two ways to start was faster, and whether that shows a gain.

    Parameters
    ----------
    answer : (int, bool)
    ours, theirs : sequence of float
        Seconds of a start, round by round.

    Returns
    -------
    str

    Examples
    --------
    >>> ours, theirs = [3.7, 3.6, 3.9], [3.9, 3.8, 3.7]
    >>> fair_comparison((2, False), ours=ours, theirs=theirs)
    'Right. With the trick on both sides, the rounds are asked one by one, and all of them have to agree.'
    >>> fair_comparison((2, True), ours=ours, theirs=theirs)
    'Not yet. Would you promise it to somebody who has seen all the rounds? A gain is shown where all of them agree.'
    >>> fair_comparison((1, False), ours=ours, theirs=theirs)
    'Not yet. That is how often the other one was faster.'
    >>> fair_comparison((3, True), ours=ours, theirs=theirs)
    'Not yet. Compare the first number of ours with the first of theirs, the second with the second, and count.'
    >>> fair_comparison(2, ours=ours, theirs=theirs)
    'Not yet. Two answers are wanted, in brackets: a number of rounds, and True or False.'

    What numpy counts and compares counts as well:

    >>> fair_comparison((np.int64(2), np.False_), ours=ours, theirs=theirs)[:6]
    'Right.'
    """
    count = sum(mine < other for mine, other in zip(ours, theirs, strict=True))
    return respond(
        answer,
        "With the trick on both sides, the rounds are asked one by one, and all of them have to agree.",
        (
            lambda a: not are_two_numbers(a) or not isinstance(a[1], (bool, np.bool_)),
            "Two answers are wanted, in brackets: a number of rounds, and True or False.",
        ),
        (
            lambda a: a[0] != count and a[0] == len(ours) - count,
            "That is how often the other one was faster.",
        ),
        (
            lambda a: a[0] != count,
            "Compare the first number of ours with the first of theirs, the second with the second, and count.",
        ),
        (
            lambda a: a[1] != (count == len(ours)),
            "Would you promise it to somebody who has seen all the rounds? A gain is shown where all of them agree.",
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
        A_NUMBER,
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
        (
            lambda a: not are_two_numbers(a, or_none=True),
            "Two answers are wanted, one for each service: (…, …).",
        ),
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
