"""The panel's controls. What they do is in `runs`; this file only wires it to ipywidgets."""

import html
import threading
import time

import ipywidgets as widgets

from workbook.panel import chart, estimate, request, runs, sources, table
from workbook.panel.calculator import calculator

__all__ = ["Panel", "calculator"]

_STYLE = {"description_width": "9em"}
_WIDE, _HALF = widgets.Layout(width="50em", max_width="98%"), widgets.Layout(width="25em", max_width="98%")
_CSS = """<style>
.workbook-panel { color: var(--jp-ui-font-color1, inherit); }
.workbook-panel select { appearance: auto !important; background-image: none !important; }
.workbook-panel input::-webkit-calendar-picker-indicator { filter: grayscale(1) brightness(0) invert(0.5); }
.workbook-panel :focus-visible { outline: 2px solid var(--jp-brand-color1, #1976d2); }
.workbook-panel a { color: var(--jp-content-link-color, #0b5cad); text-decoration: underline; }
.workbook-panel .runs-scroll { overflow-x: auto; max-width: 100%; }
.workbook-panel .runs-chart { max-width: 100%; height: auto; }
.workbook-panel table.runs { border-collapse: collapse; font-size: 12px; line-height: 1.3; }
.workbook-panel table.runs th, .workbook-panel table.runs td { border: 1px solid #808080; padding: 3px 6px;
  text-align: left; vertical-align: top; max-width: 18em; }
.workbook-panel table.runs td { overflow-wrap: break-word; }
</style>"""


class Panel:
    """Choose a model, a loader and options, run them, see where the time goes; every run of this sitting is kept.

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
        self.lock = threading.RLock()
        self._left, self._steps, self._count, self._begun, self._expected = 0, 0, 1, 0.0, None
        self.model = widgets.Combobox(
            description="Model",
            options=sources.models_in(folder),
            value=sources.SAMPLE,
            ensure_option=False,
            continuous_update=False,
            placeholder="saved model, Hugging Face directory or name",
            style=_STYLE,
            layout=_WIDE,
        )
        self.loader = _choice("Loader", request.loaders(_devices()))
        self.rounds = _number("Rounds", 1, 1, 50)
        self.device, self.dtype = _choice("Device", _devices()), _choice("Type", request.TYPES)
        self.mapped = _choice("Map the file", tuple(request.MAPPED))
        self.readers = _number("Readers (0: auto)", 0, 0, 64)
        self.cache = widgets.Text(
            description="Cache directory", placeholder="for s3:// and http://", style=_STYLE, layout=_HALF
        )
        self.verify, self.cold, self.cold_start = (
            widgets.Checkbox(description=text, indent=False, layout=widgets.Layout(width="auto"))
            for text in (
                "Verify while loading",
                "Cold: take the weights out of the page cache first",
                "Inside cold_start",
            )
        )
        self.load = widgets.Button(description="Load", button_style="primary")
        self.save, self.check = widgets.Button(description="Serialise"), widgets.Button(description="Verify")
        self.stop = widgets.Button(description="Cancel")
        self.bar = widgets.FloatProgress(description="Progress", min=0, max=1, style=_STYLE, layout=_HALF)
        self.estimate, self.detail, self.message, self.picture, self.table = (
            widgets.HTML() for _ in range(5)
        )
        for button, action in ((self.load, "load"), (self.save, "serialise"), (self.check, "verify")):
            button.on_click(lambda _, action=action: self.start(action))
        self.stop.on_click(lambda _: self.cancel())
        for control in self._settings():
            control.observe(lambda _: self._foresee(), "value")
        self._foresee()
        self.say("Ready.")

    def _settings(self):
        first = [self.model, self.loader, self.rounds, self.device, self.dtype, self.mapped, self.readers]
        return [*first, self.cache, self.verify, self.cold, self.cold_start]

    def view(self):
        """The whole panel, to be shown."""
        model, *choices = self._settings()
        rows = [_in_a_row(*choices[:7]), _in_a_row(*choices[7:])]
        buttons = _in_a_row(self.load, self.save, self.check, self.stop)
        shown = [self.estimate, _in_a_row(self.bar, self.detail), self.message, self.picture, self.table]
        whole = widgets.VBox([widgets.HTML(_CSS), model, *rows, buttons, *shown])
        whole.add_class("workbook-panel")
        return whole

    def request(self, action):
        """The settings as they are now; those that a loader has no use for are left out."""
        source = sources.located(self.model.value)
        asked = runs.Request(
            action, source, device=self.device.value, cold=self.cold.value, cold_start=self.cold_start.value
        )
        if action == "verify":
            return asked
        asked = asked._replace(loader=self.loader.value, dtype=self.dtype.value)
        if action == "serialise":
            return asked._replace(destination=sources.destination(source, self.folder))
        if asked.way != request.OURS:
            return asked
        return asked._replace(
            mapped=self.mapped.value,
            readers=self.readers.value,
            verify=self.verify.value,
            cache=self.cache.value.strip() if sources.is_address(source) else "",
        )

    def start(self, action):
        """Begin a run, unless one is under way; returns at once."""
        with self.lock:  # a double click comes twice
            if self.job is not None:
                self.say("A run is under way: wait for it, or press Cancel.")
                return
            asked = self.request(action)
            if problem := request.problem_with(asked, self.results):
                self.say(problem)
                return
            self._left = self.rounds.value if action == "load" else 1
            self._expected = estimate.seconds(asked, self.results)[0]
            self.say("Starting.")
            self._next(asked)

    def _next(self, asked):
        self._left, self._steps, self._count = self._left - 1, 0, len(runs.STEPS[asked.action])
        self._begun, self.bar.value = time.monotonic(), 0
        self.job = runs.Job(asked, self._step, self._end, self._bytes)

    def cancel(self):
        """End the run now, and do no further rounds."""
        with self.lock:
            self._left = 0
            if self.job is None:
                self.say("Nothing is running.")
            else:
                self.job.cancel()

    def say(self, text):
        """Show a message; a screen reader reads it aloud."""
        self.message.value = f'<div role="status" aria-live="polite">{html.escape(text)}</div>'

    def _step(self, name):
        self._steps, self._name, self._since = self._steps + 1, name, time.monotonic()
        gone = self._since - self._begun
        left = f", about {max(self._expected - gone, 0):.0f} s left" if self._expected else ""
        self._progress(0, left)

    def _bytes(self, done, total):
        gone = time.monotonic() - self._since
        left = f", about {gone * (total - done) / done:.0f} s left" if done and gone > 1 else ""
        share = done / total if total else 0
        self._progress(share, f", {done / 1e6:,.0f} of {total / 1e6:,.0f} MB{left}")

    def _progress(self, share, said):
        self.bar.value = min((self._steps - 1 + share) / self._count, 1)
        self.detail.value = html.escape(f"{self._name}{said}")

    def _end(self, result):
        with self.lock:
            self.results.append(result)
            try:
                self._show(result)
            finally:
                if self._left and not result.error:
                    self._next(result.request)
                else:
                    try:
                        self._foresee()
                    finally:  # the panel must not stay busy
                        self.job = None

    def _show(self, result):
        self.bar.value, self.detail.value = 0 if result.error else 1, ""
        self.picture.value, self.table.value = chart.as_html(self.results), table.as_html(self.results)
        self.model.options = sources.models_in(self.folder)
        if result.request.action == "serialise" and not result.error:
            self.model.value = result.request.destination
        rounds = f" {self._left} more to do." if self._left and not result.error else ""
        self.say(result.error or f"Done in {result.seconds:.2f} s. {result.note}{rounds}".strip())

    def _foresee(self):
        said = estimate.in_words(self.request("load"), self.rounds.value, self.results)
        self.estimate.value = f"<div>Load: {html.escape(said)}</div>"


def _choice(label, options):
    return widgets.Dropdown(description=label, options=options, style=_STYLE, layout=_HALF)


def _number(label, value, low, high):
    return widgets.BoundedIntText(
        description=label, value=value, min=low, max=high, style=_STYLE, layout=_HALF
    )


def _in_a_row(*shown):
    """Side by side where the page is wide enough, below each other where it is not."""
    return widgets.HBox(shown, layout=widgets.Layout(flex_flow="row wrap"))


def _devices():
    import torch

    return ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",)
