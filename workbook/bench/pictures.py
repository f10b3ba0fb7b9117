"""What a benchmark found, drawn: the starts in each state, with the factor that earns the gain in the title."""

import statistics

from workbook.bench import report
from workbook.bench.routes import TRICKS, trick_of
from workbook.bench.run import REFERENCE

WHOLE = "fresh process to first token"
_LEGEND = {"imports": "interpreter, imports", "load": "empty model, load", "first token": "first token"}
_LITTLE = 0.05  # a smaller difference than this share is no finding
_EARNED = {"warm": "a paused collector"}  # what cold_start gives where there is nothing to read ahead


def picture(result, state, measure=WHOLE, end=None, title=None):
    """Bars of the middle round of each route, grouped by trick, with the storage's limit where it counts.

    Routes with the same trick stand together, so that what the trick gives is not taken for what
    the loader gives.

    Parameters
    ----------
    result : dict
        From `workbook.bench.run.measure`.
    state : str
        Of `workbook.bench.states.STATES`.
    measure : str
        A key of `workbook.bench.report.MEASURES`: which parts are drawn.
    end : float, optional
        The end of the axis, in seconds.
    title : str, optional
        By default the `finding`.

    Returns
    -------
    matplotlib.axes.Axes
    """
    from workbook import plots

    rows = {}
    for trick in ("", *TRICKS):
        names = [name for name in report.routes_of(result) if trick_of(name) == trick]
        bars = {_short(name): bar for name in names if (bar := _bar(result, state, name, measure))}
        if bars:
            heading = f"with {trick}" if trick else "plain"
            rows[heading] = dict(sorted(bars.items(), key=lambda item: sum(item[1][0].values())))
    if not rows:
        raise ValueError(f"{state}: no route has a finished round")
    rounds = len({run["round"] for run in result["runs"]})
    line = None
    if state == "weights cold" and result["storage"]:
        line = statistics.median(read["seconds"] for read in result["storage"]), "plain read of the file"
    return plots.groups(
        rows,
        title or (finding(result, state) if measure == WHOLE else f"{_capital(state)}, {measure}"),
        f"seconds, middle round of {rounds}; the thin line runs from the fastest to the slowest",
        {part: _LEGEND[part] for part in report.MEASURES[measure]},
        strong=("helpers", "helpers mapped", "helpers read"),
        end=end,
        line=line,
    )


def save(result, path):
    """Write a picture for each state beside a path, all to one scale.

    Parameters
    ----------
    result : dict
    path : pathlib.Path
        ``bench.png`` becomes ``bench-warm.png``, ``bench-weights-cold.png`` and so on.

    Returns
    -------
    list of pathlib.Path
    """
    import matplotlib.pyplot as plt

    end = max((run["total"] for run in result["runs"] if "failed" not in run), default=None)
    written = []
    for state in report.states_of(result):
        if any(report.good_runs(result, state, name) for name in report.routes_of(result)):
            written.append(path.with_name(f"{path.stem}-{state.replace(' ', '-')}.png"))
            figure = picture(result, state, end=end).figure
            figure.savefig(written[-1], dpi=110)
            plt.close(figure)
    return written


def finding(result, state):
    """The title of a state's picture: what earns the gain over plain ``from_pretrained``, the trick or the loader.

    Returns
    -------
    str
    """
    names = ("helpers mapped", f"{REFERENCE} + cold_start", "helpers + cold_start")
    form, trick, both = (report.ratio(result, state, name, WHOLE) for name in names)
    if None in (form, trick, both):
        return _first(result, state)
    by_trick = _EARNED.get(state, "reading ahead")
    if min(form, trick, both) > 1 - _LITTLE:
        who = "nothing earns much"
    elif abs(trick - form) < _LITTLE:
        who = f"{by_trick} and the loader earn as much"
    elif trick < form:
        who = f"{by_trick} earns it"
    else:
        who = f"the loader earns more than {by_trick}"
    return (
        f"{_capital(state)}: {who}\n"
        f"from_pretrained {trick:.2f} x with cold_start, helpers {both:.2f} x with it, {form:.2f} x without"
    )


def _first(result, state):
    """The title where the routes that tell the factors apart were not run: who is first, against whom."""
    best = report.fastest(result, state, report.routes_of(result))
    rivals = [REFERENCE]
    if best and trick_of(best):  # with the same trick, where that was run
        rivals.insert(0, f"{REFERENCE} + {trick_of(best)}")
    for rival in rivals:
        share = report.ratio(result, state, best, WHOLE, rival)
        if share and best != rival:
            return f"{_capital(state)}: {best} is first, at {share:.2f} x of {rival}"
    return f"{_capital(state)}: {best} is first"


def _bar(result, state, route, measure):
    """The parts of the round in the middle, and the fastest and slowest whole; None without a good round."""
    found = report.starts(result, state, [route]).get(route)
    if not found:
        return None
    rounds = [{part: each[part] for part in report.MEASURES[measure]} for each in found]
    wholes = [sum(each.values()) for each in rounds]
    return report.middle(rounds), min(wholes), max(wholes)


def _short(name):
    """A route's name without its trick, which stands above the group."""
    return name.partition(" + ")[0]


def _capital(text):
    return text[0].upper() + text[1:]
