"""The workbook's pictures: one look, one colour for each loader and each phase, the finding in the title.

Every function takes plain numbers or a `helpers.Timeline`, draws, and returns the axes. They are made to be
read at a width of 600 pixels. The title is also the picture's alternative text.
"""

import math
import statistics
import textwrap

import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, MaxNLocator

# Okabe and Ito's colours, told apart by colour-blind readers too: https://jfly.uni-koeln.de/color/
LOADERS = {
    "helpers": "#0072B2",
    "from_pretrained": "#E69F00",
    "guide's snippet": "#D55E00",
    "tensorizer": "#CC79A7",
    "safetensors": "#F0E442",
    "torch.load": "#999999",
    "Run:ai streamer": "#009E73",
    "fastsafetensors": "#56B4E9",
    "flashpack": "#000000",
    "InstantTensor": "#666666",
}
STEPS = ("#56B4E9", "#009E73", "#F0E442", "#0072B2", "#E69F00", "#CC79A7", "#D55E00", "#999999")
NEUTRAL = "#8DA0B3"  # what is neither a loader nor a phase

_PHASES = {  # what a start or a save is made of; steps of one kind share a colour
    "#999999": ("interpreter", "start"),
    "#56B4E9": ("imports", "import the model class"),
    "#CC79A7": ("prefetch call", "open and check", "fetch the small files", "wait for the small files"),
    "#F0E442": ("empty model", "build the empty model", "build the model for real", "describe the model"),
    "#E69F00": ("load", "map the weights", "read the weights", "put the weights in"),
    "#D55E00": ("fetch the weights", "wait for the weights", "wait for the copy", "read ahead", "verify"),
    "#009E73": ("first token",),
    "#0072B2": ("serialise", "write the weights", "upload"),
}
PHASES = {name: colour for colour, names in _PHASES.items() for name in names}

_SMALL = 9  # points; smaller letters cannot be read at 600 pixels
_LINE = 80  # letters of a title in one line
# Of a group's axis for its longest bar: what stands at its end fits, so charts of one scale have one width.
_ROOM = 1.32


def new(title, height=2.8, width=7.0):
    """An empty chart on opaque white, readable in a dark theme too."""
    figure, axes = plt.subplots(figsize=(width, height), facecolor="white", layout="constrained")
    entitle(figure, title)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def entitle(figure, title):
    """Give a figure its title, in lines that fit, and make it the alternative text of the picture.

    A notebook stores that text beside the picture, as ``metadata["image/png"]["alt"]``.
    """
    lines = "\n".join(textwrap.fill(line, _LINE) for line in title.splitlines())
    figure.suptitle(lines, x=0.01, ha="left", fontsize=11, fontweight="bold")
    alternative = {"image/png": {"alt": " ".join(title.split())}}
    figure._repr_mimebundle_ = lambda include=None, exclude=None: ({}, alternative)


def colour(name):
    """The colour of a phase or a loader in every chart; variants of one loader share it."""
    known = [loader for loader in LOADERS if name.startswith(loader)]
    return PHASES.get(name) or (LOADERS[known[0]] if known else NEUTRAL)


def waterfall(phases, title, seconds=None):
    """Phases one below the other, each beginning where it began.

    Parameters
    ----------
    phases : list of helpers.timeline.Phase
        For example ``timeline.phases``. A phase inside another is drawn like any other.
    title : str
        What the picture shows, as a finding.
    seconds : float, optional
        The end of the time axis.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> from helpers.timeline import Phase
    >>> waterfall([Phase("imports", 0.0, 2.0), Phase("load", 2.0, 0.1)], "Imports cost more than the load")
    <Axes: ...>
    """
    phases = sorted(phases, key=lambda phase: phase.start)
    axes = new(title, 0.9 + 0.3 * len(phases))
    end = seconds or max(phase.start + phase.seconds for phase in phases)
    for row, phase in enumerate(phases):
        axes.barh(row, phase.seconds, left=phase.start, color=colour(phase.name))
        text = f" {phase.seconds:.2f} s" if end > 1 else f" {1000 * phase.seconds:.0f} ms"
        axes.text(phase.start + phase.seconds, row, text, va="center", fontsize=_SMALL)
    _rows(axes, [phase.name for phase in phases], "seconds", end * 1.14)
    return axes


def stacked(rows, title, unit="seconds", colours=None):
    """One bar a row, made of parts in order, so that wholes and parts compare at a glance.

    Parameters
    ----------
    rows : dict of str to dict of str to float
        Parts and their sizes by row. Instead of one dict a row may have a list of them, one for each round of a
        measurement: the round in the middle is drawn, and a thin line from the smallest whole to the largest, which
        stand in brackets.
    title : str
    unit : str
        Label of the axis.
    colours : dict of str to str, optional
        Of parts that are no phases.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> stacked({"a": {"imports": 2.0, "load": 0.2}, "b": {"imports": 2.0, "load": 0.1}}, "b is faster")
    <Axes: ...>
    """
    axes = new(title, 1.3 + 0.4 * len(rows))
    colours, shown, end = colours or {}, {}, 0.0
    for row, given in enumerate(rows.values()):
        rounds = sorted([given] if isinstance(given, dict) else given, key=lambda parts: sum(parts.values()))
        wholes = [sum(parts.values()) for parts in rounds]
        left = 0.0
        for name, size in rounds[(len(rounds) - 1) // 2].items():
            fill = colours.get(name, colour(name))
            shown[name] = axes.barh(row, size, left=left, color=fill, edgecolor="white", linewidth=0.5)
            left += size
        end = max(end, _end(axes, row, left, wholes, ".2f"))
    _rows(axes, rows, unit, end * 1.12)
    axes.figure.legend(
        list(shown.values()), list(shown), ncols=4, fontsize=_SMALL, frameon=False, loc="outside lower left"
    )
    return axes


def groups(rows, title, unit, legend, strong=(), end=None, line=None):
    """Stacked bars in groups under headings, each with the spread of its whole.

    Parameters
    ----------
    rows : dict of str to dict of str to (dict of str to float, float, float)
        By heading and name: the parts in order, the smallest and the largest whole.
    title : str
    unit : str
        Label of the axis.
    legend : dict of str to str
        What each part is called.
    strong : sequence of str
        Names in bold.
    end : float, optional
        The end of the axis, for charts that are to be compared.
    line : (float, str), optional
        A dashed line across all bars, and what it is.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> bar = ({"imports": 2.0, "load": 0.2}, 2.1, 2.4)
    >>> groups({"plain": {"a": bar, "b": bar}}, "Equal", "seconds", {"imports": "imports", "load": "load"})
    <Axes: ...>
    """
    axes = new(title, 1.2 + 0.21 * (sum(map(len, rows.values())) + 1.3 * len(rows)))
    longest = end or max(high for bars in rows.values() for _, _, high in bars.values())
    height, ticks = 0.0, {}
    for heading, bars in rows.items():
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        place = {"xytext": (4, 0), "textcoords": "offset points"}
        axes.annotate(
            heading, (0, height), **place, va="center", fontsize=_SMALL, style="italic", bbox=behind
        )
        for name, (parts, low, high) in bars.items():
            height += 1
            ticks[height] = name
            left = 0.0
            for part, size in parts.items():
                axes.barh(height, size, left=left, height=0.78, color=PHASES[part])
                left += size
            weight = "bold" if name in strong else "normal"
            _end(axes, height, left, [low, high], ".2f", weight)
        height += 1.3
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=_SMALL)
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() in strong else "normal")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(height - 0.6, -0.7)
    axes.set_xlim(0, longest * _ROOM)
    if line:
        axes.axvline(line[0], color="black", linestyle="--", linewidth=1, label=line[1])
    for part, words in legend.items():
        axes.barh(0, 0, color=PHASES[part], label=words)
    axes.set_xlabel(unit, fontsize=_SMALL)
    axes.figure.legend(loc="outside lower left", ncols=3, fontsize=_SMALL, frameon=False)
    return axes


def bars(values, title, unit, colours=None, log=False):
    """One horizontal bar for each name, from zero, with its value written at its end.

    Parameters
    ----------
    values : dict of str to float or list of float
        A list holds all measurements: the bar is their median, and a thin line runs from the smallest to the largest,
        which stand in brackets.
    title : str
    unit : str
        Label of the axis.
    colours : dict of str to str, optional
        By default the phases' and the loaders' own colours.
    log : bool
        A logarithmic axis, for values of which some would be too short to see. The bars cannot begin at zero then,
        so only their ends can be compared; the axis says so.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> bars({"helpers": 0.05, "from_pretrained": 0.1}, "Half the time", "seconds")
    <Axes: ...>
    >>> bars({"helpers": [0.05, 0.06], "guide's snippet": [3.1, 2.9]}, "Far apart", "seconds", log=True)
    <Axes: ...>
    """
    axes = new(title, 1.0 + 0.34 * len(values))
    colours, end = colours or {}, 0.0
    found = {name: _measurements(given) for name, given in values.items()}
    for row, (name, all_of_it) in enumerate(found.items()):
        middle = statistics.median(all_of_it)
        axes.barh(row, middle, color=colours.get(name, colour(name)))
        end = max(end, _end(axes, row, middle, all_of_it, _form(middle)))
    smallest = min(map(min, found.values()))
    if log:
        _rows(axes, values, unit, end * (end / smallest) ** 0.12, smallest / 2, log=True)
    else:
        _rows(axes, values, unit, end * 1.12, min(0, smallest * 1.12))
        if smallest < 0:
            axes.axvline(0, color="black", linewidth=0.8)
    return axes


def dots(values, title, unit, colours=None, log=False):
    """A row of dots for each name, one dot for each measurement, with the range written beside them.

    Where bars would have to begin at zero, or lie on both sides of it, dots show what was measured and no more.

    Parameters
    ----------
    values : dict of str to list of float
    title : str
    unit : str
        Label of the axis.
    colours : dict of str to str, optional
        By default the phases' and the loaders' own colours.
    log : bool
        A logarithmic axis, for values that are far apart.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> dots({"the trick": [0.7, 0.9], "the format": [-0.1, 0.2]}, "One of them is a gain", "seconds")
    <Axes: ...>
    """
    axes = new(title, 1.0 + 0.34 * len(values))
    colours = colours or {}
    for row, (name, found) in enumerate(values.items()):
        fill = colours.get(name, colour(name))
        axes.plot(
            found,
            [row] * len(found),
            "o",
            color=fill,
            markeredgecolor="black",
            markeredgewidth=0.4,
            alpha=0.8,
        )
        axes.annotate(
            f"{min(found):.2f} to {max(found):.2f}", (1.01, row), xycoords=axes.get_yaxis_transform(), va="center",
            fontsize=_SMALL, annotation_clip=False,
        )  # fmt: skip
    low, high = min(map(min, values.values())), max(map(max, values.values()))
    if log:
        _rows(axes, values, unit, high * 1.5, low / 1.5, log=True)
    else:
        margin = 0.05 * (max(high, 0) - min(low, 0))
        _rows(axes, values, unit, max(high, 0) + margin, min(low, 0) - margin)
        axes.axvline(0, color="black", linewidth=0.8)
    axes.set_ylim(len(values) - 0.5, -0.5)
    return axes


def lines(series, title, x, y):
    """One line with marked points for each name, which stands at its end.

    Parameters
    ----------
    series : dict of str to list of (float, float or list of float)
        Points by name. A list holds all measurements: the point is their median, with a thin line from the smallest
        to the largest. Where all places on x are whole numbers, such as counts, its ticks are whole numbers too.
    title : str
    x, y : str
        Labels of the axes.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> lines({"helpers": [(1, 2.0), (2, 2.1)]}, "It hardly grows", "replicas", "GB")
    <Axes: ...>
    """
    axes = new(title, 3.2)
    places, ends, top = set(), {}, 0.0
    for row, (name, points) in enumerate(series.items()):
        across = [place for place, _ in points]
        found = [_measurements(given) for _, given in points]
        up = list(map(statistics.median, found))
        line = colour(name) if colour(name) != NEUTRAL else STEPS[row % len(STEPS)]
        dashes = (0, (4, 2 * row)) if row else "-"  # lines that coincide stay visible
        axes.plot(across, up, marker="o", color=line, linestyle=dashes)
        axes.vlines(across, list(map(min, found)), list(map(max, found)), color="black", linewidth=1)
        ends[name] = (across[-1], up[-1])
        places, top = places | set(across), max(top, *map(max, found))
    if all(isinstance(place, int) for place in places):
        axes.xaxis.set_major_locator(
            MaxNLocator(integer=True) if len(places) > 12 else FixedLocator(sorted(places))
        )
    else:
        axes.set_xlim(0, max(places) * 1.03)
    axes.set_ylim(0, top * 1.08)
    heights = _apart([height for _, height in ends.values()], 0.08 * top, 1.04 * top)
    for (name, end), height in zip(ends.items(), heights, strict=True):
        axes.annotate(
            f"{name}: {end[1]:.3g}", end, (1.03, height), textcoords=axes.get_yaxis_transform(), va="center",
            fontsize=_SMALL, arrowprops={"arrowstyle": "-", "color": "#999999", "relpos": (0, 0.5), "shrinkA": 0},
        )  # fmt: skip
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return axes


def file_map(entries, length, title, part=lambda name: name):
    """A whole file as one strip, from its first byte to its last, coloured by part.

    Parameters
    ----------
    entries : list of helpers.format.layout.Entry
        In file order, as a manifest lists them.
    length : int
        Bytes of the file.
    title : str
    part : callable
        Gives the part that a tensor name belongs to.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> from helpers.format.layout import Entry
    >>> file_map([Entry("w", "parameter", "float32", (250_000,), 448)], 1_000_456, "One tensor")
    <Axes: ...>
    """
    axes = new(title, 2.2)
    sizes = {}
    for entry in entries:
        sizes[part(entry.name)] = sizes.get(part(entry.name), 0) + entry.nbytes
    colours = {name: STEPS[i % len(STEPS)] for i, name in enumerate(sizes)}
    for entry in entries:
        axes.broken_barh([(entry.offset / 1e6, entry.nbytes / 1e6)], (0, 1), color=colours[part(entry.name)])
    for name, fill in colours.items():
        axes.barh(0, 0, color=fill, label=f"{name}: {sizes[name] / 1e6:.1f} MB")
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, length / 1e6)
    axes.set_xlabel("position in the file, MB")
    axes.figure.legend(ncols=3, fontsize=_SMALL, frameon=False, loc="outside lower left")
    return axes


def images(rows, title, labels=()):
    """Small grey images, one row of them for each name.

    Parameters
    ----------
    rows : dict of str to sequence of numpy.ndarray
        Images of one size by row; large values are dark.
    title : str
    labels : sequence
        Written above the columns.

    Returns
    -------
    numpy.ndarray
        The axes, by row and column.

    Examples
    --------
    >>> import numpy as np
    >>> images({"before": [np.eye(8)], "after": [np.eye(8)]}, "Equal").shape
    (2, 1)
    """
    columns = max(map(len, rows.values()))
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(7, 0.75 * len(rows) + 0.7), squeeze=False, facecolor="white",
        layout="constrained",
    )  # fmt: skip
    entitle(figure, title)
    for row, (name, pictures) in enumerate(rows.items()):
        for column, (place, picture) in enumerate(zip(axes[row], pictures, strict=True)):
            place.imshow(picture, cmap="gray_r")
            place.set_xticks([])
            place.set_yticks([])
            if column == 0:
                place.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=_SMALL)
            if row == 0 and column < len(labels):
                place.set_title(labels[column], fontsize=_SMALL)
    return axes


def _measurements(given):
    """All measurements of a value that may be a single one."""
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _form(value):
    """Three digits, for a measurement and its range alike: 2.90 and not 2.9 beside 2.97; a count as it is."""
    if value == int(value) or value <= 0:
        return ",.3g" if value < 1000 else ",.0f"
    return f",.{max(0, 2 - math.floor(math.log10(value)))}f"


def _end(axes, row, value, found, form, weight="normal"):
    """What stands at the end of a bar: the spread of what was found as a line, the value with it in numbers.

    The number beside the end of the line would be taken for that end, if it stood there alone. Where the text is too
    long for the axes, the layout makes them narrower. Returns where bar and line end.
    """
    low, high = min(found), max(found)
    text = f" {value:{form}}"
    if low < high:
        axes.plot([low, high], [row, row], color="black", linewidth=1)
        text += f" ({low:{form}}–{high:{form}})"
    # white, for where a line across all bars would cross it
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 0}
    axes.text(max(value, high), row, text, va="center", fontsize=_SMALL, weight=weight, bbox=behind)
    return max(value, high)


def _rows(axes, names, unit, end, start=0, log=False):
    """The axes of horizontal bars or dots: their names from the top down, the unit, and whether it is logarithmic."""
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(names)), list(names))
    axes.invert_yaxis()
    axes.set_xlim(start, end)
    axes.set_xlabel(f"{unit} (logarithmic)" if log else unit)


def _apart(heights, gap, top):
    """The heights again, in their order, moved as far apart as labels need, and none above the top."""
    places = {}
    order = sorted(range(len(heights)), key=heights.__getitem__)
    last = -gap
    for place in order:
        last = places[place] = max(heights[place], last + gap)
    for place in reversed(order):
        places[place] = min(places[place], top)
        top = places[place] - gap
    return [places[place] for place in range(len(heights))]
