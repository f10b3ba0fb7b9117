"""Draw a recorded benchmark and say what it found, in two tables and a few lines.

    python -m workbook.bench.chart data/results/1.7b-cpu.json

writes a picture for each state beside the file and prints what stands in data/README.md.
"""

import json
import sys
from pathlib import Path

from workbook.bench import besides, pictures, report
from workbook.bench.run import REFERENCE

_WHOLE = "fresh process to first token"
_PAIRS = (  # the trick alone, the form alone, both; then the form where every rival has the trick too
    ("from_pretrained + cold_start", REFERENCE),
    ("helpers mapped", REFERENCE),
    ("helpers + cold_start", REFERENCE),
    ("helpers + cold_start", "from_pretrained + cold_start"),
    ("helpers + cold_start", "torch.load mmap + cold_start"),
    ("helpers + cold_start", "safetensors load_file + cold_start"),
    ("helpers + cold_start", "flashpack + cold_start"),
)
_COPIES = ("helpers mapped", "guide's snippet")  # a loader that maps, and one that copies
_TURNS = (  # measured in turns of their own: key, what, ours, theirs, against
    ("saving", "saving, flushed", "serialise", "write_module", "stock `write_module`"),
    ("streaming", "load from S3 on loopback", "helpers", "tensorizer", "`TensorDeserializer(s3 uri)`"),
)
BESIDES = (
    "Speed is not what the saved form is for where another loader is as fast. It comes back exactly as it was "
    "saved (tied weights, buffers, flags, train or eval mode), also a module of your own or an estimator without "
    "pickle; damage can be found; it is read from object storage as from a disk; processes share its memory; and it "
    "is one call for all of these."
)


def lines(result, more=(), sentences=()):
    """The findings of a recorded run in Markdown: seconds of every start, what was compared, the break-even.

    Parameters
    ----------
    result : dict
        From `workbook.bench.run.measure`.
    more, sentences : sequence of str
        Rows for the end of the second table and what stands behind it, from `workbook.bench.besides.lines`.

    Returns
    -------
    list of str
    """
    machine = result["machine"]
    rounds = len({run["round"] for run in result["runs"]})
    rows = [
        f"{result['model']} shape, {machine['processor']}, {machine['cores']} cores, {machine['memory']}, "
        f"{result['device']}, {result['date'][:10]}. Seconds from the spawn of a fresh process to its first token, "
        f"the middle of {rounds} rounds (fastest to slowest):",
        "",
        *_seconds(result),
        "",
        "The same, compared within each round. A difference counts as one only where all rounds agree:",
        "",
        "| state | what | route | against | median of the ratios of the rounds | smallest to largest | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *_ratios(result),
        *more,
    ]
    for said in sentences:
        rows += ["", said]
    return rows + _won_back(result)


def _seconds(result):
    """The rows of a table: every route in every state."""
    states = report.states_of(result)
    yield f"| start | {' | '.join(states)} |"
    yield f"| --- |{' --- |' * len(states)}"
    frames = {state: report.frame(result, state) for state in states}
    for name in report.routes_of(result):
        cells = []
        for found in frames.values():
            if name in found.index:
                middle, fastest, slowest = found.loc[name, ["first token after", "fastest", "slowest"]]
                cells.append(f"{middle:.2f} ({fastest:.2f} to {slowest:.2f})")
            else:
                cells.append("failed")
        yield f"| {name} | {' | '.join(cells)} |"


def _ratios(result):
    """The rows of a table: what was measured of what is worth a comparison."""
    compared = [(state, _WHOLE, *pair) for state in report.states_of(result) for pair in (*_PAIRS, _COPIES)]
    compared += [
        ("warm", "load to first token", "helpers mapped", REFERENCE),
        ("warm", "load alone", *_COPIES),
    ]
    for state, measure, route, against in compared:
        if found := report.ratios(result, state, route, measure, against):
            what = "whole start" if measure == _WHOLE else measure
            yield f"| {state} | {what} | {route} | {against} | {report.compared(found)} |"
    for key, what, ours, theirs, against in _TURNS:
        if key in result:
            found = report.turn_ratios(result[key], ours, theirs)
            yield f"| | {what} | {ours} | {against} | {report.compared(found)} |"
    sizes = [result["bytes"].get(name) for name in _COPIES]
    if None not in sizes:
        yield f"| | file on disk | helpers | stock `write_module` | {report.compared([sizes[0] / sizes[1]])} |"


def _won_back(result):
    """What stands below the tables: after how many starts the time for saving has come back."""
    rows = []
    for headline, pair in (
        ("against the fastest loader that needs no second copy of the model", ()),
        ("against the guide's snippet, whose file is another second copy", _COPIES),
    ):
        if won := report.won_back(result, *pair):
            rows += ["", f"The time that saving takes is won back, {headline}:", ""]
            rows += [f"- {line}" for line in won]
    if any(": not shown" in line for line in rows):
        rows += ["", BESIDES]
    return rows


def main(path):
    import matplotlib

    matplotlib.use("Agg")
    path = Path(path)
    result = json.loads(path.read_text())
    pictures.save(result, path)
    print("\n".join(lines(result, *besides.lines(path))))


if __name__ == "__main__":
    main(sys.argv[1])
