"""Sphinx's settings for the site, and what is done to a notebook as it is read.

The stored notebooks know nothing of the site: their titles get their numbers, their solutions are folded and
their pictures get a text alternative here. `tools/workbook.py` has executed them, and calls Sphinx.
"""

import re

import nbformat

project = html_title = "The model-loading workbook"
language = "en"
extensions = ["myst_nb"]
nb_execution_mode = "off"
nb_merge_streams = True
myst_heading_anchors = 3  # the glossary's words are linked to

html_theme = "sphinx_book_theme"
html_theme_options = {
    "use_download_button": True,
    "use_fullscreen_button": False,
    "footer_content_items": [],
    "navbar_persistent": [],  # a second search field, above the sidebar's
}
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_static_path = ["static"]
html_css_files = ["site.css"]
html_sourcelink_suffix = ""  # a downloaded notebook is called .ipynb, not .ipynb.txt
html_show_search_summary = False  # summaries are fetched, which browsers refuse to pages from the disk

SOLUTION = {"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
WIDGET = "application/vnd.jupyter.widget-view+json"


def prepare(app, docname, content):
    """Change a notebook's text for the site, before it is parsed."""
    if not str(app.env.doc2path(docname)).endswith(".ipynb"):
        return
    notebook = nbformat.reads(content[0], as_version=4)
    first = notebook.cells[0]
    first.source = first.source.replace("# ", f"# {docname[:2]} ", 1)
    for cell, following in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        if cell.cell_type == "markdown":  # what lies outside of notebooks/ is not in the site: no link to it
            cell.source = re.sub(r"(?<!!)\[([^]]*)\]\(\.\./[^)]*\)", r"\1", cell.source)
        if cell.cell_type == "code":
            options = {"image": {"alt": text_alternative(cell, following)}}
            if "solution" in cell.metadata.get("tags", []):
                cell.metadata.tags.append("hide-cell")
                options |= SOLUTION
            cell.metadata["mystnb"] = options
            # a widget needs a kernel; the notebook shows a picture of it instead
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    content[0] = nbformat.writes(notebook)


def text_alternative(cell, following):
    """What a picture shows, in words: the first sentence of the prose that follows it, else its own title."""
    prose = following.source.strip() if following and following.cell_type == "markdown" else "#"
    if prose.startswith(("#", "|", "!")):
        titles = [output.get("metadata", {}).get("image/png", {}).get("alt") for output in cell.outputs]
        return next(filter(None, titles), "A chart; the text above it says what it shows.")
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", prose.splitlines()[0])
    return re.match(r".*?[.?:](?=\s|$)|.*", re.sub(r"[*`_]", "", plain))[0]


def setup(app):
    app.connect("source-read", prepare)
