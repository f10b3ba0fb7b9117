"""Draw a recorded benchmark and say in a few lines what it found.

    python -m workbook.bench.chart data/results/1.7b-cpu.json

writes a picture for each state beside the file and prints the lines that stand in README.md.
"""

import json
import sys
from pathlib import Path

from workbook.bench import besides, pictures, report
from workbook.bench.run import REFERENCE

_WHOLE = "fresh process to first token"
# State, measure, route, against, at most; from the project's own goals. Rows without a goal tell what
# a trick gives alone, so that it is not taken for what the format gives.
TARGETS = [
    ("all cold", _WHOLE, "helpers + cold_start", REFERENCE, 0.45),
    ("all cold", _WHOLE, "from_pretrained + cold_start", REFERENCE, None),
    ("all cold", _WHOLE, "helpers mapped", REFERENCE, None),
    ("all cold", _WHOLE, "helpers + cold_start", "from_pretrained + cold_start", 1.0),
    ("weights cold", _WHOLE, "helpers + cold_start", REFERENCE, 0.5),
    ("weights cold", _WHOLE, "from_pretrained + cold_start", REFERENCE, None),
    ("weights cold", _WHOLE, "helpers mapped", REFERENCE, None),
    ("weights cold", _WHOLE, "helpers + cold_start", "from_pretrained + prefetch", 0.95),
    ("weights cold", _WHOLE, "helpers + cold_start", "from_pretrained + cold_start", None),
    ("warm", _WHOLE, "helpers + cold_start", REFERENCE, 0.8),
    ("warm", _WHOLE, "from_pretrained + cold_start", REFERENCE, None),
    ("warm", _WHOLE, "helpers mapped", REFERENCE, None),
    ("warm", _WHOLE, "helpers + cold_start", "from_pretrained + cold_start", None),
    ("warm", "load to first token", "helpers mapped", REFERENCE, 1.0),
    ("warm", "load alone", "helpers mapped", "guide's snippet", 0.05),
]
TURNS = [  # measured in turns of their own: key, what, ours, theirs, against, at most
    ("saving", "saving, flushed", "serialise", "write_module", "stock `write_module`", 1.3),
    ("streaming", "load from S3 on loopback", "helpers", "tensorizer", "`TensorDeserializer(s3 uri)`", 0.75),
]
BESIDES = (
    "Speed is not what the saved form is for where another loader is as fast. It comes back exactly as it was "
    "saved (tied weights, buffers, flags, train or eval mode), also a module of your own or an estimator without "
    "pickle; damage can be found; it is read from object storage as from a disk; and it is one call for all of these."
)


def lines(result, more=(), sentences=()):
    """The findings of a recorded run as a Markdown table: goal, measured, met or not; then the break-even.

    Parameters
    ----------
    result : dict
        From `workbook.bench.run.measure`.
    more, sentences : sequence of str
        Rows for the end of the table and what stands behind it, from `workbook.bench.besides.lines`.

    Returns
    -------
    list of str
    """
    machine = result["machine"]
    rounds = len({run["round"] for run in result["runs"]})
    rows = [
        f"{result['model']} shape, {machine['processor']}, {machine['cores']} cores, {machine['memory']}, "
        f"{result['device']}, {result['date'][:10]}, medians of {rounds} rounds, ratios round by round:",
        "",
        "| state | what | route | against | goal | measured | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for state, measure, route, against, goal in TARGETS:
        found = report.ratio(result, state, route, measure, against)
        rows.append(f"| {state} | {measure} | {route} | {against} | {report.verdict(found, goal)} |")
    for key, what, ours, theirs, against, goal in TURNS:
        if key in result:
            found = report.turn_ratio(result[key], ours, theirs)
            rows.append(f"| | {what} | {ours} | {against} | {report.verdict(found, goal)} |")
    sizes = [result["bytes"].get(name) for name in ("helpers mapped", "guide's snippet")]
    if None not in sizes:
        found = sizes[0] / sizes[1]
        rows.append(f"| | file on disk | helpers | stock `write_module` | {report.verdict(found, None)} |")
    rows += more
    if sentences:
        rows += ["", *sentences]
    if won := report.won_back(result):
        rows += ["", "The time that saving takes is won back, against the fastest loader that needs no second "
                 "copy of the model:", "", *(f"- {line}" for line in won)]  # fmt: skip
        if any(": never" in line for line in won):
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
