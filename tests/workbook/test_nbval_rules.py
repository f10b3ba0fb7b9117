"""What nbval lets differ between two runs: times, ratios and memory, in print that reads normally."""

import re
from pathlib import Path

import nbformat
import pytest
import tqdm
from nbval.plugin import get_sanitize_patterns

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RULES = get_sanitize_patterns((ROOT / "tests" / "nbval.cfg").read_text())


def sanitised(text):
    for regex, replacement in RULES:
        text = re.sub(regex, replacement, text)
    return text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("load 0.04 s, first pass 9.8 s", "load 0.05 s, first pass 13.1 s"),
        ("won -0.3 s", "won 0.2 s"),
        ("mapped in 51 ms", "mapped in 6.5 ms"),
        (
            "one voice    75 MB of memory\nfour      1,076 MB of memory",
            "one voice 8 MB of memory\nfour 9 MB of memory",
        ),
        ("mapped: 0 MB of memory; read: 279 MB of memory", "mapped: -0 MB of memory; read: 283 MB of memory"),
        ("0.26 s: 6 times as long", "0.31 s: 5.8 times as long"),
        ("over a network of about 25 Gbit/s", "over a network of about 9 Gbit/s"),
    ],
)
def test_two_runs_may_differ_in_times_ratios_and_memory(one, other):
    assert sanitised(one) == sanitised(other) != one


@pytest.mark.parametrize("text", ["took539 MB of memory", "mapped:0 MB of memory", "took13.5 s", "in12 ms"])
def test_a_number_glued_to_a_word_is_compared_like_any_text(text):
    assert sanitised(text) == text


@pytest.mark.parametrize(
    "bar",
    [
        {"total": 40, "n": 0, "elapsed": 0},
        {"total": 40, "n": 11, "elapsed": 2.2, "prefix": "reading"},
        {"total": 40, "n": 11, "elapsed": 8000, "rate": 0.1},
        {"total": 9e9, "n": 2e9, "elapsed": 4, "unit": "B", "unit_scale": True, "postfix": "file 3"},
        {"total": None, "n": 12, "elapsed": 3},
        {"total": None, "n": 2e9, "elapsed": 3, "unit": "B", "unit_scale": True},
    ],
    ids=str,
)
def test_a_progress_bar_may_differ_whole(bar):
    assert (
        sanitised(f"before\n{tqdm.tqdm.format_meter(ncols=80, **bar)}\nbehind") == "before\nPROGRESS\nbehind"
    )


@pytest.mark.parametrize(
    "text",
    [
        "20 MB/s a connection: tried [8, 32, 64], stayed at 64",
        "10 Gbit/s    1,250                14         15",
        "to bring 14 GB over 100 Gbit/s",
        "limit: 80 MB/s [12 files]",
        "30 it/s",
    ],
)
def test_a_line_with_a_speed_is_no_progress_bar(text):
    assert sanitised(text) == text


@pytest.mark.parametrize("text", ["269.1 MB", "12 files", "4 of 360 images", "bytes 1000 to 1999"])
def test_other_numbers_are_compared(text):
    assert sanitised(text) == text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_notebook_prints_a_number_with_its_unit_glued_to_a_word(path):
    cells = nbformat.read(path, as_version=4).cells
    printed = "\n".join(output.get("text", "") for cell in cells for output in cell.get("outputs", ()))
    assert not re.search(r"[a-z:,;][0-9][0-9.,]* ([kMG]?B|s|ms)\b", printed)
