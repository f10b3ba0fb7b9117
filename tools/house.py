"""Draw the house: the rooms of ``helpers``, floor above floor, and which of them imports which.

    python tools/house.py data/house.svg

The floors are those of the contract in pyproject.toml, the arrows are the imports as they are.
"""

import sys
import textwrap
import tomllib
from pathlib import Path

import grimp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # this helpers, whichever is installed
# Okabe and Ito's colours, which colour-blind readers tell apart; one for each floor's arrows
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
CELLAR = {
    "errors",
    "timeline",
    "progress",
    "options",
}  # which all others use: their arrows would hide the rest
LEFT, WIDTH, HEIGHT, STEP = 0.8, 5.9, 0.62, 1.0
LETTERS = 88  # in a line of a box


def floors():
    """The names of the parts of ``helpers`` on each floor, from the top, that exist; the cellar is one."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract.get("containers") == ["helpers"])
    cellar = []
    for layer in layers:
        names = [name.strip(" ()") for name in layer.split("|")]
        there = [name for name in names if (ROOT / "helpers" / f"{name}.py").exists() or is_room(name)]
        if CELLAR & set(there):
            cellar += there
        elif there:
            yield there
    yield cellar


def is_room(name):
    """Whether a part is a package with files of its own."""
    return (ROOT / "helpers" / name).is_dir()


def imports(places):
    """Pairs of floors of which the first imports from the second, without those within a floor."""
    graph = grimp.build_graph("helpers", cache_dir=None)
    found = set()
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            parts = [name.split(".")[1] for name in (importer, imported) if "." in name]
            if len(parts) == 2 and not CELLAR & set(parts) and all(part in places for part in parts):
                found.add((places[parts[0]], places[parts[1]]))
    return sorted(pair for pair in found if pair[0] != pair[1])


def contents(names):
    """Title and lines of a box: a room with its files, or the files that share a floor."""
    if len(names) == 1 and is_room(names[0]):
        files = sorted(path.stem for path in (ROOT / "helpers" / names[0]).glob("*.py"))
        return f"{names[0]}/", ", ".join(name for name in files if not name.startswith("_"))
    return "", ", ".join(names)


def box(axes, row, title, text, colour, line="-"):
    """One floor."""
    y = -row * STEP
    axes.add_patch(
        FancyBboxPatch(
            (LEFT, y - HEIGHT / 2),
            WIDTH,
            HEIGHT,
            boxstyle="round,pad=0.02,rounding_size=0.06",
            facecolor="#f6f6f6",
            edgecolor=colour,
            linewidth=1.6,
            linestyle=line,
        )
    )
    axes.text(LEFT + 0.15, y + (0.13 if title else 0), title or text, va="center", size=11.5, weight="bold")
    if title:
        text = textwrap.fill(text, LETTERS)
        size = 7.5 if "\n" in text else 8.8
        axes.text(LEFT + 0.15, y - 0.15, text, va="center", size=size, linespacing=1.0, color="#333333")


def arrow(axes, above, below, colour, ends):
    """From one floor to another: straight to the next, in an arc past those between, red if upwards."""
    start, end, bend = -above * STEP, -below * STEP, 0.0
    if below == above + 1:
        x, start, end = LEFT + WIDTH / 2, start - HEIGHT / 2 - 0.03, end + HEIGHT / 2 + 0.03
    else:
        upwards = below < above
        x = LEFT if upwards else LEFT + WIDTH
        start, end, bend = start - ends[0], end - ends[1], -0.5 + 0.03 * abs(below - above)
        colour = "#c00000" if upwards else colour
    line = {"connectionstyle": f"arc3,rad={bend}", "color": colour, "linewidth": 1.5}
    axes.add_patch(FancyArrowPatch((x, start), (x, end), arrowstyle="-|>", mutation_scale=13, **line))


def offsets(pairs):
    """Where on the side of its two boxes each arc ends, so that no two meet: by how far it goes."""
    found = {}
    for row in {row for pair in pairs for row in pair}:
        ends = [pair for pair in pairs if row in pair and abs(pair[0] - pair[1]) > 1]
        # from top to bottom: arcs that come from above, the nearest last; then those that go down
        ends.sort(key=lambda pair: (pair[0] == row, -abs(pair[0] - pair[1])))
        for number, pair in enumerate(ends):
            found[pair, row] = (number + 1) / (len(ends) + 1) * HEIGHT - HEIGHT / 2
    return found


def draw(target):
    """Write the picture."""
    rows = list(floors())
    places = {name: row for row, names in enumerate(rows) for name in names}
    pairs = imports(places)
    ends = offsets(pairs)
    plt.rcParams["svg.hashsalt"] = "house"  # the same imports give the same file
    figure, axes = plt.subplots(figsize=(8, 0.78 * (len(rows) + 1) + 0.6))
    box(
        axes,
        -1,
        "workbook/",
        "what the notebooks need besides: it imports helpers, never the other way",
        "grey",
        "--",
    )
    arrow(axes, -1, 0, "grey", (0, 0))
    for row, names in enumerate(rows):
        box(axes, row, *contents(names), COLOURS[row % len(COLOURS)])
    for above, below in pairs:
        sides = [ends.get(((above, below), row), 0) for row in (above, below)]
        arrow(axes, above, below, COLOURS[above % len(COLOURS)], sides)
    upwards = sum(below < above for above, below in pairs)
    finding = "imports go down only" if not upwards else f"{upwards} imports go upwards (red)"
    axes.set_title(f"helpers, floor by floor: {finding}", size=13, loc="left", x=0.03)
    note = "An arrow is an import. Every floor may use the lowest one; those arrows are left out."
    axes.text(LEFT, -len(rows) * STEP + 0.45, note, va="top", size=9, color="#333333")
    axes.set_xlim(0, 8)
    axes.set_ylim(-len(rows) * STEP + 0.1, STEP + 0.5)
    axes.axis("off")
    figure.subplots_adjust(left=0, right=1, top=0.94, bottom=0.01)
    figure.savefig(target, dpi=100, facecolor="white", metadata=_undated(target))


def _undated(target):
    """Metadata that keeps the day out of the file."""
    return {"Date": None} if target.suffix == ".svg" else None


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
