"""The calculator's controls; its arithmetic is in `costs`."""

import html
from math import log10

import ipywidgets as widgets

from workbook.panel import costs


def calculator(figures):
    """Sliders for size, storage, starts and price; what `cold_start` is worth, as they move.

    Parameters
    ----------
    figures : workbook.panel.costs.Figures
        Measured on this machine; the storage's slider begins there. If they know what cold libraries cost, a box
        says whether that counts: on a new machine it does.

    Returns
    -------
    ipywidgets.VBox

    Examples
    --------
    >>> calculator(costs.Figures(imports=5.0, collector=0.2, first_token=0.5, bandwidth=1e9))
    VBox(...)
    """
    rows = [
        _slider("Model, GB", 0.1, 1000, 14.0),
        _slider("Storage, GB/s", 0.01, 100, figures.bandwidth / 1e9),
        _slider("Starts a day", 1, 100_000, 50),
        _slider("Price of an hour", 0.01, 100, 2.5),
    ]
    numbers = [number for _, number in (row.children for row in rows)]
    is_new = widgets.Checkbox(
        value=figures.libraries > 0,
        disabled=figures.libraries == 0,
        description="A new machine: the libraries are cold too",
        indent=False,
        layout=widgets.Layout(width="auto"),
    )
    answer = widgets.HTML()

    def update(_=None):
        size, storage, starts, price = (number.value for number in numbers)
        libraries = figures.libraries if is_new.value else 0.0
        there = figures._replace(bandwidth=storage * 1e9, libraries=libraries)
        found = costs.costs(size * 1e9, starts, price, there)
        said = html.escape(costs.in_words(found))
        answer.value = f'<div role="status" aria-live="polite">{said}</div>'

    for control in (*numbers, is_new):
        control.observe(update, "value")
    update()
    return widgets.VBox([*rows, is_new, answer])


def _slider(label, low, high, value):
    """A slider over powers of ten, and a field beside it that keeps to the digit what is typed."""
    value = min(max(value, low), high)
    slider = widgets.FloatLogSlider(
        description=label,
        min=log10(low),
        max=log10(high),
        value=value,
        readout=False,
        style={"description_width": "9em"},
        layout=widgets.Layout(width="24em"),
    )
    number = widgets.BoundedFloatText(
        value=value, min=low, max=high, step=None, tooltip=label, layout=widgets.Layout(width="8em")
    )

    def slid(change):
        # where the slider only follows the field, it goes to its nearest step
        if abs(log10(change.new / number.value)) > 0.05:
            number.value = float(f"{change.new:.3g}")

    slider.observe(slid, "value")
    number.observe(lambda change: setattr(slider, "value", change.new), "value")
    return widgets.HBox([slider, number])
