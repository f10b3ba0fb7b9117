"""Results as rows: on the page one for each request, with its rounds; in the CSV one for each round."""

import base64
import csv
import html
import io
import statistics

from workbook.panel import sources
from workbook.panel.request import OURS, Request

PHASES = (
    "interpreter",
    "imports",
    "empty model",
    "load",
    "first token",
    "serialise",
    "verify",
)
COLUMNS = (
    "model",
    "what",
    "seconds",
    "imports",
    "load",
    "first token",
    "private MB",
    "file MB",
    "settings",
    "note",
)
_NOT = "n/a"


def grouped(results):
    """The results of each request, in the order in which the requests came first.

    Returns
    -------
    dict of Request to list of Result
    """
    found = {}
    for result in results:
        found.setdefault(result.request, []).append(result)
    return found


def good(results):
    """Those that did not fail."""
    return [result for result in results if not result.error]


def middle(results, phase=None):
    """The median of the seconds, or of those of a phase; None where none of the results has it."""
    if phase is None:
        times = [result.seconds for result in results]
    else:
        times = [sum(p.seconds for p in r.phases if p.name == phase) for r in results if phase in names(r)]
    return statistics.median(times) if times else None


def names(result):
    """The names of a result's phases."""
    return [phase.name for phase in result.phases]


def settings(request):
    """What was in force, by name; "n/a" for what the loader has no use for.

    Parameters
    ----------
    request : workbook.panel.request.Request

    Returns
    -------
    dict of str to str

    Examples
    --------
    >>> from workbook.panel.request import Request
    >>> settings(Request("load", "org/name"))["mapped"]
    'n/a'
    """
    ours, loads = request.way == OURS, request.action != "verify"
    remote = sources.is_address(request.source)
    return {
        "loader": request.way or _NOT,
        "device": request.device if loads else _NOT,
        "type": request.dtype if loads else _NOT,
        "mapped": request.mapped if ours else _NOT,
        "readers": (str(request.readers or "by itself")) if ours else _NOT,
        "verified": ("yes" if request.verify else "no") if ours else _NOT,
        "cache": (request.cache or "none") if ours and remote else _NOT,
        "page cache": "emptied" if request.cold else "as it was",
        "cold_start": "yes" if request.cold_start else "no",
    }


def _in_force(result):
    """The settings of a result, with the page cache as it was found to be."""
    found = settings(result.request)
    if result.request.cold and (result.error or sources.NOT_COLD in result.note):
        found["page cache"] = _NOT if result.error else "not emptied"
    return found


def in_short(request):
    """The settings that are not the usual ones, in a line."""
    found = settings(request)
    said = [found["loader"], found["device"]] if request.way else []
    said += [found["type"]] if found["type"] not in ("as saved", _NOT) else []
    said += [f"mapped: {found['mapped']}"] if found["mapped"] not in ("by itself", _NOT) else []
    said += [f"{found['readers']} readers"] if found["readers"] not in ("by itself", _NOT) else []
    said += ["cold"] if request.cold else []
    said += ["cold_start"] if request.cold_start else []
    said += ["verified"] if found["verified"] == "yes" else []
    said += ["cache"] if found["cache"] not in ("none", _NOT) else []
    return ", ".join(said)


def row(results, label):
    """The results of one request as a row of `COLUMNS`.

    Parameters
    ----------
    results : list of Result
    label : str
        What the model is called.

    Returns
    -------
    list of str
    """
    request, whole = results[0].request, good(results)
    if not whole:
        return [label, request.action, *["-"] * 6, in_short(request), results[-1].error]
    times = [result.seconds for result in whole]
    seconds = f"{statistics.median(times):.2f}"
    if len(whole) > 1:
        seconds += f" [{min(times):.2f}, {max(times):.2f}] of {len(whole)}"
    parts = [middle(whole, name) for name in ("imports", "load", "first token")]
    shown = [_NOT if part is None else f"{part:.3f}" for part in parts]
    private = statistics.median(result.private for result in whole) / 1e6
    notes = dict.fromkeys(result.error or result.note for result in results)
    return [
        label, request.action, seconds, *shown, f"{private:.0f}",
        f"{whole[-1].bytes / 1e6:.1f}" if whole[-1].bytes else _NOT, in_short(request), " ".join(filter(None, notes)),
    ]  # fmt: skip


def as_html(results):
    """The table, which scrolls where it is wider than the page, and a link to the CSV."""
    labels = sources.labels(result.request.source for result in results)
    head = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    body = "".join(
        "<tr>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row(group, labels[request.source]))
        + "</tr>"
        for request, group in grouped(results).items()
    )
    data = base64.b64encode(as_csv(results).encode()).decode()
    link = f'<a download="runs.csv" href="data:text/csv;base64,{data}">Download as CSV</a>'
    return f'<div class="runs-scroll"><table class="runs"><tr>{head}</tr>{body}</table></div>{link}'


def as_csv(results):
    """All results of this sitting as CSV text, a line for each round, with its settings and phases.

    Examples
    --------
    >>> as_csv([]).splitlines()[0].startswith("model,what,round,seconds,interpreter")
    True
    """
    text = io.StringIO()
    writer = csv.writer(text)
    kinds = list(settings(Request("load", "")))
    writer.writerow(
        ["model", "what", "round", "seconds", *PHASES, "private bytes", "file bytes", *kinds, "note"]
    )
    for request, group in grouped(results).items():
        source = sources.without_signature(request.source)
        for turn, result in enumerate(group, 1):
            own = {name: middle([result], name) for name in PHASES}
            figures = [result.seconds, *own.values(), result.private, result.bytes]
            shown = [_NOT if result.error or figure is None else figure for figure in figures]
            writer.writerow(
                [
                    source,
                    request.action,
                    turn,
                    *shown,
                    *_in_force(result).values(),
                    result.error or result.note,
                ]
            )
    return text.getvalue()
