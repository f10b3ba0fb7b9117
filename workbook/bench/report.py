"""What a benchmark found: measures, ratios, gains, tables, and the starts after which saving is won back.

One rule holds for every table and picture: of several rounds the one with the middle total is shown, with its own
parts, beside the fastest and the slowest. Ratios are taken within a round; their median is given with their range,
and a difference counts only where all rounds agree.
"""

import math
import statistics

from workbook.bench.routes import ALL, trick_of
from workbook.bench.run import REFERENCE


def parts(run):
    """Seconds of a start in three parts, which together are all of it.

    Returns
    -------
    dict of str to float
        ``imports``: from the spawn on, with the interpreter's start and whatever is neither of the
        others. ``load``: with the empty model. ``first token``.
    """
    load = sum(run["phases"].get(name, 0) for name in ("empty model", "load"))
    token = run["phases"].get("first token", 0)
    return {"imports": run["total"] - load - token, "load": load, "first token": token}


MEASURES = {  # the parts that each is the sum of
    "fresh process to first token": ("imports", "load", "first token"),
    "load to first token": ("load", "first token"),
    "load alone": ("load",),
}


def seconds(run, measure):
    """One measure of one run."""
    found = parts(run)
    return sum(found[part] for part in MEASURES[measure])


def good_runs(result, state, route):
    """The runs of a route in a state that did not fail."""
    return [
        run
        for run in result["runs"]
        if run["state"] == state and run["route"] == route and "failed" not in run
    ]


def values(result, state, route, measure):
    """One number for each good round of a route, by round."""
    return {run["round"]: seconds(run, measure) for run in good_runs(result, state, route)}


def span(result, state, routes, measure="fresh process to first token"):
    """The shortest and the longest time of all good rounds of some routes; None where there is none."""
    found = [each for name in routes for each in values(result, state, name, measure).values()]
    return (min(found), max(found)) if found else None


def ratios(result, state, route, measure, against=REFERENCE):
    """A route's time over another's, one number for each common round."""
    one, other = (values(result, state, name, measure) for name in (route, against))
    return [one[turn] / other[turn] for turn in one if turn in other]


def gains(result, state, route, against=REFERENCE):
    """Seconds that a route is faster than another to the first token, one number for each common round.

    Both starts of a round met the machine in about the same condition, so their difference tells more than the
    difference of two medians. Where some of the numbers are negative, the rounds do not show that there is a gain.

    Returns
    -------
    list of float
    """
    one, other = (values(result, state, name, "fresh process to first token") for name in (route, against))
    return [other[turn] - one[turn] for turn in one if turn in other]


def of_the_bus(result, state, route):
    """Bytes a second of a route's load, and their share of what one copy from pinned memory reaches.

    The load alone counts, without the empty model.

    Parameters
    ----------
    result : dict
        From `workbook.bench.run.measure`.
    state : str
        Of `workbook.bench.states.STATES`.
    route : str

    Returns
    -------
    tuple of float or None
        None without a GPU, or without a good round.
    """
    loads = [run["phases"]["load"] for run in good_runs(result, state, route)]
    if not loads or "pinned" not in result.get("bus", {}):
        return None
    speed = result["bytes"][route] / statistics.median(loads)
    return speed, speed / result["bus"]["pinned"]


def turn_ratios(times, one, other):
    """One list of times over another, turn by turn."""
    return list(map(float.__truediv__, times[one], times[other]))


def compared(ratios):
    """The last cells in a row of a table that compares: median of the ratios, their range, and whether all agree.

    Parameters
    ----------
    ratios : list of float
        One for each round. A single one has no range.

    Returns
    -------
    str

    Examples
    --------
    >>> compared([0.4, 0.6, 0.5])
    '0.50 x | 0.40 to 0.60 | less in every round'
    >>> compared([0.9, 1.1, 1.2])
    '1.10 x | 0.90 to 1.20 | no difference shown'
    >>> compared([0.94])
    '0.94 x | |'
    """
    middle = f"{statistics.median(ratios):.2f} x"
    if len(ratios) == 1:
        return f"{middle} | |"
    said = "no difference shown"
    if max(ratios) < 1 or min(ratios) > 1:
        said = f"{'less' if max(ratios) < 1 else 'more'} in every round"
    return f"{middle} | {min(ratios):.2f} to {max(ratios):.2f} | {said}"


def routes_of(result):
    """The routes of a result, in the order in which they ran."""
    return list(dict.fromkeys(run["route"] for run in result["runs"]))


def starts(result, state, routes=None):
    """The parts of every good start in a state, by route: what `workbook.plots.stacked` draws.

    Parameters
    ----------
    result : dict
    state : str
    routes : sequence of str, optional
        By default all of the result.

    Returns
    -------
    dict of str to list of dict of str to float
    """
    found = {
        name: [parts(run) for run in good_runs(result, state, name)] for name in routes or routes_of(result)
    }
    return {name: rounds for name, rounds in found.items() if rounds}


def middle(rounds):
    """Of the starts of one route, the one whose whole is in the middle.

    Examples
    --------
    >>> middle([{"load": 3.0}, {"load": 1.0}, {"load": 2.0}])
    {'load': 2.0}
    """
    return sorted(rounds, key=lambda found: sum(found.values()))[(len(rounds) - 1) // 2]


def frame(result, state, routes=None):
    """The starts in a state as a table for a notebook, in seconds: one row for each route that was finished.

    The parts are those of the round in the middle, so that they add up to it.

    Parameters
    ----------
    result : dict
        From `workbook.bench.run.measure`.
    state : str
        Of `workbook.bench.states.STATES`.
    routes : sequence of str, optional
        By default all of the result.

    Returns
    -------
    pandas.DataFrame
        With the columns ``first token after``, ``fastest``, ``slowest``, ``imports``, ``load`` and ``first token``.
    """
    import pandas

    rows = {}
    for name, rounds in starts(result, state, routes).items():
        wholes = [sum(found.values()) for found in rounds]
        shown = middle(rounds)
        spread = {"first token after": sum(shown.values()), "fastest": min(wholes), "slowest": max(wholes)}
        rows[name] = spread | shown
    return pandas.DataFrame.from_dict(rows, orient="index")


def states_of(result):
    """The states of a result, in the order in which they were measured."""
    return list(dict.fromkeys(run["state"] for run in result["runs"]))


def fastest(result, state, routes):
    """The route with the smallest median to the first token; None where none has a good round."""
    times = {name: values(result, state, name, "fresh process to first token") for name in routes}
    medians = {name: statistics.median(found.values()) for name, found in times.items() if found}
    return min(medians, key=medians.get, default=None)


def rival(result, state):
    """The fastest route that reads the checkpoint as it is, so that no second copy has to be kept.

    Returns
    -------
    str or None
    """
    return fastest(
        result, state, [name for name in routes_of(result) if name in ALL and ALL[name].form == "hf"]
    )


def ours(result, state):
    """The fastest route that reads the saved form, or None."""
    return fastest(result, state, [name for name in routes_of(result) if name.startswith("helpers")])


def break_even(result, state, route=None, against=None):
    """After how many starts the time spent saving is won back.

    Parameters
    ----------
    result : dict
        With its ``saving``.
    state : str
        Of `workbook.bench.states.STATES`.
    route, against : str, optional
        By default `ours` against the `rival`.

    Returns
    -------
    int or None
        None where no gain is shown: the saved form was not faster in every round.

    Raises
    ------
    ValueError
        Saving, or one of the two, was not measured.
    """
    names = route or ours(result, state), against or rival(result, state)
    if None in names or "saving" not in result:
        raise ValueError(f"{state}: saving, helpers or from_pretrained was not measured")
    won = gains(result, state, *names)
    if not won or min(won) <= 0:
        return None
    return math.ceil(statistics.median(result["saving"]["serialise"]) / statistics.median(won))


def won_back(result, route=None, against=None):
    """A line for each state that tells `break_even`, and none where it was not measured.

    Parameters
    ----------
    result : dict
    route, against : str, optional
        By default `ours` against the `rival`.

    Returns
    -------
    list of str
    """
    lines = []
    for state in states_of(result):
        names = route or ours(result, state), against or rival(result, state)
        if "saving" in result and all(name and good_runs(result, state, name) for name in names):
            starts = break_even(result, state, *names)
            when = f"after {starts} start{'s' if starts > 1 else ''}" if starts else "not shown"
            won = gains(result, state, *names)
            lines.append(
                f"{state}: {when} ({names[0]} against {names[1]}, {min(won):+.2f} to {max(won):+.2f} s a start)"
            )
    return lines


def table(result):
    """The result as text: the middle round with the fastest and the slowest, and two ratios.

    The first is against plain ``from_pretrained``. The second, of a route with a trick, is against
    ``from_pretrained`` with the same trick: what is left of the gain is the loader's own. Each is the
    median of the ratios of the rounds, with their range.

    Parameters
    ----------
    result : dict
        From `workbook.bench.run.measure`.

    Returns
    -------
    str
    """
    machine, runs = result["machine"], result["runs"]
    lines = [
        f"{result['model']} on {result['device']}, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory']}, GPU: {machine['GPU']}"
    ]
    if result["storage"]:
        took = statistics.median(read["seconds"] for read in result["storage"])
        size = result["storage"][0]["bytes"]
        lines.append(
            f"storage: a plain cold read of {size / 1e9:.2f} GB takes {took:.2f} s "
            f"({size / took / 1e9:.2f} GB/s); memory copies {result['memory_copy'] / 1e9:.1f} GB/s"
        )
    if bus := result.get("bus"):
        speeds = [f"{kind} {speed / 1e9:.1f} GB/s" for kind, speed in bus.items()]
        lines.append(f"one large copy to the GPU, by the memory it comes from: {', '.join(speeds)}")
    if emptied := [run for run in runs if "emptied" in run and "failed" not in run]:
        ways, kept = {run["emptied"] for run in emptied}, max(run["libraries"] for run in emptied)
        lines.append(f"all cold by {', '.join(ways)}: at most {kept:.1%} of the libraries stayed")
    if REFERENCE in result["bytes"] and not any("token" in run for run in runs if run["route"] == REFERENCE):
        lines.append(
            f"{REFERENCE} came to no first token, so nobody knows whether those of the others are right"
        )
    lines.append("seconds: the middle round [fastest, slowest]")
    lines.append("ratios: the median of the ratios of the rounds [smallest, largest]")
    for state in states_of(result):
        lines += ["", f"{state + ':':<34} {'process to token':>21} {'ratio':>18} {'same trick':>18} {'imports':>8}"
                  f" {'load':>8} {'token':>7} {'private':>8} {'peak':>8} {'file':>8}"]  # fmt: skip
        lines += [_row(result, state, route) for route in routes_of(result)]
    if saving := result.get("saving"):
        middle = {name: statistics.median(times) for name, times in saving.items()}
        share = statistics.median(turn_ratios(saving, "serialise", "write_module"))
        lines.append(
            f"\nsaving, flushed: serialise {middle['serialise']:.2f} s, write_module {middle['write_module']:.2f} s "
            f"({share:.2f}x)"
        )
        lines += [f"saving is won back, {line}" for line in won_back(result)]
    if streaming := result.get("streaming"):
        middle = {name: statistics.median(times) for name, times in streaming.items()}
        share = statistics.median(turn_ratios(streaming, "helpers", "tensorizer"))
        lines.append(
            f"load from S3 on loopback: helpers {middle['helpers']:.2f} s, tensorizer's defaults "
            f"{middle['tensorizer']:.2f} s ({share:.2f}x)"
        )
    lines += [f"{part} failed: {reason}" for part, reason in result.get("failed", {}).items()]
    lines += [f"{route:<34} not run: {reason}" for route, reason in result.get("skipped", {}).items()]
    return "\n".join(lines)


def _row(result, state, route):
    runs = [run for run in result["runs"] if run["state"] == state and run["route"] == route]
    good = good_runs(result, state, route)
    if not good:
        return f"{route:<34} {runs[0]['failed'] if runs else 'no finished round'}"
    total = [run["total"] for run in good]
    shown = middle([parts(run) for run in good])
    spread = f"{sum(shown.values()):6.2f} [{min(total):.2f}, {max(total):.2f}]"
    trick = trick_of(route)
    whole = "fresh process to first token"
    plain = ratios(result, state, route, whole)
    same = ratios(result, state, route, whole, f"{REFERENCE} + {trick}") if trick else []
    memory = [statistics.median(run[key] for run in good) / 1e6 for key in ("private", "peak_rss")]
    row = f"{route:<34} {spread:>21} {_spread(plain):>18} {_spread(same):>18} {shown['imports']:6.2f} s "
    row += f"{shown['load']:6.2f} s {shown['first token']:5.2f} s {memory[0]:5.0f} MB {memory[1]:5.0f} MB "
    row += f"{result['bytes'][route] / 1e6:5.0f} MB"
    if share := of_the_bus(result, state, route):
        row += f" {share[0] / 1e9:5.1f} GB/s {share[1]:4.0%} of pinned"
    if len(good) < len(runs):
        row += (
            f"  ({len(runs) - len(good)} of {len(runs)}: {next(r['failed'] for r in runs if 'failed' in r)})"
        )
    return row


def _spread(ratios):
    """Their median and their range; a dash without a common round."""
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]" if ratios else "-"
