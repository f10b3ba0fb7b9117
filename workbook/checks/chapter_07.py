"""Checks of notebook 07: what the imports cost, what they read, when a pool of processes pays."""

import math

from workbook.checks import about, respond


def share_of_a_package(answer, *, seconds, package="torch"):
    """Exercise 1: a package's share of the import time.

    Parameters
    ----------
    answer : float
    seconds : mapping of str to float
        What all modules of each package took, by the name of the package.
    package : str

    Returns
    -------
    str

    Examples
    --------
    >>> share_of_a_package(0.5, seconds={"torch": 2.0, "sympy": 1.0, "numpy": 1.0})
    'Right. This is what is left to pay even if everything else in these imports were free.'
    >>> share_of_a_package(2.0, seconds={"torch": 2.0, "sympy": 1.0, "numpy": 1.0})
    'Not yet. Those are its seconds. Divide them by the seconds of all packages.'
    >>> share_of_a_package(0.1, seconds={"torch": 2.0, "sympy": 1.0, "numpy": 1.0})
    'Not yet. `seconds` has one entry for each package, with all its modules: one of them over the sum of all.'
    """
    whole = sum(seconds.values())
    return respond(
        answer,
        "This is what is left to pay even if everything else in these imports were free.",
        (
            lambda a: about(a, seconds[package]) and not about(a, seconds[package] / whole),
            "Those are its seconds. Divide them by the seconds of all packages.",
        ),
        (
            lambda a: not about(a, seconds[package] / whole),
            "`seconds` has one entry for each package, with all its modules: one of them over the sum of all.",
        ),
    )


def megabytes_of_source(answer, *, sizes):
    """Exercise 2: how much Python source a start opens, although it runs the compiled form.

    Parameters
    ----------
    answer : float
        Megabytes.
    sizes : mapping of str to int
        Bytes by file name.

    Returns
    -------
    str

    Examples
    --------
    >>> sizes = {"a.py": 2_000_000, "a.pyc": 3_000_000, "b.so": 50_000_000}
    >>> megabytes_of_source(2.0, sizes=sizes)
    'Right. It is little to read, and on a cold disk still one wait for each of the files.'
    >>> megabytes_of_source(2_000_000, sizes=sizes)
    'Not yet. Megabytes are wanted: divide the bytes by a million.'
    >>> megabytes_of_source(5.0, sizes=sizes)
    'Not yet. Source ends in ".py" and compiled code in ".pyc": count the first alone.'
    >>> megabytes_of_source(55.0, sizes=sizes)
    'Not yet. Add up the sizes of the files whose names end in ".py".'
    """
    source = sum(size for name, size in sizes.items() if name.endswith(".py"))
    both = sum(size for name, size in sizes.items() if name.endswith((".py", ".pyc")))
    return respond(
        answer,
        "It is little to read, and on a cold disk still one wait for each of the files.",
        (lambda a: about(a, source), "Megabytes are wanted: divide the bytes by a million."),
        (
            lambda a: about(a, both / 1e6),
            'Source ends in ".py" and compiled code in ".pyc": count the first alone.',
        ),
        (lambda a: not about(a, source / 1e6), 'Add up the sizes of the files whose names end in ".py".'),
    )


def replicas_until_a_pool_pays(answer, *, ready, replica, fresh):
    """Exercise 3: from how many replicas on a pool has taken less time than fresh processes, one after the other.

    Parameters
    ----------
    answer : int
    ready : float
        Seconds until the pool can fork.
    replica, fresh : float
        Seconds of a start from the pool, and of one in a fresh process.

    Returns
    -------
    str

    Examples
    --------
    >>> replicas_until_a_pool_pays(2, ready=4.0, replica=0.5, fresh=4.5)
    'Right. From there on every further start costs a fork, the load and the first token alone.'
    >>> replicas_until_a_pool_pays(1, ready=4.0, replica=0.5, fresh=4.5)
    'Not yet. With so few replicas the pool has not even won back its own imports: n starts cost ready + n * replica.'
    >>> replicas_until_a_pool_pays(7, ready=4.0, replica=0.5, fresh=4.5)
    'Not yet. It pays earlier. Compare ready + n * replica with n * fresh for n = 1, 2, 3.'
    >>> replicas_until_a_pool_pays(1.5, ready=4.0, replica=0.5, fresh=4.5)
    'Not yet. A whole number of replicas is wanted.'
    """
    first = math.floor(ready / (fresh - replica)) + 1
    return respond(
        answer,
        "From there on every further start costs a fork, the load and the first token alone.",
        (lambda a: a != int(a), "A whole number of replicas is wanted."),
        (
            lambda a: a < first,
            "With so few replicas the pool has not even won back its own imports: n starts cost ready + n * replica.",
        ),
        (
            lambda a: a > first,
            "It pays earlier. Compare ready + n * replica with n * fresh for n = 1, 2, 3.",
        ),
    )
