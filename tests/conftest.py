"""Shared fixtures. Tests never reach the hub."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

collect_ignore = ["helpers/saved_before/make.py"]  # a record of how those models came about
