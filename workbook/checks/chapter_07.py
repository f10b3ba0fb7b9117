"""Checks of notebook 07: what the imports cost, what they read, when waiting memory pays."""

from workbook.checks import A_NUMBER, about, respond


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
        A_NUMBER,
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
        A_NUMBER,
        (lambda a: about(a, source), "Megabytes are wanted: divide the bytes by a million."),
        (
            lambda a: about(a, both / 1e6),
            'Source ends in ".py" and compiled code in ".pyc": count the first alone.',
        ),
        (lambda a: not about(a, source / 1e6), 'Add up the sizes of the files whose names end in ".py".'),
    )


def starts_an_hour(answer, *, held, fresh, forked, gigabyte, waiting):
    """Exercise 3: how many starts an hour pay for the memory of a server that waits.

    Parameters
    ----------
    answer : float
    held : int
        Bytes of the server's memory.
    fresh, forked : float
        Seconds of a start in a fresh process, and of one from the server.
    gigabyte, waiting : float
        Prices: of a gigabyte of memory for an hour, and of an hour of whoever waits.

    Returns
    -------
    str

    Examples
    --------
    >>> facts = {"held": 400_000_000, "fresh": 3.8, "forked": 0.2, "gigabyte": 0.01, "waiting": 20}
    >>> starts_an_hour(0.2, **facts)
    'Right. Where somebody waits, a few starts a day are enough; where nobody does, no number of them is.'
    >>> starts_an_hour(0.2 / 3600, **facts)
    'Not yet. The seconds won are a part of an hour: divide them by 3600 before you take the price of an hour.'
    >>> starts_an_hour(0.2e9, **facts)
    'Not yet. The price is that of a gigabyte: divide the bytes by 1e9.'
    >>> starts_an_hour(5, **facts)
    'Not yet. Turn it round: what the memory costs in an hour, over what one start wins.'
    >>> starts_an_hour(1, **facts)
    'Not yet. Two sums of money: what the memory costs in an hour, and what the seconds of one start are worth.'
    """
    memory, won = held / 1e9 * gigabyte, (fresh - forked) / 3600 * waiting
    return respond(
        answer,
        "Where somebody waits, a few starts a day are enough; where nobody does, no number of them is.",
        A_NUMBER,
        (
            lambda a: about(a, memory / won / 3600),
            "The seconds won are a part of an hour: divide them by 3600 before you take the price of an hour.",
        ),
        (lambda a: about(a, memory / won * 1e9), "The price is that of a gigabyte: divide the bytes by 1e9."),
        (
            lambda a: about(a, won / memory),
            "Turn it round: what the memory costs in an hour, over what one start wins.",
        ),
        (
            lambda a: not about(a, memory / won),
            "Two sums of money: what the memory costs in an hour, and what the seconds of one start are worth.",
        ),
    )
