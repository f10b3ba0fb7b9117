"""Draw a recorded benchmark and say in a few lines what it found.

    python -m workbook.bench.chart data/results/1.7b-cpu.json

writes the picture beside the file and prints the lines that stand in README.md.
"""

import json
import sys
from pathlib import Path

from workbook.bench import report
from workbook.bench.run import REFERENCE

TARGETS = [  # what, state, route, measure, against, at most; from the project's own goals
    ("load, warm, to first token", "warm", "helpers mapped", "load to first token", REFERENCE, 1.0),
    ("load alone, warm", "warm", "helpers mapped", "load alone", "guide's snippet", 0.05),
    (
        "fresh process to first token, warm",
        "warm",
        "helpers mapped",
        "fresh process to first token",
        REFERENCE,
        1.0,
    ),
    (
        "fresh process to first token, cold, with prefetch",
        "cold",
        "helpers + prefetch",
        "fresh process to first token",
        REFERENCE,
        0.75,
    ),
    ("the same", "cold", "helpers + prefetch", "fresh process to first token", "guide's snippet", 0.60),
]
TURNS = [  # measured in turns of their own: key, what, ours, theirs, against, at most
    ("saving", "serialise, flushed", "serialise", "write_module", "stock `write_module`", 1.3),
    ("streaming", "load from S3 on loopback", "helpers", "tensorizer", "`TensorDeserializer(s3 uri)`", 0.75),
]


def lines(result):
    """The findings of a recorded run as a Markdown table: target, measured, met or not."""
    machine = result["machine"]
    rounds = len({run["round"] for run in result["runs"]})
    rows = [
        f"{result['model']} shape, {machine['processor']}, {machine['cores']} cores, {machine['memory']}, "
        f"{result['device']}, {result['date'][:10]}, medians of {rounds} rounds, ratios round by round:",
        "",
        "| what | against | goal | measured | |",
        "| --- | --- | --- | --- | --- |",
    ]
    for what, state, route, measure, against, goal in TARGETS:
        found = report.ratio(result, state, route, measure, against)
        rows.append(f"| {what} | {against} | <= {goal:.2f} x | {found:.2f} x | {_verdict(found, goal)} |")
    for key, what, ours, theirs, against, goal in TURNS:
        if key in result:
            found = report.turn_ratio(result[key], ours, theirs)
            rows.append(f"| {what} | {against} | <= {goal:.2f} x | {found:.2f} x | {_verdict(found, goal)} |")
    ours, theirs = (result["bytes"][name] for name in ("helpers mapped", "guide's snippet"))
    rows.append(f"| file on disk | stock `write_module` | | {ours / theirs:.2f} x | |")
    return rows


def _verdict(found, goal):
    return "met" if found <= goal else "missed"


def main(path):
    import matplotlib

    matplotlib.use("Agg")
    path = Path(path)
    result = json.loads(path.read_text())
    for state in ("cold", "warm"):
        target = path.with_name(f"{path.stem}-{state}.png")
        report.picture(result, state).figure.savefig(target, dpi=110)
    print("\n".join(lines(result)))


if __name__ == "__main__":
    main(sys.argv[1])
