"""The panel without a browser: what it does, what it says, and that it survives its users."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import architectures
import kept_models
import pytest
import torch
from faulty import serving

from helpers import inspect, serialise
from workbook import paths
from workbook.panel import costs, estimate, runs, sources, table, widgets
from workbook.panel.request import PEERS, Request, problem_with

pytestmark = pytest.mark.slow  # every press of a button is a fresh process


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Saved models, and Hugging Face directories of transformers and diffusers."""
    place = tmp_path_factory.mktemp("models")
    model = architectures.build("LlamaForCausalLM")
    serialise(model, place / "llama")
    serialise(torch.nn.Linear(2, 2), place / "linear")
    model.save_pretrained(place / "hf")
    (place / "bin").mkdir()
    for name in ("config.json", "pytorch_model.bin"):
        (place / "bin" / name).write_bytes(b"{}")
    kept_models.unet().to(torch.bfloat16).save_pretrained(place / "unet-hf")
    return place


def names(result):
    return [phase.name for phase in result.phases]


def test_a_saved_model_is_loaded_and_timed_from_the_start_of_its_process(folder, monkeypatch):
    monkeypatch.setattr(runs, "_SETTLE", 0)
    steps, begun = [], time.perf_counter()
    asked = Request("load", str(folder / "llama"), verify=True, cold=True)
    result = runs.Job(asked, steps.append).wait()
    assert result.error == ""
    evicted = ["taking the weights out of the page cache", "five seconds after the weights were taken out"]
    assert steps == [*evicted, "imports", "load", "first token"]
    assert names(result) == ["interpreter", "imports", "load", "first token"]
    assert sum(phase.seconds for phase in result.phases) < result.seconds < time.perf_counter() - begun
    assert result.bytes == (folder / "llama" / "model.tensors").stat().st_size
    assert result.private > 1e7


def test_a_diffusers_directory_keeps_its_type_and_its_class_is_imported_before_the_load(folder):
    told = []
    asked = Request("serialise", str(folder / "unet-hf"), str(folder / "unet"))
    job = runs.Job(asked, on_bytes=lambda *both: told.append(both))
    assert job.wait().error == ""
    assert {tensor.dtype for tensor in inspect(folder / "unet").tensors} == {"bfloat16"}
    weights = sum(tensor.bytes for tensor in inspect(folder / "unet").tensors)
    assert told[-1] == (weights, weights), "the bytes that it has written"
    loaded = runs.run(Request("load", str(folder / "unet")))
    imports, load = (table.middle([loaded], name) for name in ("imports", "load"))
    assert load < 0.3 * imports, "the class is imported in the imports"
    assert "first token" not in names(loaded)
    assert table.row([loaded], "unet")[5] == "n/a", "what has no first token gets none"


@pytest.mark.parametrize("loader", ["from_pretrained", "safetensors load_file"])
def test_other_loaders_are_a_choice(folder, loader):
    result = runs.run(Request("load", str(folder / "hf"), loader=loader))
    assert result.error == ""
    assert {"imports", "load", "first token"} <= set(names(result))
    assert table.settings(result.request)["loader"] == loader
    assert table.settings(result.request)["mapped"] == "n/a", "it has no such option"


def test_a_loader_of_one_file_reads_the_directory_of_a_trainer(folder, tmp_path):
    shutil.copytree(folder / "hf", tmp_path / "run")
    shutil.copytree(folder / "hf", tmp_path / "run" / "checkpoint-500")
    (tmp_path / "run" / "training_args.bin").write_bytes(b"no weights")
    result = runs.run(Request("load", str(tmp_path / "run"), loader="safetensors load_file"))
    assert result.error == ""


@pytest.mark.parametrize("source", ["llama", "hf"])
def test_inside_cold_start_the_first_start_makes_the_recording_and_the_next_reads_it(
    folder, source, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = Request("load", str(folder / source), cold_start=True)
    assert not sources.is_recorded(asked.source)
    first, second = runs.run(asked), runs.run(asked)
    assert (first.error, second.error) == ("", "")
    assert "made the recording" in first.note and second.note == ""
    assert table.settings(asked)["cold_start"] == "yes" and table.in_short(asked).endswith("cold_start")
    assert {"imports", "load", "first token"} <= set(names(second))


def test_a_copy_of_what_is_at_an_address_is_kept(folder, tmp_path):
    with serving(folder) as server:
        result = runs.run(Request("load", f"{server.url}/llama/", cache=str(tmp_path / "copies")))
    assert result.error == ""
    assert result.bytes == (folder / "llama" / "model.tensors").stat().st_size
    assert list((tmp_path / "copies").rglob("model.tensors"))


def test_a_saved_model_is_verified(folder, tmp_path):
    serialise(torch.nn.Linear(30, 30), tmp_path / "m")
    result = runs.run(Request("verify", str(tmp_path / "m")))
    assert (result.error, names(result)) == ("", ["interpreter", "imports", "verify"])
    with open(tmp_path / "m" / "model.tensors", "r+b") as file:
        file.seek(inspect(tmp_path / "m").bytes // 2)
        file.write(b"damaged!")
    assert "1 of 2 tensors are damaged" in runs.run(Request("verify", str(tmp_path / "m"))).error


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request("load", ""), "Choose a model first."),
        (Request("load", "/nowhere"), "/nowhere: there is no such directory"),
        (Request("load", "./no/such"), "./no/such: there is no such directory"),
        (Request("load", "{}"), "holds no saved model"),
        (Request("serialise", "{}/llama"), "is saved already: press Load"),
        (Request("verify", "{}/hf"), "has no hashes to verify"),
        (Request("load", "{}/hf", loader="deserialise"), "is no saved model, which deserialise reads"),
        (Request("load", "{}/llama", loader="from_pretrained"), "reads a checkpoint"),
        (Request("load", "{}/hf", loader="safetensors load_file", dtype="float16"), "keeps the types"),
        (Request("load", "org/name", loader="safetensors load_file"), "reads one file of weights"),
        (
            Request("load", "{}/bin", loader="safetensors load_file"),
            "reads one file of weights, a .safetensors, and",
        ),
        (Request("load", "{}/hf", loader="InstantTensor"), "InstantTensor: "),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_starts(folder, request_, said):
    request_ = request_._replace(source=request_.source.format(folder))
    assert said in problem_with(request_)
    assert runs.run(request_).error == problem_with(request_)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request("load", "http://127.0.0.1:9/m"), "Connection refused"),
        (Request("load", "no/such-model"), "no/such-model"),
        (Request("load", "{}/llama", device="cuda:77"), "cuda:77: is not available here"),
    ],
)
def test_errors_are_words_and_no_tracebacks(folder, request_, said):
    request_ = request_._replace(source=request_.source.format(folder))
    result = runs.run(request_)
    assert re.search(said, result.error), result.error
    assert "Traceback" not in result.error and "\n" not in result.error
    assert result.error in table.row([result], "m")


def test_a_module_of_ones_own_is_said_to_be_none_that_the_panel_can_load(folder):
    error = runs.run(Request("load", str(folder / "linear"))).error
    assert error.startswith(
        f"{folder / 'linear'}: is a module whose code is not stored, so the panel cannot load it"
    )
    assert "Pass skeleton=" not in error


def wait_for(condition):
    end = time.monotonic() + 180
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def test_a_model_removed_meanwhile_is_said(folder, tmp_path):
    serialise(architectures.build("LlamaForCausalLM"), tmp_path / "m")
    job = runs.Job(Request("load", str(tmp_path / "m")))
    (tmp_path / "m" / "model.tensors").unlink()
    assert "model.tensors: is missing" in job.wait().error


def test_cancel_ends_it_at_once(folder):
    job = runs.Job(Request("load", str(folder / "llama")))
    wait_for(lambda: job.process)
    start = time.monotonic()
    job.cancel()
    assert job.wait().error == "Cancelled."
    assert time.monotonic() - start < 2
    assert job.process.returncode == -signal.SIGKILL


def test_a_process_that_dies_is_said(folder):
    job = runs.Job(Request("load", str(folder / "llama")))
    wait_for(lambda: job.process)
    os.kill(job.process.pid, signal.SIGSEGV)
    assert "The process ended with status -11" in job.wait().error


def test_what_goes_wrong_outside_the_process_ends_the_job_with_a_sentence(folder, monkeypatch):
    def may_not_be_read(source):
        raise PermissionError(13, "Permission denied", f"{source}/private")

    monkeypatch.setattr(sources, "make_cold", may_not_be_read)
    ended = []
    job = runs.Job(Request("load", str(folder / "llama"), cold=True), on_end=ended.append)
    assert job.wait() is not None and ended == [job.result]
    assert "llama: PermissionError: [Errno 13] Permission denied: '" in job.result.error


def test_a_job_whose_steps_cannot_be_shown_leaves_no_process_behind(folder):
    def gone(name):
        raise RuntimeError("the page is closed")

    job = runs.Job(Request("load", str(folder / "llama")), on_step=gone)
    assert "RuntimeError: the page is closed" in job.wait().error
    wait_for(lambda: not alive(job.process.pid))


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
while not job.process:
    time.sleep(0.01)
print(job.process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as kernel:
        child = int(kernel.stdout.readline())
        kernel.kill()
    wait_for(lambda: not alive(child))


class TestSources:
    @pytest.mark.parametrize("source", ["/{}", "{}/m", "~nobody-of-this-name/m", "a/{}/m"])
    def test_what_cannot_be_looked_at_is_said_to_be_missing(self, source):
        source = sources.located(source.format("m" * 300))
        assert "there is no such directory" in problem_with(Request("load", source))
        assert sources.weights(source) == []

    def test_a_directory_that_one_may_not_enter_or_read_is_a_sentence(self, tmp_path):
        (tmp_path / "closed" / "m").mkdir(parents=True)
        (tmp_path / "closed").chmod(0)
        (tmp_path / "m").mkdir()
        for name in ("config.json", "model.safetensors"):
            (tmp_path / "m" / name).write_text("{}")
        (tmp_path / "m" / "model.safetensors").chmod(0)
        tmp_path.chmod(0o755)
        code = """
import os
from workbook.panel import estimate, sources
from workbook.panel.request import Request
if os.geteuid() == 0:
    os.setuid(65534)  # root may look everywhere
for source in (f"{os.getcwd()}/closed/m", "closed/m", "m"):
    print(estimate.in_words(Request("load", sources.located(source)), 1, []))
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
        (tmp_path / "closed").chmod(0o700)
        assert done.returncode == 0, done.stderr
        assert "there is no such directory" in done.stdout.splitlines()[0]

    def test_the_sample_may_be_saved_again_in_another_sitting(self, tmp_path):
        place = Path(sources.destination(sources.SAMPLE, tmp_path))
        place.mkdir()
        assert problem_with(Request("serialise", sources.SAMPLE, str(place))) == ""

    def test_a_checkpoint_is_not_its_own_destination_however_its_path_is_written(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "models" / "llama").mkdir(parents=True)
        (tmp_path / "linked").symlink_to("models")
        for folder in ("models", "linked"):
            found = sources.destination(str(tmp_path / "models" / "llama"), folder)
            assert found == f"{folder}/llama-saved"

    def test_a_path_may_begin_at_the_workbooks_folder_and_end_in_a_slash(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert sources.located("data/digits_unet/") == str(paths.DATA / "digits_unet")

    def test_models_of_one_name_are_told_apart(self):
        asked = [Request("load", source) for source in ("a/m", "b/m", "https://u.example/c?signature=geheim")]
        said = table.as_html([runs.failed(one, "no") for one in asked])
        assert "<td>a/m</td>" in said and "<td>b/m</td>" in said and "<td>c</td>" in said
        assert "geheim" not in said

    def test_the_csv_says_emptied_only_of_a_page_cache_that_was(self):
        asked = Request("load", "org/name", cold=True)
        cold = runs.Result(asked, 1.0, [], 0, 0, "", "")
        found = [cold, cold._replace(note=sources.make_cold("org/name")), runs.failed(asked, "no")]
        rows = csv.DictReader(table.as_csv(found).splitlines())
        assert [row["page cache"] for row in rows] == ["emptied", "not emptied", "n/a"]

    def test_every_loader_that_reads_a_checkpoint_as_it_is_can_be_chosen(self):
        assert {"from_pretrained", "safetensors load_file", "Run:ai streamer", "fastsafetensors"} < set(PEERS)


class TestEstimate:
    asked = Request("load", "data/digits_unet")
    phases = (runs.Phase("imports", 0.0, 4.0), runs.Phase("load", 4.0, 2.0))
    result = runs.Result(asked, 6.0, phases, 100, 0, "", "")

    def test_the_same_again_takes_as_long_as_it_took(self):
        faster = self.result._replace(seconds=5.0)
        assert estimate.seconds(self.asked, [self.result, faster])[0] == 5.5

    def test_another_model_takes_longer_in_proportion_to_its_size(self, folder):
        other = self.asked._replace(source=str(folder / "hf"))
        size = sources.size_and_share(other.source)[0]
        assert estimate.seconds(other, [self.result])[0] == pytest.approx(4.0 + 2.0 * size / 100)

    def test_without_a_run_like_it_nothing_is_claimed(self):
        assert estimate.seconds(self.asked, []) == (None, "no run yet to judge by")
        assert estimate.seconds(self.asked._replace(cold=True), [self.result])[0] is None


def finish(panel):
    wait_for(lambda: panel.job is None)


class TestWidgets:
    def test_rounds_of_a_load_fill_chart_and_table_and_csv(self, folder):
        panel = widgets.Panel(folder)
        panel.view()
        panel.model.value = str(folder / "llama")
        assert "not known" in panel.estimate.value
        panel.rounds.value = 2
        start = time.perf_counter()
        panel.load.click()
        clicked = time.perf_counter() - start
        panel.load.click()
        assert "A run is under way" in panel.message.value
        assert not panel.load.disabled, "a button that is disabled loses the keyboard's focus"
        finish(panel)
        assert len(panel.results) == 2
        assert "Done in" in panel.message.value and 'aria-live="polite"' in panel.message.value
        assert 'aria-label="Timeline: llama, load' in panel.picture.value
        low, high = sorted(result.seconds for result in panel.results)
        assert clicked < 0.2 * low, "the kernel goes on answering"
        assert f"[{low:.2f}, {high:.2f}] of 2" in panel.table.value
        first, *rows = csv.DictReader(table.as_csv(panel.results).splitlines())
        assert len(rows) == 1
        assert float(first["imports"]) > 0 and first["verify"] == "n/a" and first["round"] == "1"
        assert panel.bar.value == panel.bar.max
        assert "as its last runs took" in panel.estimate.value

    def test_cancel_and_error_are_rows_too(self, folder):
        panel = widgets.Panel(folder)
        panel.model.value = str(folder / "llama")
        panel.rounds.value = 3
        panel.load.click()
        panel.stop.click()
        finish(panel)
        panel.rounds.value = 1
        panel.model.value = str(folder / "linear")
        panel.load.click()
        finish(panel)
        assert [bool(result.error) for result in panel.results] == [True, True]
        assert "Cancelled." in panel.table.value and "the panel cannot load it" in panel.table.value
        assert panel.picture.value == "", "nothing is drawn of what did not run"
        panel.stop.click()
        assert "Nothing is running." in panel.message.value

    def test_serialise_offers_the_new_model(self, folder):
        panel = widgets.Panel(folder)
        panel.model.value = str(folder / "hf")
        panel.save.click()
        finish(panel)
        assert panel.results[0].error == ""
        assert panel.model.value == f"{folder}/hf-saved"
        assert panel.model.value in panel.model.options

    def test_serialise_replaces_what_this_sitting_saved_from_the_same_source_and_nothing_else(
        self, folder, tmp_path
    ):
        for run in "ab":
            shutil.copytree(folder / "hf", tmp_path / run / "checkpoint-500")
        panel = widgets.Panel(tmp_path / "models")

        def press_serialise(run):
            panel.model.value = str(tmp_path / run / "checkpoint-500")
            panel.save.click()
            finish(panel)
            return panel.message.value

        assert "Done in" in press_serialise("a")
        saved = tmp_path / "models" / "checkpoint-500"
        assert f"{saved} exists already" in press_serialise("b")
        first = os.stat(saved).st_ino
        assert "Done in" in press_serialise("a")
        assert os.stat(saved).st_ino != first, "made anew"
        panel.results.clear()  # as in another sitting
        assert "choose it as the model and press Load, or move it away" in press_serialise("a")

    def test_the_panel_is_free_again_though_what_a_next_run_takes_cannot_be_said(self, folder, monkeypatch):
        panel = widgets.Panel(folder)
        panel.job = "a job"

        def gone(*_):
            raise OSError("the disk is gone")

        monkeypatch.setattr(estimate, "in_words", gone)
        with pytest.raises(OSError, match="the disk is gone"):
            panel._end(runs.failed(Request("load", "m"), "no"))
        assert panel.job is None

    def test_every_control_has_a_label(self, folder):
        panel = widgets.Panel(folder)
        controls = [*panel._settings(), panel.load, panel.save, panel.check, panel.stop, panel.bar]
        assert all(control.description for control in controls)


class TestCosts:
    figures = costs.Figures(imports=5.0, collector=0.2, first_token=0.5, bandwidth=1e9)

    def test_a_small_model_is_read_before_the_imports_are_over(self):
        found = costs.costs(2e9, 1000, 3.6, self.figures)
        assert (found.before, found.after) == (7.5, 4.5)
        assert found.seconds_a_day == 3000 and found.money_a_month == pytest.approx(90)

    def test_a_warm_start_wins_the_share_of_the_collector(self):
        found = costs.costs(0, 1, 1, self.figures)
        assert found.before - found.after == pytest.approx(0.2 * self.figures.imports)

    def test_cold_libraries_are_read_ahead_as_well(self):
        found = costs.costs(2e9, 1, 1, self.figures._replace(libraries=1.5))
        assert (found.before, found.after) == (9.0, 4.5)

    @pytest.mark.parametrize("libraries", [0.0, 1.5])
    def test_no_model_wins_more_than_the_imports(self, libraries):
        found = costs.costs(100e9, 1, 1, self.figures._replace(libraries=libraries))
        assert found.before - found.after == pytest.approx(self.figures.imports)

    def test_the_calculator_follows_its_sliders_and_keeps_what_is_typed(self):
        *rows, is_new, answer = widgets.calculator(self.figures).children
        assert is_new.disabled and not is_new.value, "nothing is known of cold libraries"
        sliders, (size, storage, starts, price) = zip(*(row.children for row in rows), strict=True)
        assert (size.value, storage.value, starts.value) == (14, pytest.approx(1.0), 50)
        found = costs.costs(14e9, 50, 2.5, self.figures)
        assert costs.in_words(found) in answer.value, "what costs() says of the same numbers"
        sliders[0].value = 200.0
        assert size.value == 200
        storage.value, starts.value, price.value = 10.3, 2.0, 1.0
        assert sliders[1].value == pytest.approx(10.3)
        assert "A cold start takes 19.9 s instead of 24.9 s" in answer.value

    def test_the_calculator_counts_cold_libraries_if_it_is_told(self):
        *_, is_new, answer = widgets.calculator(self.figures._replace(libraries=1.5)).children
        assert is_new.value and "instead of 21.0 s" in answer.value
        is_new.value = False
        assert "instead of 19.5 s" in answer.value


def test_a_path_below_a_directory_that_is_here_is_no_name_on_the_hub(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    typed = f"{folder.name}/lama"
    assert runs.run(Request("load", typed)).error == f"{typed}: there is no such directory. Check the path."


def test_a_name_that_the_hub_cannot_be_asked_for_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    said = runs.run(Request("load", "someone/tiny")).error  # offline, as all tests are
    assert said.startswith("someone/tiny: is no directory here, and the hub cannot be asked for it (")
    assert "HF_HUB_OFFLINE" in said
