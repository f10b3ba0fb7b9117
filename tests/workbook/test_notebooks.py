"""What every notebook promises its reader, checked without running it (nbval runs it)."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MINUTES = {
    "a quarter of a": 0.25,
    "half a": 0.5,
    "one": 1,
    "one and a half": 1.5,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
}
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md", "helpers/README.md")]


def read(path):
    return nbformat.read(path, as_version=4)


def prose(path):
    if path.suffix == ".md":
        return path.read_text()
    return "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_the_parts_that_readers_rely_on(path):
    cells = read(path).cells
    first = cells[0].source
    assert first.startswith("# ")
    assert "**You will be able to**" in first
    assert re.search(r"minutes? on 2 CPU cores", first)
    tags = [tag for cell in cells for tag in cell.metadata.get("tags", [])]
    assert tags.count("parameters") == 1
    assert tags.count("solution") >= 3
    text = prose(path)
    for part in ("## Recap", "## Exercises"):
        assert part in text
    assert cells[-1].cell_type == "markdown"
    assert re.search(r"\*\*(Next|Back|Start):\*\*", cells[-1].source)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_took_about_as_long_as_it_announces(path):
    notebook = read(path)
    number = re.search(r"\*About (.+?) minutes? on 2 CPU cores", notebook.cells[0].source).group(1)
    assert 0.5 <= notebook.metadata.seconds / (60 * MINUTES[number]) <= 2, "make execute stores the time"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_jupyterlab_has_nothing_to_add_when_it_opens_a_notebook(path):
    notebook = read(path)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5), "make execute adds the ids"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert notebook.metadata.kernelspec.display_name == "Python 3 (ipykernel)"
    assert "version" in notebook.metadata.language_info


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_cell_is_longer_than_a_screen(path):
    for cell in read(path).cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 22, cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_real_small_and_name_no_machine(path):
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert not any("(raylet)" in output.get("text", "") for output in outputs), "Ray complains"
    text = str([o.get("text", "") or str(o.get("data", {}).get("text/plain", "")) for o in outputs])
    assert not re.search(r"/(home|root|Users|tmp|work|private)/", text)
    assert len(str(outputs)) < 600_000


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PAGES], ids=lambda path: path.name)
def test_relative_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose(path)):
        if "://" not in link:
            assert (path.parent / link).exists(), link


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PAGES], ids=lambda path: path.name)
def test_anchors_are_headings_of_their_page(path):
    for page, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", prose(path)):
        if "://" not in page:
            text = prose(path.parent / page if page else path)
            headings = re.findall(r"^#+ (.+)$", text, re.M)
            assert anchor.lower() in {re.sub(r"\s", "-", heading).lower() for heading in headings}, anchor


def test_readme_and_00_link_to_every_notebook():
    for page in (ROOT / "README.md", NOTEBOOKS[0]):
        text = prose(page)
        for path in NOTEBOOKS[1:]:
            assert path.name in text, path.name
