"""Notebook 05: what a save refuses, what workers hold together, and from which size on mapping pays."""

from workbook.checks import A_NUMBER, about, are_two_numbers, respond


def refused(answer, *, problems):
    """Which of several estimators a save refuses, as letters.

    Examples
    --------
    >>> found = {"A": None, "B": "holds numpy.clip", "C": "holds a lambda", "D": "is not fitted"}
    >>> refused("BCD", problems=found)
    'Right. A save refuses what the other side will not find or trust by its name, and what is no model yet.'
    >>> refused("B", problems=found)
    'Not yet. More of them are refused. What has no name to be found by, what is on no list, what has not learnt?'
    >>> refused("ABCD", problems=found)
    'Not yet. One too many: functions of numpy that work number by number, and text, are no strangers.'
    """
    right = {letter for letter, problem in problems.items() if problem}
    return respond(
        answer,
        "A save refuses what the other side will not find or trust by its name, and what is no model yet.",
        (lambda a: not a or not set(a.upper()) <= set(problems), 'The letters in one string, such as "AE".'),
        (lambda a: set(a.upper()) - right, "One too many: functions of numpy that work number by number, and text, "
         "are no strangers."),
        (lambda a: set(a.upper()) != right, "More of them are refused. What has no name to be found by, what is on "
         "no list, what has not learnt?"),
    )  # fmt: skip


def workers_memory(answer, *, workers, size):
    """How many MB the arrays of one model take in all workers, copied and mapped.

    Examples
    --------
    >>> workers_memory((4800, 600), workers=8, size=600)
    'Right. What is copied is paid for by each worker, what is mapped once for all of them.'
    >>> workers_memory((4800, 0), workers=8, size=600)
    'Not yet. Mapped pages belong to no process alone, but they do take memory, once they are read.'
    >>> workers_memory((600, 600), workers=8, size=600)
    'Not yet. First number: does a copy belong to one process, or to all?'
    """
    return respond(
        answer,
        "What is copied is paid for by each worker, what is mapped once for all of them.",
        (lambda a: not are_two_numbers(a), "Two numbers in brackets: with joblib.load, then with deserialise."),
        (lambda a: about(a[0], size, 0.1), "First number: does a copy belong to one process, or to all?"),
        (lambda a: not about(a[0], workers * size, 0.1), "First number: the copies of all workers together."),
        (lambda a: a[1] < 0.1 * size, "Mapped pages belong to no process alone, but they do take memory, once they "
         "are read."),
        (lambda a: about(a[1], workers * size, 0.1), "Second number: all workers map the same file. How often is it "
         "in memory?"),
        (lambda a: not about(a[1], size, 0.1), "Second number: shared pages count once."),
    )  # fmt: skip


def break_even(answer, *, ours, theirs, copying):
    """The average size of an array, in MB, at which a cost for each array equals a smaller one and a copy.

    Examples
    --------
    >>> break_even(0.8, ours=1.0, theirs=0.2, copying=1.0)
    'Right. Below that size the copy is cheaper than the audit, above it the copy costs more.'
    >>> break_even(1.0, ours=1.0, theirs=0.2, copying=1.0)
    'Not yet. The other way pays something for each array as well, before it copies.'
    """
    return respond(
        answer,
        "Below that size the copy is cheaper than the audit, above it the copy costs more.",
        A_NUMBER,
        (lambda a: about(a, ours / copying, 0.02), "The other way pays something for each array as well, before it "
         "copies."),
        (lambda a: about(a, (ours + theirs) / copying, 0.02), "Both pay for each array: only the difference is left "
         "for the copy."),
        (lambda a: not about(a, (ours - theirs) / copying, 0.02), "Write down the time of each way for one array of s "
         "MB, and set them equal."),
    )  # fmt: skip
