"""The workbook's idea as a picture: a file, an empty model, and views that connect them."""

from matplotlib.patches import FancyArrowPatch, Rectangle

from workbook import plots

_ROWS = ("embedding", "layer 0", "layer 1", "layer 2")


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
    axes = plots.new(
        "A load that moves nothing: each tensor of the empty model becomes a view of the file", 3.4
    )
    axes.axis("off")
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 5.6)
    _heading(axes, 1.6, "model.tensors on disk", "each tensor once, at a multiple of 64 bytes")
    _heading(axes, 5.2, "page cache", "shared by all processes")
    _heading(axes, 8.5, "empty model", "structure, no memory (meta)")
    for row, name in enumerate(_ROWS):
        height = 3.4 - 0.9 * row
        colour = plots.STEPS[row]
        _box(axes, 0.4, height, name, colour)
        _box(axes, 4.0, height, "pages", colour)
        _box(axes, 7.3, height, name, "white")
        _arrow(axes, 2.8, 4.0, height, "read when first used" if row == 0 else "")
        _arrow(axes, 7.3, 6.4, height, "view" if row == 0 else "")
    axes.text(8.5, 0.15, "output: the embedding again (tied)", ha="center", fontsize=8)
    return axes


def _heading(axes, x, title, text):
    axes.text(x, 5.1, title, ha="center", fontsize=10, fontweight="bold")
    axes.text(x, 4.7, text, ha="center", fontsize=8)


def _box(axes, x, y, text, colour):
    axes.add_patch(Rectangle((x, y), 2.4, 0.7, facecolor=colour, edgecolor="black"))
    axes.text(x + 1.2, y + 0.35, text, ha="center", va="center", fontsize=9)


def _arrow(axes, start, end, y, text):
    arrow = FancyArrowPatch((start, y + 0.35), (end, y + 0.35), arrowstyle="->", mutation_scale=12)
    axes.add_patch(arrow)
    axes.text((start + end) / 2, y + 0.75, text, ha="center", fontsize=8)
