"""The panel's controls. Logic is in `runs` and `costs`; this file only wires it to ipywidgets."""

import base64
import html
import io
import threading
from math import isclose, log10

import ipywidgets as widgets

from workbook.panel import costs, runs

_LABELLED = {"style": {"description_width": "9em"}, "layout": widgets.Layout(width="34em")}
_PICTURE = threading.Lock()  # matplotlib draws one picture at a time


class Panel:
    """Choose a model and options, load it, see where the time goes; every run of this sitting is kept.

    Parameters
    ----------
    folder : str or path-like
        Where saved models are, and where new ones go.

    Examples
    --------
    >>> Panel("data/models").view()
    VBox(...)
    """

    def __init__(self, folder):
        self.folder, self.results, self.job = folder, [], None
        self.lock = threading.Lock()
        self.model = widgets.Combobox(
            description="Model",
            options=runs.models_in(folder),
            value=runs.SAMPLE,
            ensure_option=False,
            placeholder="saved model, Hugging Face directory or name",
            **_LABELLED,
        )
        self.device = self._choice("Device", _devices())
        self.dtype = self._choice("Type", ("as saved", "float32", "bfloat16", "float16"))
        self.mapped = self._choice("Map the file", ("by itself", "yes", "no"))
        self.readers = widgets.BoundedIntText(description="Readers (0: auto)", min=0, max=64, **_LABELLED)
        self.verify, self.cold, self.prefetch = (
            widgets.Checkbox(description=text, indent=False)
            for text in (
                "Verify every hash",
                "Cold: empty the page cache first",
                "Prefetch before the imports",
            )
        )
        self.load = widgets.Button(description="Load", button_style="primary")
        self.save = widgets.Button(description="Serialise")
        self.stop = widgets.Button(description="Cancel", disabled=True)
        self.bar = widgets.IntProgress(description="Progress", min=0, max=4, **_LABELLED)
        self.message = widgets.HTML(value="Ready.")
        self.picture, self.table = widgets.VBox(), widgets.HTML()
        self.load.on_click(lambda _: self.start("load"))
        self.save.on_click(lambda _: self.start("serialise"))
        self.stop.on_click(lambda _: self.job and self.job.cancel())

    @staticmethod
    def _choice(label, options):
        return widgets.Dropdown(description=label, options=options, **_LABELLED)

    def view(self):
        """The whole panel, to be shown."""
        options = [self.model, self.device, self.dtype, self.mapped, self.readers]
        switches = [self.verify, self.cold, self.prefetch]
        buttons = widgets.HBox([self.load, self.save, self.stop])
        return widgets.VBox([*options, *switches, buttons, self.bar, self.message, self.picture, self.table])

    def request(self, action):
        """The settings as they are now."""
        source = self.model.value.strip()
        return runs.Request(
            action,
            source,
            runs.destination(source, self.folder),
            self.device.value,
            self.dtype.value,
            self.mapped.value,
            self.readers.value,
            self.verify.value,
            self.cold.value,
            self.prefetch.value,
        )

    def start(self, action):
        """Begin a run, unless one is under way; returns at once."""
        with self.lock:  # a double click comes twice
            if self.job is not None:
                self.say("A run is under way: wait for it, or cancel it.")
                return
            request = self.request(action)
            if problem := runs.problem_with(request):
                self.say(problem)
                return
            self.bar.value, self.bar.max = 0, len(runs.STEPS[action]) + request.cold
            self._running(True)
            self.say("Starting.")
            self.job = runs.Job(request, self._step, self._end)

    def say(self, text):
        self.message.value = html.escape(text)

    def _running(self, running):
        self.stop.disabled = not running
        self.load.disabled = self.save.disabled = running

    def _step(self, name):
        self.bar.value += 1
        self.say(f"Now: {name}.")

    def _end(self, result):
        self.results.append(result)
        try:
            self._show(result)
        finally:
            with self.lock:
                self.job = None
                self._running(False)

    def _show(self, result):
        self.bar.value = 0 if result.error else self.bar.max
        if not result.error:
            self.picture.children = (widgets.HTML(value=_waterfall(result)),)
        self.model.options = runs.models_in(self.folder)
        if result.request.action == "serialise" and not result.error:
            self.model.value = result.request.destination
        self.table.value = _table(self.results)
        self.say(result.error or f"Done in {result.seconds:.2f} s. {result.note}")


def _devices():
    import torch

    return ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",)


def _waterfall(result):
    import matplotlib.pyplot as plt

    from workbook import plots

    longest = max(result.phases, key=lambda phase: phase.seconds)
    share = longest.seconds / result.seconds
    with _PICTURE:
        title = f"{share:.0%} of this run: {longest.name}"
        axes = plots.waterfall(result.phases, title)
        png = io.BytesIO()
        axes.figure.savefig(png, dpi=90)
        plt.close(axes.figure)
    said = ", ".join(f"{phase.name} {phase.seconds:.2f} s" for phase in result.phases)
    data = base64.b64encode(png.getvalue()).decode()
    return f'<img alt="Timeline: {html.escape(said)}" src="data:image/png;base64,{data}">'


def _table(results):
    head = "".join(f"<th>{name}</th>" for name in runs.COLUMNS)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in runs.row(result)) + "</tr>"
        for result in results
    )
    data = base64.b64encode(runs.csv_of(results).encode()).decode()
    link = f'<a download="runs.csv" href="data:text/csv;base64,{data}">Download as CSV</a>'
    return f'<table class="runs" border="1" cellpadding="4"><tr>{head}</tr>{body}</table>{link}'


def calculator(figures):
    """Fields and sliders for size, storage, starts and price; what a faster start is worth, as they move.

    Parameters
    ----------
    figures : workbook.panel.costs.Figures
        Measured on this machine; the storage begins there.

    Returns
    -------
    ipywidgets.VBox
    """
    size, sized = _figure("Model, GB", 0.1, 1000, 14.0)
    storage, stored = _figure("Storage, GB/s", 0.01, 100, figures.bandwidth / 1e9)
    starts, started = _figure("Starts a day", 1, 100_000, 50)
    price, priced = _figure("Price of an hour", 0.01, 100, 2.5)
    answer = widgets.HTML()

    def update(_=None):
        with_storage = figures._replace(bandwidth=storage.value * 1e9)
        found = costs.costs(size.value * 1e9, starts.value, price.value, with_storage)
        answer.value = html.escape(costs.in_words(found))

    for number in (size, storage, starts, price):
        number.observe(update, "value")
    update()
    return widgets.VBox([sized, stored, started, priced, answer])


def _figure(label, low, high, value):
    """A field for a number, and the row that shows it beside a slider: each follows the other."""
    number = widgets.BoundedFloatText(
        description=label,
        min=low,
        max=high,
        value=min(max(value, low), high),
        style={"description_width": "9em"},
        layout=widgets.Layout(width="16em"),
    )
    slider = widgets.FloatLogSlider(
        min=log10(low), max=log10(high), step=0.02, value=number.value, readout=False
    )

    def slid(change):
        if not isclose(number.value, change.new, rel_tol=0.01):  # else the slider followed what was typed
            number.value = float(f"{change.new:.3g}")

    slider.observe(slid, "value")
    number.observe(lambda change: setattr(slider, "value", change.new), "value")
    return number, widgets.HBox([number, slider])
