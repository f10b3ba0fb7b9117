"""Answers to the notebooks' exercises, checked: one file for a notebook, one function for an exercise.

A check returns a sentence: "Right" with what follows from it, or a hint. It never gives the answer away.
It takes the reader's answer and the facts that the notebook has measured, and knows nothing else.
"""

UNANSWERED = "No answer yet. Write yours in place of the three dots, run that cell, then run this one again."


def respond(answer, right, *hints):
    """The first hint that applies, or that the answer is right.

    Parameters
    ----------
    answer : object
        What the reader wrote; the three dots (`Ellipsis`) if it is untouched.
    right : str
        What follows from the right answer, said after "Right. ".
    *hints : (callable, str)
        A test of the answer and the hint for answers that it is true for, in order. A test that raises
        applies as well: the answer is of a kind that cannot be looked at.

    Returns
    -------
    str

    Examples
    --------
    >>> hints = [(lambda a: a > 1, "A share is at most one."), (lambda a: a != 0.5, "Count both halves.")]
    >>> respond(0.5, "They are equal.", *hints)
    'Right. They are equal.'
    >>> respond(50, "They are equal.", *hints)
    'Not yet. A share is at most one.'
    >>> respond("half", "They are equal.", *hints)
    'Not yet. A share is at most one.'
    >>> respond(..., "They are equal.", *hints) == UNANSWERED
    True
    """
    if answer is ...:
        return UNANSWERED
    for applies, hint in hints:
        try:
            wrong = applies(answer)
        except Exception:  # whatever the reader wrote: the hint says what is wanted
            wrong = True
        if wrong:
            return f"Not yet. {hint}"
    return f"Right. {right}"


def is_number(answer):
    """Whether an answer is a number, of Python or of a library; raises what `float` raises of what is none.

    Examples
    --------
    >>> is_number(42), is_number("42"), is_number(float("nan"))
    (True, False, False)
    """
    return not isinstance(answer, (str, bytes)) and float(answer) == float(answer)


def are_two_numbers(answer, *, or_none=False):
    """Whether an answer is two numbers, or with ``or_none`` None in the place of some; raises as `is_number`.

    Examples
    --------
    >>> are_two_numbers((1, 2)), are_two_numbers("12"), are_two_numbers((1, None), or_none=True)
    (True, False, True)
    """
    parts = [answer[place] for place in range(len(answer))]
    return len(parts) == 2 and all((or_none and part is None) or is_number(part) for part in parts)


A_NUMBER = (lambda answer: not is_number(answer), "A number is wanted, without quotes and without a unit.")


def about(answer, value, within=0.05):
    """Whether a number is near another, relative to it.

    Examples
    --------
    >>> about(0.98, 1.0), about(0.5, 1.0)
    (True, False)
    """
    return abs(answer - value) <= within * abs(value)
