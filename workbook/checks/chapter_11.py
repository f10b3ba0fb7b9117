"""Checks of notebook 11."""

from workbook.checks import A_NUMBER, about, respond


def memory_of_ten(answer, *, one, four):
    """The memory of ten mapped replicas, from that of one and of four.

    Examples
    --------
    >>> memory_of_ten(6.5, one=3.8e9, four=4.7e9)
    'Right. The weights are there once, and each replica adds its own process.'
    >>> memory_of_ten(38, one=3.8e9, four=4.7e9)
    'Not yet. That has the weights ten times; mapped replicas share them.'
    """
    each = (four - one) / 3
    right = (one + 9 * each) / 1e9
    return respond(
        answer,
        "The weights are there once, and each replica adds its own process.",
        A_NUMBER,
        (lambda a: about(a, 10 * one / 1e9), "That has the weights ten times; mapped replicas share them."),
        (lambda a: about(a, 10 * four / 4e9), "A quarter of the four includes a quarter of the weights."),
        (lambda a: about(a, right * 1e9), "In GB, so divide by 1e9."),
        (
            lambda a: about(a, right + each / 1e9, 0.01),
            "One replica is in the first figure; nine are further ones.",
        ),
        (lambda a: not about(a, right, 0.02), "What do three further replicas add to the first? Then nine?"),
    )


def queue_empty(answer, *, late, arriving, one, two):
    """The seconds until a queue is empty again that grew while the help was late.

    Examples
    --------
    >>> facts = {"late": 8, "arriving": 36, "one": 20, "two": 40}
    >>> queue_empty(40, **facts)
    'Right. What gathers in one second takes several to go, so each second of lateness counts more than once.'
    >>> queue_empty(8, **facts)
    'Not yet. Then the queue stops growing, and it is at its longest.'
    >>> queue_empty(32, **facts)
    'Not yet. So long it takes to empty the queue. When does that begin?'
    """
    grows, shrinks = arriving - one, two - arriving
    return respond(
        answer,
        "What gathers in one second takes several to go, so each second of lateness counts more than once.",
        A_NUMBER,
        (lambda a: about(a, late), "Then the queue stops growing, and it is at its longest."),
        (
            lambda a: about(a, late * grows / shrinks),
            "So long it takes to empty the queue. When does that begin?",
        ),
        (
            lambda a: about(a, late * grows),
            "So many requests wait when the help comes. Seconds are wanted.",
        ),
        (
            lambda a: about(a, late * grows / two) or about(a, late * (1 + grows / two)),
            "While the queue is being emptied, requests keep arriving.",
        ),
        (
            lambda a: not about(a, late * (1 + grows / shrinks), 0.02),
            "How many requests a second are left over before the help is there? And how many fewer after it?",
        ),
    )


def storage_decides(answer, *, storage, node, per_node):
    """The number of replicas from which the storage's bandwidth is the limit.

    Examples
    --------
    >>> storage_decides(81, storage=12.5, node=1.25, per_node=8)
    'Right. The size of the model cancels out; only the bandwidths and the number on a machine decide.'
    >>> storage_decides(80, storage=12.5, node=1.25, per_node=8)
    'Not yet. There the two limits are equal.'
    """
    equal = per_node * storage / node
    return respond(
        answer,
        "The size of the model cancels out; only the bandwidths and the number on a machine decide.",
        A_NUMBER,
        (lambda a: a == equal, "There the two limits are equal."),
        (
            lambda a: about(a, storage / node, 0.11),
            "That many machines the storage serves at their full speed; each has several replicas.",
        ),
        (lambda a: a != int(equal) + 1, "Set the two terms inside max() equal, for machines that are full."),
    )
