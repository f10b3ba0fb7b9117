"""Run the notebooks, build the site.

    python tools/workbook.py execute         run every notebook and store its outputs
    python tools/workbook.py site            run every notebook, build the site, print what was measured
    python tools/workbook.py site --stored   build the site from the stored outputs

The site goes to build/html. The Makefile calls this.
"""

import hashlib
import re
import shutil
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def execute(path):
    """Run a notebook from a fresh kernel in its own folder; stop at the first error."""
    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=1200,
        record_timing=False,
        coalesce_streams=True,  # a busy machine may split what one cell prints
        extra_arguments=["--log-level=ERROR"],  # it warns of plain TCP, which stays on loopback here
        resources={"metadata": {"path": path.parent}},
    )
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        sys.exit(f"\n{path.name} failed:\n{error}")
    seconds = time.perf_counter() - start
    identify(notebook)
    notebook.metadata["seconds"] = round(seconds)  # a test compares it with what the first cell announces
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


def measured(folder):
    """What the cells tagged ``result`` printed, line by line with the name of the notebook."""
    for path in sorted(folder.glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if "result" in cell.metadata.get("tags", []):
                printed = "".join(output.get("text", "") for output in cell.outputs)
                for line in printed.replace("| machine: ", "").splitlines():
                    yield path.name, line


def gather(source):
    """Copy what the site is made of into a folder: the notebooks as stored, the glossary, pictures."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "notebooks", source, ignore=shutil.ignore_patterns(".*"))


def build(source, html):
    """Make the site from a folder that `gather` has filled; a warning of Sphinx is an error."""
    from sphinx.cmd.build import main as sphinx  # to execute notebooks needs no Sphinx

    index = (ROOT / "tools" / "site" / "index.md").read_text()
    for name, line in measured(source):
        plain = re.sub(r"([^\w\s])", r"\\\1", line)  # no Markdown
        index += f"- [{name[:2]}]({name}): {plain}\n"
    (source / "index.md").write_text(index)
    shutil.rmtree(html, ignore_errors=True)
    settings = ["-c", ROOT / "tools" / "site", "-d", html.parent / "doctrees"]
    if sphinx([str(part) for part in ("-q", "-E", "-W", "--keep-going", *settings, source, html)]) != 0:
        sys.exit("the site could not be built: the lines above say why")


def site(stored=False):
    """Build the site of all notebooks, run now unless their stored outputs shall do; print the results."""
    source, html = ROOT / "build" / "source", ROOT / "build" / "html"
    gather(source)
    if not stored:
        for path in NOTEBOOKS:
            nbformat.write(execute(path)[0], source / path.name)
    build(source, html)
    lines = [f"{name[:2]}  {line}" for name, line in measured(source)]
    print("\n".join(["", *lines, "", f"{html.relative_to(ROOT)}/index.html is ready."]))


def in_place():
    """Execute every notebook and store its outputs."""
    for path in NOTEBOOKS:
        nbformat.write(execute(path)[0], path)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["execute"]:
            in_place()
        case ["site"]:
            site()
        case ["site", "--stored"]:
            site(stored=True)
        case _:
            sys.exit(__doc__)
