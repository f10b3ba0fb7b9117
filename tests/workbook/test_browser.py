"""The workbook in a real browser: JupyterLab on loopback, Chromium without a screen."""

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from workbook.samples.servers import free_ports

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    # all cells are in the page, and no question which kernel to start
    "notebook-extension/tracker": {"windowingMode": "none", "autoStartDefaultKernel": True},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory, browser):
    """JupyterLab over a copy of the notebooks; yields a function that opens one in the browser."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    (folder / "data").symlink_to(ROOT / "data")
    first = folder / "notebooks" / "00_start_here.ipynb"  # what is tested here is its page, not its figures
    first.write_text(re.sub(r"ROUNDS = \d+", "ROUNDS = 2", first.read_text(), count=1))
    for name, values in SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    (port,), token = free_ports(1), secrets.token_hex(8)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    command += [
        f"--port={port}",
        f"--IdentityProvider.token={token}",
        f"--LabApp.app_settings_dir={ROOT}/tools/jupyterlab",  # as `make lab`
        f"--ServerApp.root_dir={folder}/notebooks",
    ]
    environment = os.environ | {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings")}
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: answers(port, token), 180)
        yield lambda name: open_notebook(browser, port, token, folder / "notebooks", name)
    finally:
        server.terminate()  # ends its kernels too
        server.wait(120)


def answers(port, token):
    with contextlib.suppress(OSError):
        return kernels(port, token) is not None
    return False


def kernels(port, token):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/kernels?token={token}", timeout=5) as answer:
        return json.load(answer)


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.2)


def open_notebook(browser, port, token, folder, name):
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(120_000)
    page.goto(f"http://127.0.0.1:{port}/lab/workspaces/{name}/tree/{name}.ipynb?reset&token={token}")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.wait_for_selector("text=Python 3 (ipykernel) | Idle")

    def run_all():
        page.get_by_text("Run", exact=True).first.click()
        page.get_by_text("Run All Cells", exact=True).click()
        # textContent, since the prompt of a folded cell has no innerText
        waiting = "[...document.querySelectorAll('.jp-InputPrompt')].some(e => e.textContent.includes('*'))"
        page.wait_for_function(waiting)
        page.wait_for_function(f"!{waiting}", timeout=600_000)
        page.wait_for_selector("text=Python 3 (ipykernel) | Idle")
        before = (folder / f"{name}.ipynb").stat().st_mtime_ns  # it may have saved itself in between
        page.keyboard.press("Control+s")
        wait_until(lambda: (folder / f"{name}.ipynb").stat().st_mtime_ns > before, 120)
        time.sleep(0.5)
        return nbformat.read(folder / f"{name}.ipynb", 4)

    return page, run_all


@contextlib.contextmanager
def kept_if_it_fails(page, name):
    try:
        yield
    except BaseException:
        (ROOT / "build").mkdir(exist_ok=True)
        page.screenshot(path=ROOT / "build" / f"{name}.png", full_page=True)
        raise
    finally:
        page.close()


ROWS = "count => document.querySelectorAll('table.runs tr').length == count"


def keep_picture(element, name):
    """Store how an element looks, where the variable WORKBOOK_PICTURES names a folder: notebooks/pictures."""
    if folder := os.environ.get("WORKBOOK_PICTURES"):
        path = Path(folder) / f"{name}.png"
        element.screenshot(path=path)
        with Image.open(path) as picture:
            small = picture.convert("RGB").quantize(256)
        small.save(path, optimize=True)


def check_outputs(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    errors = [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert not errors, errors
    assert all(cell.execution_count for cell in cells)


def test_the_first_notebook_runs_and_shows_its_pictures(lab):
    page, run_all = lab("00_start_here")
    with kept_if_it_fails(page, "00_start_here"):
        check_outputs(run_all())
        assert page.locator(".jp-OutputArea img").count() >= 3
        link = page.locator(".jp-Notebook a", has_text="01 Serialise a causal language model").last
        link.click()
        page.wait_for_selector("h1:visible >> text=Serialise a causal language model")


def test_panel_and_calculator_answer_mouse_and_keyboard(lab):
    page, run_all = lab("13_your_model")
    with kept_if_it_fails(page, "13_your_model"):
        check_outputs(run_all())
        model, load = (
            page.get_by_label("Model", exact=True),
            page.get_by_role("button", name="Load", exact=True),
        )
        model.fill("../data/models/panel/")
        model.press("Tab")
        page.wait_for_selector("text=MB of weights; the page cache has")
        load.click()
        page.wait_for_selector('[aria-live="polite"]:has-text("Done in")', timeout=180_000)
        assert load.evaluate("button => button === document.activeElement"), "the focus stays where it was"
        page.wait_for_selector('svg[aria-label^="Timeline: panel, load"]')
        rows = page.locator("table.runs tr")
        assert rows.count() == 2
        assert "panel" in rows.nth(1).inner_text()
        assert (
            page.get_by_role("link", name="Download as CSV").get_attribute("href").startswith("data:text/csv")
        )
        assert (
            page.get_by_role("link", name="Save the picture")
            .get_attribute("href")
            .startswith("data:image/svg")
        )
        # the same start with its weights cold, then that inside cold_start
        for count, box in ((3, "Cold: take the weights"), (4, "Inside cold_start")):
            page.get_by_label(box).check()
            load.click()
            page.wait_for_function(ROWS, arg=count, timeout=180_000)
        assert "cold" in rows.nth(2).inner_text() and "cold_start" in rows.nth(3).inner_text()
        keep_picture(page.locator(".jp-OutputArea-output:has(table.runs)"), "panel")

        # by keyboard alone: two buttons on is Verify
        for key in ("Tab", "Tab", "Space"):
            page.keyboard.press(key)
        page.wait_for_function(ROWS, arg=5, timeout=180_000)
        assert "verify" in rows.nth(4).inner_text()

        # and wrong, which is said at once
        model.fill("../data/models/gone")
        load.focus()
        page.keyboard.press("Space")
        page.wait_for_selector('[aria-live="polite"]:has-text("gone: there is no such directory")')
        assert page.locator("text=Traceback").count() == 0

        keep_picture(page.locator(".jp-OutputArea-output:has(.widget-slider)"), "calculator")
        check_the_calculator(page)
        page.set_viewport_size({"width": 900, "height": 1000})
        seconds = rows.nth(1).locator("td").nth(2).bounding_box()
        assert seconds["x"] + seconds["width"] < 900, "the seconds are on the screen"
        for theme in ("JupyterLab Light", "JupyterLab Dark"):
            use_theme(page, theme)
            for part in ("td", "svg text", "a", "[role=status]"):
                found = page.locator(f".workbook-panel {part}").first.evaluate(CONTRAST)
                assert found >= 4.5, (theme, part, found)


def check_the_calculator(page):
    """By the slider, by keyboard, by typing, which keeps to the digit what is typed, and by the box."""
    answer = page.locator("[role=status]", has_text="A cold start takes")
    changed = "before => [...document.querySelectorAll('[role=status]')].some(e => e.innerText.startsWith("
    changed += "'A cold start') && e.innerText != before)"
    before = answer.inner_text()
    page.locator(".widget-slider .noUi-handle").first.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(changed, arg=before)
    size = page.locator(".widget-slider").first.locator(
        "xpath=following-sibling::*//input | following-sibling::input"
    )
    before = answer.inner_text()
    size.first.fill("14.3")
    size.first.press("Tab")
    page.wait_for_function(changed, arg=before)
    assert size.first.input_value() == "14.3"
    before = answer.inner_text()
    page.get_by_label("A new machine: the libraries are cold too").uncheck()
    page.wait_for_function(changed, arg=before)


def use_theme(page, name):
    page.get_by_text("Settings", exact=True).first.click()
    page.locator(".lm-Menu-itemLabel", has_text="Theme").first.hover()
    page.locator(".lm-Menu-itemLabel").get_by_text(name, exact=True).click()
    page.wait_for_selector(f'body[data-jp-theme-name="{name}"]', state="attached")
    time.sleep(0.5)  # its colours fade in


# The contrast of a text and of what is behind it, by https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
CONTRAST = """element => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => numbers(colour).slice(0, 3).map(part => part / 255)
    .map(part => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
  let behind = element;
  while (behind.parentElement && numbers(getComputedStyle(behind).backgroundColor)[3] === 0)
    behind = behind.parentElement;
  const style = getComputedStyle(element), text = element.tagName == "text" ? style.fill : style.color;
  const [low, high] = [light(text), light(getComputedStyle(behind).backgroundColor)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}"""


def test_make_lab_opens_the_first_notebook_and_no_news(browser, tmp_path):
    recipe = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "lab"],  # its last line, also within `make test`
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    command = recipe.stdout.splitlines()[-1].split()
    assert command[0].endswith("bin/jupyter")
    (port,) = free_ports(1)
    own = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--IdentityProvider.token=t"]
    fresh = {f"JUPYTERLAB_{name}_DIR": str(tmp_path / name) for name in ("SETTINGS", "WORKSPACES")}
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyter", *command[1:], *own],
            cwd=ROOT, env=os.environ | fresh, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_until(lambda: answers(port, "t"), 180)
        (address,) = set(re.findall(r"http://127\.0\.0\.1\S*/lab\S*", (tmp_path / "log").read_text()))
        page = browser.new_page()
        page.goto(address.split("?")[0] + "?token=t")
        page.wait_for_selector(".jp-Notebook h1:visible", timeout=120_000)
        assert "00_start_here" in page.locator(".jp-mod-current").first.inner_text()
        page.wait_for_timeout(5000)  # the question about news comes some seconds after the page
        assert page.get_by_text("official Jupyter news").count() == 0
        page.close()
    finally:
        server.terminate()
        server.wait(120)
