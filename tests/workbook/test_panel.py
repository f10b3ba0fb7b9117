"""The panel without a browser: what it does, what it says, and that it survives its users."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import architectures
import pytest
import torch

from helpers import serialise
from workbook.panel import costs, runs, widgets
from workbook.panel.runs import Request

pytestmark = pytest.mark.slow  # every press of a button is a fresh process


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two saved models and a Hugging Face directory."""
    place = tmp_path_factory.mktemp("models")
    model = architectures.build("LlamaForCausalLM")
    serialise(model, place / "llama")
    serialise(torch.nn.Linear(2, 2), place / "linear")
    model.save_pretrained(place / "hf")
    return place


def test_a_saved_model_is_loaded_and_timed(folder):
    steps = []
    job = runs.Job(Request("load", str(folder / "llama"), verify=True), steps.append)
    result = job.wait()
    assert result.error == ""
    assert steps == ["start", "imports", "load", "first token"]
    assert [phase.name for phase in result.phases] == ["interpreter", "imports", "load", "first token"]
    assert result.seconds > sum(phase.seconds for phase in result.phases) * 0.99
    assert result.bytes == (folder / "llama" / "model.tensors").stat().st_size
    assert result.private > 1e7


def test_cold_and_prefetch_are_done(folder):
    result = runs.run(Request("load", str(folder / "llama"), cold=True, prefetch=True))
    assert result.error == ""
    assert [phase.name for phase in result.phases][:2] == ["interpreter", "prefetch call"]
    assert result.seconds < 5 + sum(phase.seconds for phase in result.phases), "the wait does not count"


def test_a_hugging_face_directory_is_loaded_and_serialised(folder):
    assert runs.run(Request("load", str(folder / "hf"))).error == ""
    result = runs.run(Request("serialise", str(folder / "hf"), str(folder / "made")))
    assert result.error == ""
    assert str(folder / "made") in runs.models_in(folder)
    assert runs.run(Request("load", str(folder / "made"), dtype="float16", mapped="no")).error == ""


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request("load", ""), "Choose a model first."),
        (Request("load", "/nowhere", prefetch=True), "Prefetch reads local files"),
        (Request("load", "{}/linear"), "Pass skeleton="),
        (Request("serialise", "{}/llama"), "is saved already: press Load"),
        (Request("load", "http://127.0.0.1:9/m"), "Connection refused"),
        (Request("load", "no/such-model"), "no/such-model"),
        (Request("load", "{}/llama", device="cuda:77"), "cuda:77: is not available here"),
    ],
)
def test_errors_are_words_and_no_tracebacks(folder, request_, said, monkeypatch):
    import re

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    request_ = request_._replace(source=request_.source.format(folder))
    result = runs.run(request_)
    assert re.search(said, result.error), result.error
    assert "Traceback" not in result.error and "\n" not in result.error
    assert result.error in runs.row(result)


def test_a_model_removed_meanwhile_is_said(folder, tmp_path):
    serialise(architectures.build("LlamaForCausalLM"), tmp_path / "m")
    job = runs.Job(Request("load", str(tmp_path / "m")))
    (tmp_path / "m" / "model.tensors").unlink()
    assert "model.tensors: is missing" in job.wait().error


def test_cancel_ends_it_at_once(folder):
    job = runs.Job(Request("load", str(folder / "llama")))
    start = time.monotonic()
    job.cancel()
    assert job.wait().error == "Cancelled."
    assert time.monotonic() - start < 2
    assert job._process.returncode == -signal.SIGKILL


def test_a_process_that_dies_is_said(folder):
    job = runs.Job(Request("load", str(folder / "llama")))
    os.kill(job._process.pid, signal.SIGSEGV)
    assert "The process ended with status -11" in job.wait().error


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_it_ends_with_its_kernel(folder):
    """However the kernel ends: also by a kill, as a restart may do it."""
    code = f"""
import time
from workbook.panel import runs
job = runs.Job(runs.Request("load", {str(folder / "llama")!r}))
print(job._process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as kernel:
        child = int(kernel.stdout.readline())
        kernel.kill()
    end = time.monotonic() + 10
    while alive(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(child)


def finish(panel):
    end = time.monotonic() + 60
    while panel.job is not None and time.monotonic() < end:
        time.sleep(0.05)
    assert panel.job is None


class TestWidgets:
    def test_a_press_of_load_fills_picture_and_table(self, folder):
        panel = widgets.Panel(folder)
        panel.view()
        panel.model.value = str(folder / "llama")
        start = time.perf_counter()
        panel.load.click()
        assert time.perf_counter() - start < 0.5, "the kernel goes on answering"
        assert panel.load.disabled and not panel.stop.disabled
        finish(panel)
        assert panel.message.value.startswith("Done in")
        assert "<img alt=" in panel.picture.children[0].value
        assert "<td>llama</td>" in panel.table.value and "runs.csv" in panel.table.value
        assert panel.bar.value == panel.bar.max
        assert not panel.load.disabled and panel.stop.disabled

    def test_double_clicks_start_one_run(self, folder):
        panel = widgets.Panel(folder)
        panel.model.value = str(folder / "llama")
        for _ in range(3):
            panel.start("load")
        assert "A run is under way" in panel.message.value
        finish(panel)
        assert len(panel.results) == 1

    def test_cancel_and_error_are_rows_too(self, folder):
        panel = widgets.Panel(folder)
        panel.model.value = str(folder / "llama")
        panel.load.click()
        panel.stop.click()
        finish(panel)
        panel.model.value = str(folder / "linear")
        panel.load.click()
        finish(panel)
        assert [bool(result.error) for result in panel.results] == [True, True]
        assert "Cancelled." in panel.table.value and "Pass skeleton=" in panel.table.value
        assert runs.csv_of(panel.results).count("\n") == 3

    def test_serialise_offers_the_new_model(self, folder):
        panel = widgets.Panel(folder)
        panel.model.value = str(folder / "hf")
        panel.save.click()
        finish(panel)
        assert panel.results[0].error == ""
        assert panel.model.value == f"{folder}/hf-saved"
        assert panel.model.value in panel.model.options

    def test_every_control_has_a_label(self, folder):
        panel = widgets.Panel(folder)
        controls = [panel.model, panel.device, panel.dtype, panel.mapped, panel.readers, panel.verify]
        controls += [panel.cold, panel.prefetch, panel.load, panel.save, panel.stop, panel.bar]
        assert all(control.description for control in controls)


class TestCosts:
    figures = costs.Figures(imports=5.0, first_token=0.5, bandwidth=1e9, saving=1e9)

    def test_a_small_model_hides_behind_the_imports(self):
        found = costs.costs(2e9, 1000, 3.6, self.figures)
        assert found.before == 7.5 and found.after == 5.5
        assert found.seconds_a_day == 2000 and found.money_a_month == pytest.approx(60)
        assert found.starts_to_win_back == 1

    def test_a_large_model_hides_the_imports(self):
        found = costs.costs(100e9, 1, 1, self.figures)
        assert found.before - found.after == pytest.approx(self.figures.imports)

    def test_the_calculator_follows_its_sliders(self):
        view = widgets.calculator(self.figures)
        *rows, answer = view.children
        (size, slider), (storage, _), (starts, _), (price, _) = (row.children for row in rows)
        assert storage.value == pytest.approx(1.0)
        before = answer.value
        size.value = 200.0
        assert answer.value != before
        storage.value, starts.value, price.value = 10.0, 2.0, 1.0
        assert "A cold start takes 20.5 s instead of 25.5 s" in answer.value
        slider.value = 123.456
        assert size.value == 123.0

    def test_the_calculator_keeps_what_is_typed(self):
        number = widgets.calculator(self.figures).children[0].children[0]
        number.value = 14.123
        assert number.value == 14.123
