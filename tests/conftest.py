"""Shared fixtures. Tests never reach the hub."""

import contextlib
import os

import pytest

with contextlib.suppress(ModuleNotFoundError):  # a machine that is lent for its GPU has it not
    from hypothesis import HealthCheck, settings

    # how long an example takes says something about the machine alone; how to repeat one that failed is printed
    slow = [HealthCheck.too_slow]
    settings.register_profile("tests", deadline=None, print_blob=True, suppress_health_check=slow)
    settings.load_profile("tests")

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
