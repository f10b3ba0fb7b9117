"""What `cold_start` is worth, with any loader: seconds and money. Arithmetic, said as such."""

from typing import NamedTuple


class Figures(NamedTuple):
    """What was measured on a machine.

    Attributes
    ----------
    imports : float
        Seconds that the imports take where the libraries are warm.
    collector : float
        The share of them that a paused garbage collector saves, from 0 to 1.
    first_token : float
        Seconds from the end of the imports to the first token where the weights are warm.
    bandwidth : float
        Bytes of cold weights a second that come from the storage.
    libraries : float
        Seconds that the imports wait for the storage where the libraries are cold too; 0 where they are warm.
    """

    imports: float
    collector: float
    first_token: float
    bandwidth: float
    libraries: float = 0.0


class Costs(NamedTuple):
    """Seconds of one cold start without and with `cold_start`, and what a day and a month save.

    Attributes
    ----------
    before, after : float
        Seconds of a cold start: all that is read is waited for; or it is read beside the imports.
    imports, reading : float
        Of the second: the two that run at the same time.
    seconds_a_day : float
    money_a_month : float
        In the money of the price; a month has 30 days.
    """

    before: float
    after: float
    imports: float
    reading: float
    seconds_a_day: float
    money_a_month: float


def costs(size, starts_a_day, price_an_hour, figures):
    """What `cold_start` saves for a model of this size, whoever loads it.

    Before: the imports, then the weights are read, then the first token; cold libraries are waited for on the
    way. After: libraries and weights are read while the imports run, which the paused collector has made
    shorter, so the longer of the two counts.

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
    >>> figures = Figures(imports=5.0, collector=0.2, first_token=0.5, bandwidth=1e9)
    >>> small, large = (costs(size, 100, 2.0, figures) for size in (2e9, 10e9))
    >>> (small.before, small.after), (large.before, large.after)
    ((7.5, 4.5), (15.5, 10.5))
    """
    reading = figures.libraries + size / figures.bandwidth
    imports = figures.imports * (1 - figures.collector)
    before = figures.imports + reading + figures.first_token
    after = max(imports, reading) + figures.first_token
    day = (before - after) * starts_a_day
    return Costs(before, after, imports, reading, day, day * 30 / 3600 * price_an_hour)


def in_words(found):
    """Costs in two sentences.

    Examples
    --------
    >>> in_words(Costs(15.5, 10.5, 4.0, 10.0, 500.0, 8.333)).partition(":")[0]
    'A cold start takes 10.5 s instead of 15.5 s, with any loader'
    """
    return (
        f"A cold start takes {found.after:.1f} s instead of {found.before:.1f} s, with any loader: "
        f"{found.reading:.1f} s of reading run beside {found.imports:.1f} s of imports. "
        f"That saves {found.seconds_a_day / 60:,.1f} minutes a day and, in the money of the price, "
        f"{found.money_a_month:,.2f} a month."
    )
