"""All runs of a sitting as one picture, drawn by the page itself in the colours of its theme."""

import base64
import html

from workbook import plots
from workbook.panel import sources, table

_WIDTH, _LEFT, _ROW = 620, 190, 34  # of the drawing, of the names, of a row
_SCALE = _WIDTH - _LEFT - 70


def as_html(results):
    """The chart and a link that saves it; nothing before the first run that went well.

    Parameters
    ----------
    results : list of workbook.panel.runs.Result

    Returns
    -------
    str
    """
    groups = table.grouped(table.good(results))
    if not groups:
        return ""
    drawing = draw(groups)
    data = base64.b64encode(drawing.encode()).decode()
    link = f'<a download="runs.svg" href="data:image/svg+xml;base64,{data}">Save the picture</a>'
    return f'<div class="runs-scroll">{drawing}</div>{link}'


def draw(groups):
    """An SVG of stacked phases: medians, with a line from the fastest round to the slowest.

    Parameters
    ----------
    groups : dict of Request to list of Result

    Returns
    -------
    str
    """
    labels = sources.labels(request.source for request in groups)
    longest = max(result.seconds for group in groups.values() for result in group)
    rows, said = [], []
    for place, (request, group) in enumerate(groups.items()):
        name = f"{labels[request.source]}, {request.action}"
        rows.append(_row(16 + place * _ROW, name, table.in_short(request), group, _SCALE / longest))
        said.append(f"{name}, {table.in_short(request)}: {_in_words(group)}")
    used = dict.fromkeys(p.name for group in groups.values() for result in group for p in result.phases)
    legend = _legend([name for name in table.PHASES if name in used], 16 + len(groups) * _ROW + 14)
    height = 16 + len(groups) * _ROW + 30
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="runs-chart" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'role="img" aria-label="{html.escape("Timeline: " + "; ".join(said))}" fill="currentColor" font-size="13" '
        f'font-family="sans-serif">{"".join(rows)}{legend}</svg>'
    )


def _row(top, name, options, group, scale):
    left, parts = _LEFT, []
    for phase in table.PHASES:
        if seconds := table.middle(group, phase):
            width = seconds * scale
            parts.append(_box(left, top, width, 18, plots.PHASES[phase]))
            left += width
    times = [result.seconds for result in group]
    ends = [_LEFT + time * scale for time in (min(times), max(times))]
    line = f'<path d="M{ends[0]:.1f} {top + 22}H{ends[1]:.1f}" stroke="currentColor" stroke-width="2"/>'
    seconds = f"{table.middle(group):.2f} s"
    return (
        f'<text x="{_LEFT - 8}" y="{top + 8}" text-anchor="end">{_short(name)}</text>'
        f'<text x="{_LEFT - 8}" y="{top + 22}" text-anchor="end" font-size="11">{_short(options)}</text>'
        f"{''.join(parts)}{line if len(times) > 1 else ''}"
        f'<text x="{max(left, ends[1]) + 6:.1f}" y="{top + 13}">{seconds}</text>'
    )


def _legend(names, top):
    left, parts = 8, []
    for name in names:
        parts.append(_box(left, top, 10, 10, plots.PHASES[name]))
        parts.append(f'<text x="{left + 14}" y="{top + 9}" font-size="11">{name}</text>')
        left += 34 + 6 * len(name)
    return "".join(parts)


def _box(left, top, width, height, colour):
    return f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{height}" fill="{colour}"/>'


def _short(text, length=28):
    """A text that fits beside the bars; the end of a path tells more than its beginning."""
    return html.escape(text if len(text) <= length else f"…{text[1 - length :]}")


def _in_words(group):
    found = {phase: table.middle(group, phase) for phase in table.PHASES}
    return ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in found.items() if seconds is not None)
