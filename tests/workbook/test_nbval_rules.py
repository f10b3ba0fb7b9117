"""What nbval lets differ between two runs: times, ratios and memory, in print that reads normally."""

import re
from pathlib import Path

import nbformat
import pytest
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
    ],
)
def test_two_runs_may_differ_in_times_ratios_and_memory(one, other):
    assert sanitised(one) == sanitised(other) != one


@pytest.mark.parametrize("text", ["took539 MB of memory", "mapped:0 MB of memory", "took13.5 s", "in12 ms"])
def test_a_number_glued_to_a_word_is_compared_like_any_text(text):
    assert sanitised(text) == text


@pytest.mark.parametrize("text", ["269.1 MB", "12 files", "4 of 360 images", "bytes 1000 to 1999"])
def test_other_numbers_are_compared(text):
    assert sanitised(text) == text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_notebook_prints_a_number_with_its_unit_glued_to_a_word(path):
    cells = nbformat.read(path, as_version=4).cells
    printed = "\n".join(output.get("text", "") for cell in cells for output in cell.get("outputs", ()))
    assert not re.search(r"[a-z:,;][0-9][0-9.,]* ([kMG]?B|s|ms)\b", printed)
