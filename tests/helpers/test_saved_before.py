"""What the package has saved in the past stays loadable: models in saved_before, made by an older version."""

import json
import shutil
from pathlib import Path

import kept_models
import pytest
from faulty import serving

import helpers
from helpers import deserialise

KEPT = Path(__file__).parent / "saved_before"
NAMES = sorted(path.parent.name for path in KEPT.glob("*/expected.json"))
SMALL = ("torch_module", "encrypted", "from_s3")


def source_of(name):
    return KEPT / name / ("model.tensors" if name == "bare" else "model")


def load(name, source=None, **options):
    if name in SMALL:
        options["skeleton"] = kept_models.Small
    if name == "bare":
        options["skeleton"] = kept_models.plain
    if name == "encrypted":
        options["encryption"] = kept_models.PASSPHRASE
    model = deserialise(source or source_of(name), device="cpu", progress=False, **options)
    if hasattr(model, "set_progress_bar_config"):
        model.set_progress_bar_config(disable=True)
    return model


def assert_as_it_was(name, model):
    expected = json.loads((KEPT / name / "expected.json").read_text())
    found = kept_models.facts(model)
    assert found.pop("output") == pytest.approx(expected.pop("output"), rel=expected["tolerance"], abs=1e-3)
    assert found == expected


def test_every_kind_of_model_is_kept():
    assert len(NAMES) == 9


@pytest.mark.parametrize("options", [{}, {"mapped": False}, {"verify": True}], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_it_loads_and_is_as_it_was(name, options):
    assert_as_it_was(name, load(name, **options))


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_over_http(name):
    with serving(KEPT) as state:
        assert_as_it_was(name, load(name, f"{state.url}/{source_of(name).relative_to(KEPT)}"))


def test_a_save_that_came_down_from_s3_is_cached(tmp_path):
    with serving(KEPT) as state:
        assert_as_it_was("from_s3", load("from_s3", f"{state.url}/from_s3/model", cache=tmp_path))


@pytest.mark.parametrize("name", sorted({*NAMES} - {"bare"}))
def test_it_is_overwritten(name, tmp_path):
    shutil.copytree(source_of(name), tmp_path / "m")
    helpers.serialise(kept_models.Small(), tmp_path / "m", overwrite=True, progress=False)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["model.json", "model.tensors"]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_verified_and_inspected(name):
    source = source_of(name)
    options = {"encryption": kept_models.PASSPHRASE} if name == "encrypted" else {}
    checked = helpers.verify(source, progress=False, **options)
    seen = helpers.inspect(source)
    assert checked.bytes == seen.bytes > 0
    assert checked.tensors == len(seen.tensors) > 0
