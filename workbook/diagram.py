"""The workbook's drawings: what a start is made of, what a load connects, the way to a GPU, what to do."""

from matplotlib.patches import FancyArrowPatch, Rectangle

from workbook import plots

_ROWS = ("embedding", "layer 0", "layer 1", "layer 2")
_LEAVE, _DO, _ASK = "#DDDDDD", "#BFE3F5", "#FFFFFF"
QUESTIONS = (  # question, what to do after a yes, whether this workbook is needed for it, whether to go on then
    (
        "May a start take its time, because\nnobody waits for it?",
        "Leave everything as it is: a faster\nstart would help nobody.",
        False,
        False,
    ),
    (
        "Is most of the wait over before the\nprocess exists (scheduling, image)?",
        "Make the image smaller, or keep it\non the machines.",
        False,
        False,
    ),
    (
        "Is the model an estimator, or so small\nthat its load is hardly seen?",
        "Speed is no reason to change the\nformat (safety may be: 05, 10).",
        False,
        True,
    ),
    (
        "Do the weights go to a GPU?",
        "Each byte has to cross the bus:\nmeasure the load there (02).",
        True,
        True,
    ),
    (
        "Are weights copied, at each start or in\neach replica, or is the code your own?",
        "serialise once, deserialise at each\nstart (01, 02, 04, 11).",
        True,
        True,
    ),
    (
        "Can processes be kept ready, with\ntheir imports done, before work comes?",
        "Standby: the imports are over\nbefore the request comes (07).",
        True,
        False,
    ),
    (
        "Is the machine cold at a start: new,\nor with a container just pulled?",
        "cold_start around imports and load,\nwith any loader (07). From S3: 09.",
        True,
        False,
    ),
    (
        "Does from_pretrained load safetensors,\nwarm, on a CPU?",
        "They are mapped already: keep them.\ncold_start shortens the imports (06).",
        False,
        False,
    ),
)


def budget(parts, title):
    """One start as one bar, with what comes before the process begins hatched, since it is not measured.

    Parameters
    ----------
    parts : dict of str to float
        Seconds by phase, of `workbook.plots.PHASES`, in the order in which they run.
    title : str
        What the picture shows, as a finding.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> budget({"interpreter": 0.1, "imports": 3.0, "load": 0.2, "first token": 0.3}, "Mostly imports")
    <Axes: ...>
    """
    axes = plots.new(title, 2.2)
    whole = sum(parts.values())
    before = {"facecolor": "white", "edgecolor": "#777777", "hatch": "///"}
    for left, name in ((-0.44, "scheduling"), (-0.22, "image")):
        axes.barh(0, 0.2 * whole, left=left * whole, height=0.7, **before)
        place = ((left + 0.1) * whole, 0)
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axes.text(*place, f"{name}\n?", ha="center", va="center", fontsize=9, bbox=behind)
    left = 0.0
    for name, seconds in parts.items():
        label = f"{name}: {seconds:.2f} s ({seconds / whole:.0%})"
        axes.barh(0, seconds, left=left, height=0.7, color=plots.PHASES[name], label=label)
        left += seconds
    axes.axvline(0, color="black", linewidth=1)
    axes.text(0, 0.42, " the process begins", fontsize=9)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylim(-0.4, 0.62)
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= whole])
    axes.set_xlim(-0.46 * whole, 1.02 * whole)
    axes.set_xlabel("seconds since the process began")
    axes.figure.legend(loc="outside lower left", ncols=2, fontsize=9, frameon=False)
    return axes


def zero_copy():
    """Draw the model on disk, the empty model, and what a load does: it points, it moves nothing.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> zero_copy()
    <Axes: ...>
    """
    axes = _canvas("A load that moves nothing: each tensor becomes a view of the file", 3.4, 5.6)
    _heading(axes, 1.6, "model.tensors on disk", "each tensor once")
    _heading(axes, 5.2, "page cache", "shared by all processes")
    _heading(axes, 8.5, "empty model", "structure, no memory")
    for row, name in enumerate(_ROWS):
        height = 3.4 - 0.9 * row
        colour = plots.STEPS[(0, 1, 2, 4)[row]]
        _box(axes, 0.4, height, name, colour)
        _box(axes, 4.0, height, "pages", colour)
        _box(axes, 7.3, height, name, "white")
        _arrow(axes, (2.8, height + 0.35), (4.0, height + 0.35))
        _arrow(axes, (7.3, height + 0.35), (6.4, height + 0.35))
    axes.text(3.4, 4.2, "read when first used", ha="center", fontsize=9)
    axes.text(6.85, 4.2, "view", ha="center", fontsize=9)
    axes.text(8.5, 0.15, "output: the embedding again (tied)", ha="center", fontsize=9)
    return axes


def to_gpu():
    """Draw the ways of the bytes from a disk to a GPU: mapped, by pinned buffers, and direct.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> to_gpu()
    <Axes: ...>
    """
    axes = _canvas("Three ways to a GPU: each byte crosses the bus in all of them", 3.6, 6.2)
    for x, name, colour in (
        (0.1, "disk", plots.STEPS[7]),
        (2.6, "page cache", plots.STEPS[0]),
        (5.1, "pinned buffer", plots.STEPS[4]),
        (7.7, "GPU memory", plots.STEPS[1]),
    ):
        _box(axes, x, 5.2, name, colour, width=2.1)
    ways = (
        (4.1, "A  map, then .to('cuda')", ((1.1, 3.6, "page faults"), (3.6, 6.1, "driver copies"), (6.1, 8.7, "DMA"))),
        (2.4, "B  read into pinned buffers", ((1.1, 3.6, "read"), (3.6, 6.1, "copy by read()"), (6.1, 8.7, "DMA"))),
        (0.7, "C  GPUDirect Storage", ((1.1, 8.7, "DMA from the drive into GPU memory"),)),
    )  # fmt: skip
    for height, name, steps in ways:
        axes.text(0.1, height + 0.35, name, fontsize=9, fontweight="bold")
        for start, end, text in steps:
            _arrow(axes, (start, height - 0.35), (end, height - 0.35), text)
    for x in (1.1, 3.6, 6.1, 8.7):
        axes.plot([x, x], [0, 5.2], color="#BBBBBB", linewidth=0.8, linestyle=":", zorder=0)
    return axes


def decisions():
    """Draw what to do about slow starts: eight questions; a yes leads to the right, a no to the next question.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> decisions()
    <Axes: ...>
    """
    rows = len(QUESTIONS)
    axes = _canvas("Only one of eight answers changes your files", 0.5 + 0.82 * rows, 1.3 * rows)
    axes.set_ylim(-0.3, 1.3 * rows)
    for row, (question, action, is_needed, goes_on) in enumerate(QUESTIONS):
        height = 1.3 * (rows - 1 - row) + 0.15
        _box(axes, 0.05, height, question, _ASK, 4.5, 0.85)
        _box(axes, 5.4, height, action, _DO if is_needed else _LEAVE, 4.5, 0.85)
        _arrow(axes, (4.55, height + 0.42), (5.4, height + 0.42), "yes")
        if row + 1 < rows:
            _arrow(axes, (2.3, height), (2.3, height - 0.45))
            axes.text(2.42, height - 0.3, "no", fontsize=9)
        if goes_on:
            axes.plot([6.0, 6.0, 4.2], [height, height - 0.22, height - 0.22], color="black", linewidth=1)
            _arrow(axes, (4.2, height - 0.22), (4.2, height - 0.45))
    axes.text(2.3, -0.15, "no: compare the loaders (06)", ha="center", fontsize=9)
    return axes


def _canvas(title, inches, top):
    axes = plots.new(title, inches)
    axes.axis("off")
    axes.set_xlim(0, 10)
    axes.set_ylim(0, top)
    return axes


def _heading(axes, x, title, text):
    axes.text(x, 5.1, title, ha="center", fontsize=10, fontweight="bold")
    axes.text(x, 4.65, text, ha="center", fontsize=9)


def _box(axes, x, y, text, colour, width=2.4, height=0.7):
    axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor="black"))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)


def _arrow(axes, start, end, text=""):
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="->", mutation_scale=12, shrinkA=0, shrinkB=0))
    axes.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.1, text, ha="center", fontsize=9)
