"""What a benchmark found: a table, and a picture with the storage's limit in it."""

import math
import statistics

from workbook.bench.run import REFERENCE


def load_to_token(run):
    """Seconds from the end of the imports to the first token."""
    return sum(run["phases"].get(name, 0) for name in ("empty model", "load", "first token"))


def load_alone(run):
    """Seconds that the weights take: empty model and load."""
    return sum(run["phases"].get(name, 0) for name in ("empty model", "load"))


MEASURES = {
    "fresh process to first token": lambda run: run["total"],
    "load to first token": load_to_token,
    "load alone": load_alone,
}


def values(result, state, route, measure):
    """One number for each good round of a route, by round."""
    return {
        run["round"]: MEASURES[measure](run)
        for run in result["runs"]
        if run["state"] == state and run["route"] == route and "failed" not in run
    }


def ratio(result, state, route, measure, against=REFERENCE):
    """Median of a route's time over another's, round by round; None without common rounds."""
    one, other = (values(result, state, name, measure) for name in (route, against))
    ratios = [one[turn] / other[turn] for turn in one if turn in other]
    return statistics.median(ratios) if ratios else None


def turn_ratio(times, one, other):
    """Median of one list of times over another, turn by turn."""
    return statistics.median(map(float.__truediv__, times[one], times[other]))


def routes_of(result):
    """The routes of a result, in the order in which they ran."""
    return list(dict.fromkeys(run["route"] for run in result["runs"]))


def table(result):
    """The result as text: medians with minimum and maximum, ratios to ``from_pretrained``.

    Parameters
    ----------
    result : dict
        From `workbook.bench.run.measure`.

    Returns
    -------
    str
    """
    machine = result["machine"]
    lines = [
        f"{result['model']} on {result['device']}, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory']}, GPU: {machine['GPU']}"
    ]
    if result["storage"]:
        seconds = statistics.median(read["seconds"] for read in result["storage"])
        size = result["storage"][0]["bytes"]
        lines.append(
            f"storage: a plain cold read of {size / 1e9:.2f} GB takes {seconds:.2f} s "
            f"({size / seconds / 1e9:.2f} GB/s); memory copies {result['memory_copy'] / 1e9:.1f} GB/s"
        )
    for state in dict.fromkeys(run["state"] for run in result["runs"]):
        lines += ["", f"{state + ':':<23}{'process to token':>24} {'ratio':>6}  {'load to token':>13} {'ratio':>6}"
                  f"  {'load':>7} {'private':>9} {'peak':>9} {'file':>8}"]  # fmt: skip
        lines += [_row(result, state, route) for route in routes_of(result)]
    if saving := result.get("saving"):
        middle = {name: statistics.median(times) for name, times in saving.items()}
        share = turn_ratio(saving, "serialise", "write_module")
        lines.append(
            f"\nsaving, flushed: serialise {middle['serialise']:.2f} s, write_module {middle['write_module']:.2f} s "
            f"({share:.2f}x)"
        )
        for state in ("warm", "cold"):
            if starts := break_even(result, state):
                lines.append(f"saving is won back after {starts} {state} starts against from_pretrained")
    if streaming := result.get("streaming"):
        middle = {name: statistics.median(times) for name, times in streaming.items()}
        share = turn_ratio(streaming, "helpers", "tensorizer")
        lines.append(
            f"load from S3 on loopback: helpers {middle['helpers']:.2f} s, tensorizer's defaults "
            f"{middle['tensorizer']:.2f} s ({share:.2f}x)"
        )
    for route, reason in result.get("skipped", {}).items():
        lines.append(f"{route:<22} not run: {reason}")
    return "\n".join(lines)


def break_even(result, state, route="helpers + prefetch", against=REFERENCE):
    """After how many starts the time spent saving is won back; None if a start is not faster.

    Parameters
    ----------
    result : dict
        With its ``saving``.
    state : str
        ``"cold"`` or ``"warm"``.

    Returns
    -------
    int or None
    """
    ours, theirs = (values(result, state, name, "fresh process to first token") for name in (route, against))
    common = ours.keys() & theirs.keys()
    if not common or "saving" not in result:
        return None
    won = statistics.median(theirs[turn] - ours[turn] for turn in common)
    return math.ceil(statistics.median(result["saving"]["serialise"]) / won) if won > 0 else None


def _row(result, state, route):
    runs = [run for run in result["runs"] if run["state"] == state and run["route"] == route]
    good = [run for run in runs if "failed" not in run]
    if not good:
        return f"{route:<22} {runs[0]['failed'] if runs else 'no finished round'}"
    total = sorted(run["total"] for run in good)
    spread = f"{statistics.median(total):7.2f} s [{total[0]:.2f}, {total[-1]:.2f}]"
    to_token = statistics.median(map(load_to_token, good))
    ratios = [ratio(result, state, route, m) for m in ("fresh process to first token", "load to first token")]
    first, second = (f"{r:5.2f}x" if r else "     -" for r in ratios)
    memory = [statistics.median(run[key] for run in good) / 1e6 for key in ("private", "peak_rss")]
    row = f"{route:<22} {spread:>24} {first}  {to_token:11.2f} s {second}  "
    row += f"{statistics.median(map(load_alone, good)):5.2f} s {memory[0]:6.0f} MB {memory[1]:6.0f} MB "
    row += f"{result['bytes'][route] / 1e6:5.0f} MB"
    if len(good) < len(runs):
        row += (
            f"  ({len(runs) - len(good)} of {len(runs)}: {next(r['failed'] for r in runs if 'failed' in r)})"
        )
    return row


def picture(result, state, measure="fresh process to first token"):
    """Bars of medians with their spread, and the storage's own limit as a line.

    Parameters
    ----------
    result : dict
    state : str
        ``"cold"`` or ``"warm"``.
    measure : str
        A key of `MEASURES`.

    Returns
    -------
    matplotlib.axes.Axes
    """
    from workbook import plots

    found = {route: sorted(values(result, state, route, measure).values()) for route in routes_of(result)}
    found = {route: times for route, times in found.items() if times}
    ordered = sorted(found, key=lambda route: statistics.median(found[route]))
    best, reference = ordered[0], found.get(REFERENCE)
    title = f"{state}, {measure}: {best} is first"
    if reference:
        share = ratio(result, state, best, measure)
        title += f", at {share:.2f} of from_pretrained"
    axes = plots.new(title, 1.1 + 0.33 * len(ordered))
    for row, route in enumerate(ordered):
        times = found[route]
        middle = statistics.median(times)
        axes.barh(row, middle, color=plots.colour(route))
        axes.plot([times[0], times[-1]], [row, row], color="black", linewidth=1)
        axes.text(max(middle, times[-1]), row, f" {middle:.2f}", va="center", fontsize=9)
    if state == "cold" and result["storage"]:
        limit = statistics.median(read["seconds"] for read in result["storage"])
        axes.axvline(limit, color="black", linestyle="--", linewidth=1)
        axes.text(limit, -0.75, "plain read of the file", fontsize=8, ha="center")
    axes.set_yticks(range(len(ordered)), ordered)
    axes.invert_yaxis()
    axes.set_xlim(0, axes.get_xlim()[1] * 1.08)
    axes.set_xlabel(f"seconds, median of {max(map(len, found.values()))} rounds with minimum and maximum")
    return axes


def growth(results, state, measure, routes):
    """How a time grows with the size of the model: one line for each route.

    Parameters
    ----------
    results : list of dict
        Of models of different sizes.
    state, measure : str
        As for `picture`.
    routes : list of str

    Returns
    -------
    matplotlib.axes.Axes
    """
    from workbook import plots

    points = {
        route: sorted(
            (result["bytes"][route] / 1e9, statistics.median(values(result, state, route, measure).values()))
            for result in results
        )
        for route in routes
    }
    title = f"{measure}, {state}: what is mapped hardly grows, what is copied does"
    return plots.lines(points, title, "size of the file, GB", "seconds")
