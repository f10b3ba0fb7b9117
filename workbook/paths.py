"""Where the workbook keeps its data."""

from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "data"
CACHE = DATA / "cache"  # fetched or made once, ignored by git
