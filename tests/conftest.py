"""Shared fixtures. Tests never reach the hub."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

collect_ignore = ["helpers/saved_before/make.py"]  # a record of how those models came about


@pytest.fixture(scope="session")
def running_store():
    """An object store that is started once. No test reaches it by accident: `store` sets the variables."""
    from workbook.samples.servers import object_store

    with object_store() as running:
        for name in running.environment:
            del os.environ[name]
        yield running


@pytest.fixture(scope="module")
def store(running_store):
    """The object store, with this process's ``AWS_*`` variables set to it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in running_store.environment.items():
            patch.setenv(name, value)
        yield running_store
