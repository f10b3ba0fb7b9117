"""What reading ahead is worth, with any loader: seconds and money. Arithmetic, said as such."""

from typing import NamedTuple


class Figures(NamedTuple):
    """What was measured on this machine.

    Attributes
    ----------
    imports : float
        Seconds that the imports take.
    first_token : float
        Seconds from the loaded model to the first token.
    bandwidth : float
        Bytes a second of a cold read from the storage.
    """

    imports: float
    first_token: float
    bandwidth: float


class Costs(NamedTuple):
    """Seconds of one cold start before and after, and what a day and a month save.

    Attributes
    ----------
    before, after : float
        Seconds of a cold start: first read, then compute; or the reading hidden behind the imports.
    seconds_a_day : float
    money_a_month : float
        In the unit of the price; a month has 30 days.
    """

    before: float
    after: float
    seconds_a_day: float
    money_a_month: float


def costs(size, starts_a_day, price_an_hour, figures):
    """What prefetching saves for a model of this size, whoever loads it.

    Before: imports, then the weights are read, then the first token. After: the weights are read
    while the imports run, so the longer of the two counts.

    Parameters
    ----------
    size : float
        Bytes of weights.
    starts_a_day : float
    price_an_hour : float
        Of the machine that waits.
    figures : Figures

    Returns
    -------
    Costs

    Examples
    --------
    >>> found = costs(10e9, 100, 2.0, Figures(5.0, 0.5, 1e9))
    >>> found.before, found.after
    (15.5, 10.5)
    """
    read = size / figures.bandwidth
    before = figures.imports + read + figures.first_token
    after = max(figures.imports, read) + figures.first_token
    won = before - after
    day = won * starts_a_day
    return Costs(before, after, day, day * 30 / 3600 * price_an_hour)


def in_words(found):
    """Costs in two sentences.

    Examples
    --------
    >>> in_words(Costs(15.5, 10.5, 500.0, 8.333))
    'A cold start takes 10.5 s instead of 15.5 s. That is 8 minutes a day and 8.33 a month, with any loader.'
    """
    return (
        f"A cold start takes {found.after:.1f} s instead of {found.before:.1f} s. "
        f"That is {found.seconds_a_day / 60:.0f} minutes a day and {found.money_a_month:,.2f} a month, with any loader."
    )
