"""The workbook's pictures: one look, one colour for each loader, the finding in the title.

Every function takes plain numbers or a `helpers.Timeline`, draws, and returns the axes.
"""

import matplotlib.pyplot as plt

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

PHASES = {  # what a start is made of, in every chart
    "interpreter": "#999999",
    "prefetch call": "#CC79A7",
    "imports": "#56B4E9",
    "empty model": "#F0E442",
    "load": "#E69F00",
    "first token": "#009E73",
    "serialise": "#0072B2",
}


def new(title, height=2.8, width=8.0):
    """An empty chart on opaque white, readable in a dark theme too."""
    figure, axes = plt.subplots(figsize=(width, height), facecolor="white", layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def colour(loader):
    """The colour of a loader in every chart; variants of one loader share it."""
    known = [name for name in LOADERS if loader.startswith(name)]
    return LOADERS[known[0]] if known else STEPS[0]


def step_colour(name, place):
    """The colour of a step: a phase's own, or the one of its place in the row."""
    return PHASES.get(name, STEPS[place % len(STEPS)])


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
    axes = new(title, 0.9 + 0.32 * len(phases))
    end = seconds or max(phase.start + phase.seconds for phase in phases)
    for row, phase in enumerate(phases):
        axes.barh(row, phase.seconds, left=phase.start, color=step_colour(phase.name, row))
        text = f" {phase.seconds:.2f} s" if end > 1 else f" {1000 * phase.seconds:.0f} ms"
        axes.text(phase.start + phase.seconds, row, text, va="center", fontsize=9)
    axes.set_yticks(range(len(phases)), [phase.name for phase in phases])
    axes.invert_yaxis()
    axes.set_xlim(0, end * 1.12)
    axes.set_xlabel("seconds")
    return axes


def stacked(rows, title, unit="seconds"):
    """One bar a row, made of parts in order, so that wholes and parts compare at a glance.

    Parameters
    ----------
    rows : dict of str to dict of str to float
        Parts and their sizes by row.
    title : str
    unit : str
        Label of the axis.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> stacked({"a": {"imports": 2.0, "load": 0.2}, "b": {"imports": 2.0, "load": 0.1}}, "b is faster")
    <Axes: ...>
    """
    axes = new(title, 1.3 + 0.45 * len(rows))
    names = list(dict.fromkeys(name for parts in rows.values() for name in parts))
    for row, parts in enumerate(rows.values()):
        left = 0.0
        for name, size in parts.items():
            place = names.index(name)
            axes.barh(row, size, left=left, color=step_colour(name, place), label=name)
            left += size
        axes.text(left, row, f" {left:.2f}", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlim(0, axes.get_xlim()[1] * 1.08)
    axes.set_xlabel(unit)
    found = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend([found[name] for name in names], names, ncols=4, fontsize=8, frameon=False, loc="upper left",
                bbox_to_anchor=(0, -0.32))  # fmt: skip
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
    axes = new(title, 1.2 + 0.21 * (sum(map(len, rows.values())) + 1.3 * len(rows)), width=7.0)
    longest = end or max(high for bars in rows.values() for _, _, high in bars.values())
    height, ticks = 0.0, {}
    for heading, bars in rows.items():
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        place = {"xytext": (4, 0), "textcoords": "offset points"}
        axes.annotate(heading, (0, height), **place, va="center", fontsize=9, style="italic", bbox=behind)
        for name, (parts, low, high) in bars.items():
            height += 1
            ticks[height] = name
            left = 0.0
            for part, size in parts.items():
                axes.barh(height, size, left=left, height=0.78, color=PHASES[part])
                left += size
            axes.plot([low, high], [height, height], color="black", linewidth=1)
            weight = "bold" if name in strong else "normal"
            axes.text(max(left, high), height, f" {left:.2f}", va="center", fontsize=9, weight=weight)
        height += 1.3
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=9)
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() in strong else "normal")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(height - 0.6, -0.7)
    axes.set_xlim(0, longest * 1.09)
    if line:
        axes.axvline(line[0], color="black", linestyle="--", linewidth=1, label=line[1])
    for part, words in legend.items():
        axes.barh(0, 0, color=PHASES[part], label=words)
    axes.set_xlabel(unit, fontsize=9)
    axes.figure.legend(loc="outside lower left", ncols=4, fontsize=8, frameon=False)
    return axes


def bars(values, title, unit, colours=None):
    """One horizontal bar for each name, from zero, with its value written at its end.

    Parameters
    ----------
    values : dict of str to float
    title : str
    unit : str
        Label of the axis.
    colours : dict of str to str, optional
        By default the loaders' own colours.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> bars({"helpers": 0.05, "from_pretrained": 0.1}, "Half the time", "seconds")
    <Axes: ...>
    """
    axes = new(title, 1.1 + 0.38 * len(values))
    colours = LOADERS | (colours or {})
    for row, (name, value) in enumerate(values.items()):
        axes.barh(row, value, color=colours.get(name, "#56B4E9"))
        axes.text(value, row, f" {value:,.3g}", va="center", fontsize=9)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.set_xlim(0, axes.get_xlim()[1] * 1.08)
    axes.set_xlabel(unit)
    return axes


def lines(series, title, x, y):
    """One line with marked points for each name; lines that coincide stay visible by their dashes.

    Parameters
    ----------
    series : dict of str to list of (float, float)
        Points by name.
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
    for row, (name, points) in enumerate(series.items()):
        across, up = zip(*points, strict=True)
        dashes = (0, (4, 2 * row)) if row else "-"
        label = f"{name}: {up[-1]:.2f} at the end"
        axes.plot(across, up, marker="o", color=colour(name), linestyle=dashes, label=label)
    axes.set_xlim(0, None)
    axes.set_ylim(0, None)
    axes.legend(frameon=False, fontsize=8)
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
    axes = new(title, 2.4)
    sizes = {}
    for entry in entries:
        sizes[part(entry.name)] = sizes.get(part(entry.name), 0) + entry.nbytes
    colours = {name: STEPS[i % len(STEPS)] for i, name in enumerate(sizes)}
    for entry in entries:
        axes.broken_barh([(entry.offset / 1e6, entry.nbytes / 1e6)], (0, 1), color=colours[part(entry.name)])
    for name, colour in colours.items():
        axes.barh(0, 0, color=colour, label=f"{name}: {sizes[name] / 1e6:.1f} MB")
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, length / 1e6)
    axes.set_xlabel("position in the file, MB")
    axes.legend(ncols=3, fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.3))
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
        len(rows), columns, figsize=(8, 0.85 * len(rows) + 0.7), squeeze=False, facecolor="white",
        layout="constrained",
    )  # fmt: skip
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    for row, (name, pictures) in enumerate(rows.items()):
        for column, (place, picture) in enumerate(zip(axes[row], pictures, strict=True)):
            place.imshow(picture, cmap="gray_r")
            place.set_xticks([])
            place.set_yticks([])
            if column == 0:
                place.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
            if row == 0 and column < len(labels):
                place.set_title(labels[column], fontsize=9)
    return axes
