"""What the base alone can do (torch, tensorizer, tqdm), and what it says of a model that needs an extra.

The environment is a fresh one. The distributions that the base requires are linked into it from the one that
runs the tests; so nothing is fetched, and nothing else can be imported by accident. The package is installed
from what the Dockerfile of helpers/README.md copies.
"""

import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.slow  # it makes an environment


ROOT = Path(__file__).resolve().parents[2]
KEPT = Path(__file__).parent / "saved_before"
PROGRAM = ROOT / "tests" / "support" / "with_the_base.py"


def required_by(requirements):
    """The distributions that these requirements bring, and theirs, without any extra."""
    found, waiting = {}, list(map(Requirement, requirements))
    while waiting:
        wanted = waiting.pop()
        if wanted.name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        try:
            found[wanted.name] = distribution(wanted.name)
        except PackageNotFoundError:  # this platform's torch is built without it
            continue
        waiting += map(Requirement, found[wanted.name].requires or ())
    return found.values()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The Python of an environment with the base alone."""
    place = tmp_path_factory.mktemp("base")
    venv.create(place, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(place), "platbase": str(place)}))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for one in required_by(project["dependencies"]):
        for name in {file.parts[0] for file in one.files} - {"..", "__pycache__"}:
            if not (packages / name).exists():
                (packages / name).symlink_to(one.locate_file(name))
    copied = tmp_path_factory.mktemp("app")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copied)
    shutil.copytree(ROOT / "helpers", copied / "helpers")
    offline = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *offline, "--target", packages, copied], check=True
    )
    return place / "bin" / "python"


def run(base, *arguments):
    # -I: neither this directory nor PYTHONPATH brings in what is not installed
    done = subprocess.run([base, "-I", PROGRAM, *arguments], capture_output=True, text=True, cwd=base.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_dockerfile_copies_what_is_installed_here():
    readme = (ROOT / "helpers" / "README.md").read_text()
    assert "COPY pyproject.toml README.md LICENSE /app/\nCOPY helpers /app/helpers\n" in readme


def test_a_torch_module_is_saved_loaded_verified_and_inspected(base, tmp_path):
    assert run(base, "use", tmp_path / "m") == "done"


@pytest.mark.parametrize(
    ("kept", "extra"),
    [
        ("transformers", "hf"),
        ("diffusers", "hf"),
        ("diffusion_pipeline", "hf"),
        ("sklearn", "sklearn"),
    ],
)
def test_a_model_that_needs_an_extra_names_it(base, kept, extra):
    said = run(base, "load", KEPT / kept / "model")
    assert said.startswith("UnsupportedModel: "), said
    assert f"pip install 'model-loading-workbook[{extra}]'" in said
    assert "\n" not in said


@pytest.mark.parametrize("kept", ["transformers", "diffusers", "diffusion_pipeline", "sklearn"])
def test_every_model_is_verified_and_inspected(base, kept):
    assert run(base, "look", KEPT / kept / "model") == "True"
