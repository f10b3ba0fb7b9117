"""The pictures: one colour for one thing, nothing too small to read, and a text for who cannot see them."""

import itertools

import matplotlib
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.text import Text

from helpers.timeline import Phase
from workbook import plots

matplotlib.use("Agg")
LONG = (
    "Storing the tied matrix once saves a fifth of the file, and nothing of what the model computes is lost"
)
STARTS = {
    "from_pretrained": [{"imports": 4.0 + turn, "load": 0.2, "first token": 0.1} for turn in range(3)],
    "helpers mapped": {"imports": 4.1, "load": 0.1, "first token": 0.1},
}
BAR = ({"imports": 2.0, "load": 0.2}, 2.1, 2.4)
DRAWN = {
    "waterfall": lambda title: plots.waterfall([Phase("imports", 0, 2), Phase("load", 2, 0.1)], title),
    "stacked": lambda title: plots.stacked(STARTS, title),
    "groups": lambda title: plots.groups({"plain": {"a": BAR}}, title, "seconds", {"load": "the load"}),
    "bars": lambda title: plots.bars(
        {"helpers": [0.04, 0.05, 0.3], "guide's snippet": 3.1}, title, "seconds"
    ),
    "log": lambda title: plots.bars({"helpers": 0.04, "guide's snippet": 3.1}, title, "seconds", log=True),
    "dots": lambda title: plots.dots(
        {"gained": [-0.2, 0.05, 0.3], "guide's snippet": [3.1]}, title, "seconds"
    ),
    "dots, log": lambda title: plots.dots(
        {"helpers": [0.04], "guide's snippet": [3.1]}, title, "s", log=True
    ),
    "lines": lambda title: plots.lines({name: [(1, 2.0), (2, 2.01)] for name in "abcd"}, title, "n", "GB"),
}


@pytest.fixture(autouse=True)
def _closed():
    yield
    plots.plt.close("all")


def written(figure):
    """All visible letters of a figure."""
    texts = figure.findobj(Text)
    return [text for text in texts if text.get_text().strip() and text.get_visible()]


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_all_letters_of_a_picture_are_large_enough_and_inside_it(draw):
    figure = draw(LONG).figure
    figure.canvas.draw()
    for text in written(figure):
        assert text.get_fontsize() >= 9, text.get_text()
    box = figure.get_tightbbox(figure.canvas.get_renderer())
    assert box.x0 >= 0 and box.x1 <= figure.get_figwidth() + 0.01


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_a_notebook_stores_the_title_as_the_alternative_text(draw):
    data, about = DisplayFormatter().format(draw(LONG).figure)
    assert about == {"image/png": {"alt": LONG}}
    assert "text/plain" in data


def test_a_phase_has_its_colour_in_whatever_row_it_stands():
    one = plots.waterfall([Phase("imports", 0, 2), Phase("load", 2, 1)], "One order")
    other = plots.waterfall([Phase("load", 0, 2), Phase("imports", 2, 1)], "The other order")
    first, second = ([bar.get_facecolor() for bar in axes.patches] for axes in (one, other))
    assert first == second[::-1]
    assert first[0] != first[1]


def test_variants_of_a_loader_share_its_colour_and_others_have_none():
    assert plots.colour("helpers, S3") == plots.colour("helpers mapped") == plots.LOADERS["helpers"]
    assert plots.colour("after one layer") == plots.NEUTRAL


def test_a_bar_of_several_measurements_shows_the_middle_one_and_the_spread():
    axes = plots.bars({"a": [3.0, 2.9, 2.97], "b": 1.5}, "Measured three times", "seconds")
    assert [bar.get_width() for bar in axes.patches] == [2.97, 1.5]
    (spread,) = axes.lines
    assert list(spread.get_xdata()) == [2.9, 3.0]
    assert [text.get_text() for text in axes.texts] == [" 2.97 (2.90–3.00)", " 1.50"]
    axes = plots.bars({"few": [80, 77, 83], "many": 12_345, "small": 0.01234}, "Counts as they are", "")
    assert [text.get_text() for text in axes.texts] == [" 80 (77–83)", " 12,345", " 0.0123"]
    axes = plots.stacked({"a": [{"load": 3.0}, {"load": 1.0}, {"load": 2.0}]}, "Measured three times")
    assert [bar.get_width() for bar in axes.patches] == [2.0]
    assert list(axes.lines[0].get_xdata()) == [1.0, 3.0]
    assert [text.get_text() for text in axes.texts] == [" 2.00 (1.00–3.00)"]


def test_charts_of_one_scale_have_one_width_whatever_is_written_at_their_ends():
    """So that a reader may compare the bars of two pictures with the eye."""
    short, long = ({"imports": 2.0}, 1.9, 2.1), ({"imports": 12.3}, 11.9, 13.1)
    drawn = []
    for bar in (short, long):
        axes = plots.groups({"": {"a": bar}}, "One scale", "seconds", {"imports": "imports"}, end=13.1)
        axes.figure.canvas.draw()
        drawn.append(axes)
    assert drawn[0].get_xlim() == drawn[1].get_xlim()
    assert drawn[0].get_position().width == pytest.approx(drawn[1].get_position().width)


def test_every_measurement_is_a_dot_and_the_range_is_written_beside_it():
    axes = plots.dots({"a": [0.3, -0.1, 0.2], "b": [1.0]}, "Measured three times", "seconds")
    assert [list(row.get_xdata()) for row in axes.lines[:2]] == [[0.3, -0.1, 0.2], [1.0]]
    assert [text.get_text() for text in axes.texts] == ["-0.10 to 0.30", "1.00 to 1.00"]
    assert axes.get_xlim()[0] < -0.1


def test_the_smallest_bar_of_a_logarithmic_axis_is_seen():
    axes = plots.bars({"a": 0.02, "b": 3.0}, "Far apart", "seconds", log=True)
    assert 0 < axes.get_xlim()[0] < 0.02
    assert axes.get_xlabel() == "seconds (logarithmic)"


def test_the_ticks_of_counts_are_the_counts():
    axes = plots.lines({"a": [(1, 2.0), (2, 2.1), (4, 2.2)]}, "It hardly grows", "replicas", "GB")
    assert list(axes.get_xticks()) == [1, 2, 4]


def test_labels_at_the_ends_of_lines_do_not_collide():
    axes = plots.lines(
        {"a": [(0.3, 1.0), (3.4, 2.00)], "b": [(0.3, 1.0), (3.4, 2.01)], "c": [(0.3, 1.0), (3.4, 2.02)],
         "d": [(0.3, 0.0), (3.4, 0.0)], "e": [(0.3, 0.0), (3.4, 0.001)]}, "Close", "GB", "seconds",
    )  # fmt: skip
    axes.figure.canvas.draw()
    boxes = sorted((Text.get_window_extent(text) for text in axes.texts), key=lambda box: box.y0)
    assert len(boxes) == 5
    for below, above in itertools.pairwise(boxes):
        assert below.y1 <= above.y0 + 1
