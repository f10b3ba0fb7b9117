"""Run the notebooks: ``execute`` in place, or ``site`` into build/html. Used by the Makefile."""

import hashlib
import html
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
SITE = ROOT / "build" / "html"


def execute(path):
    """Run a notebook from a fresh kernel in its own folder; stop at the first error."""
    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=1200,
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],  # it warns of plain TCP, which stays on loopback here
        resources={"metadata": {"path": path.parent}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        sys.exit(f"\n{path.name} failed:\n{error}")
    seconds = time.perf_counter() - start
    identify(notebook)
    print(f"{path.name:<36} {seconds:6.1f} s", flush=True)
    return notebook, seconds


def identify(notebook):
    """Give every cell an id and the notebook the name of its kernel, as JupyterLab would.

    It would do so on opening, and the reader's notebook would count as modified. An id stays with its
    cell; a new one comes from the cell's source, so that two runs write the same file.
    """
    taken = {cell.id for cell in notebook.cells if "id" in cell}
    for cell in notebook.cells:
        if "id" not in cell:
            digest = hashlib.sha256(cell.source.encode()).hexdigest()
            cell["id"] = next(digest[:length] for length in range(8, 65) if digest[:length] not in taken)
            taken.add(cell["id"])
    notebook.metadata.pop("widgets", None)  # thousands of lines for bars that are over
    notebook.nbformat_minor = 5
    notebook.metadata.kernelspec = {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    }


def title_and_first_sentence(notebook):
    text = notebook.cells[0].source
    title = re.match(r"# (.*)", text)[1]
    return title, next(line for line in text.splitlines()[1:] if line.strip())


def first_picture(notebook):
    """The first picture of a notebook as an HTML element; "" if it has none."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                data = png.replace("\n", "")
                return f'<img alt="" width="280" src="data:image/png;base64,{data}">'
    return ""


def conclusions(notebook):
    """What the cells tagged ``result`` printed: the workbook's findings on this machine."""
    for cell in notebook.cells:
        if "result" in cell.metadata.get("tags", []):
            for output in cell.get("outputs", []):
                yield output.get("text", "")


def site():
    """Execute every notebook, export all to HTML with an index, print the results."""
    SITE.mkdir(parents=True, exist_ok=True)
    exporter = HTMLExporter(
        template_name="workbook",
        extra_template_basedirs=[str(ROOT / "tools" / "templates")],
        # nothing from elsewhere: the pages are read offline, and hold no formulas
        mathjax_url="",
        require_js_url="",
        jquery_url="",
    )
    rows, results = [], []
    for path in NOTEBOOKS:
        notebook, seconds = execute(path)
        body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": path.stem}})
        body = re.sub(r'href="(\w+)\.ipynb', r'href="\1.html', body)
        (SITE / f"{path.stem}.html").write_text(body)
        title, sentence = title_and_first_sentence(notebook)
        rows.append(
            f'<li><a href="{path.stem}.html">{html.escape(title)}</a> '
            f"({seconds:.0f} s)<br>{html.escape(sentence)}<br>{first_picture(notebook)}</li>"
        )
        results += conclusions(notebook)
    (SITE / "index.html").write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Model loading workbook</title>'
        '<body style="font-family: sans-serif; max-width: 45em; margin: 2em auto; line-height: 1.5">'
        f"<h1>Model loading workbook</h1><ul>{''.join(rows)}</ul>"
        f"<h2>Measured in this run</h2><pre>{html.escape(''.join(results))}</pre></body></html>\n"
    )
    print("\n" + "".join(results) + f"\n{(SITE / 'index.html').relative_to(ROOT)} is ready.")


def in_place():
    """Execute every notebook and store its outputs."""
    for path in NOTEBOOKS:
        nbformat.write(execute(path)[0], path)


if __name__ == "__main__":
    {"site": site, "execute": in_place}[sys.argv[1]]()
