"""What a benchmark found, drawn: the starts in each state, with the range of their rounds in the title."""

import statistics

from workbook.bench import report
from workbook.bench.routes import TRICKS, trick_of

_LEGEND = {"imports": "interpreter, imports", "load": "empty model, load", "first token": "first token"}


def picture(result, state, end=None):
    """Bars of the middle round of each route, grouped by trick, with the storage's limit where it counts.

    Routes with the same trick stand together, so that what the trick gives is not taken for what
    the loader gives. Within a group they keep their order, which says nothing of their speed.

    Parameters
    ----------
    result : dict
        From `workbook.bench.run.measure`.
    state : str
        Of `workbook.bench.states.STATES`.
    end : float, optional
        The end of the axis, in seconds.

    Returns
    -------
    matplotlib.axes.Axes
    """
    from workbook import plots

    rows = {}
    for trick in ("", *TRICKS):
        names = [name for name in report.routes_of(result) if trick_of(name) == trick]
        bars = {_short(name): bar for name in names if (bar := _bar(result, state, name))}
        if bars:
            rows[_heading(trick)] = bars
    if not rows:
        raise ValueError(f"{state}: no route has a finished round")
    rounds = len({run["round"] for run in result["runs"]})
    line = None
    if state == "weights cold" and result["storage"]:
        line = statistics.median(read["seconds"] for read in result["storage"]), "plain read of the file"
    return plots.groups(
        rows,
        finding(result, state),
        f"seconds to the first token, middle of {rounds} rounds; thin line: fastest to slowest",
        _LEGEND,
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
    """The title of a state's picture: for each trick the seconds from the fastest round to the slowest.

    It compares nothing, so that it cannot say what the bars do not show.

    Returns
    -------
    str
    """
    said = []
    for trick in ("", *TRICKS):
        names = [name for name in report.routes_of(result) if trick_of(name) == trick]
        if found := report.span(result, state, names):
            said.append(f"{_heading(trick)} {found[0]:.1f} to {found[1]:.1f} s")
    size = min(result["bytes"].values()) / 1e9
    headline = f"{state[0].upper()}{state[1:]}, {size:.1f} GB, from the fastest round to the slowest:"
    return f"{headline}\n{', '.join(said)}"


def _bar(result, state, route):
    """The parts of the round in the middle, and the fastest and slowest whole; None without a good round."""
    rounds = report.starts(result, state, [route]).get(route)
    return rounds and (report.middle(rounds), *report.span(result, state, [route]))


def _heading(trick):
    return f"with {trick}" if trick else "plain"


def _short(name):
    """A route's name without its trick, which stands above the group."""
    return name.partition(" + ")[0]
