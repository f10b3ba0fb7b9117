"""Fill build/gpu-wheels with what a Python that has torch may lack: ``python tools/gpu_wheels.py [3.12 [x86_64]]``.

For a machine with a GPU and without a network: fill the folder here, take it along, run ``make gpu`` there,
which installs of it what is missing. Packages whose absence there would be a surprise stay out (`THERE`).
"""

import argparse
import glob
import platform
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "gpu-wheels"
WANTED = {  # by the tests marked gpu and by the benchmark; the last four are other loaders
    *("tensorizer", "diffusers", "skops", "peft", "accelerate", "pytest"),
    *("fastsafetensors", "flashpack", "instanttensor", "runai-model-streamer"),
}
# where torch is these are too, or they come with transformers; most of them are large
THERE = {"torch", "numpy", "scipy", "scikit-learn", "transformers", "huggingface-hub", "safetensors"}
LIMIT = 60_000_000  # bytes


def versions():
    """The versions that the tests run with, by name."""
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        if version:
            pinned[canonicalize_name(name)] = version.split("+")[0]
    return pinned


def download(names, python, machine):
    """Wheels of packages, by name, without what they need.

    pip matches the names of platforms exactly, so every version of glibc up to 2.34 is named.
    """
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(34, 4, -1)]
    tags += [f"{old}_{machine}" for old in ("manylinux2014", "manylinux2010", "manylinux1", "linux")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--python-version", python, "--implementation", "cp"]
    command += [part for tag in tags for part in ("--platform", tag)]
    pinned = versions()
    wanted = [f"{name}=={pinned[name]}" if name in pinned else name for name in names]
    if subprocess.run([*command, "--dest", str(FOLDER), *wanted]).returncode != 0:
        sys.exit("pip could not download the wheels: read the lines above")


def needs(wheel, python):
    """What a wheel says that it needs on such a Python, without its extras."""
    with zipfile.ZipFile(wheel) as opened:
        (name,) = [name for name in opened.namelist() if name.endswith(".dist-info/METADATA")]
        told = Parser().parsestr(opened.read(name).decode())
    system = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    system |= {"platform_system": "Linux", "os_name": "posix", "extra": ""}
    required = [Requirement(line) for line in told.get_all("Requires-Dist") or []]
    return {canonicalize_name(r.name) for r in required if not r.marker or r.marker.evaluate(system)}


def libsodium(machine):
    """Copy the library that encryption needs, which pip does not bring; its test is skipped without it."""
    found = sorted(glob.glob(f"/usr/lib/{machine}-linux-gnu/libsodium.so.*"))
    if found and machine == platform.machine():
        shutil.copyfile(found[-1], FOLDER / "libsodium.so")
    else:
        print("libsodium is not here for that machine: tests of encryption will be skipped there")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python", nargs="?", default="3.12", help="version of the Python there")
    parser.add_argument("machine", nargs="?", default="x86_64", help="as `uname -m` says there")
    given = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    asked, wanted = set(THERE), WANTED
    while wanted:  # the needs of the needs, level by level
        download(sorted(wanted), given.python, given.machine)
        asked |= wanted
        wanted = set().union(*(needs(wheel, given.python) for wheel in FOLDER.glob("*.whl"))) - asked
    libsodium(given.machine)
    files = sorted(FOLDER.iterdir(), key=lambda path: -path.stat().st_size)
    size = sum(path.stat().st_size for path in files)
    for path in files[:5]:
        print(f"{path.stat().st_size / 1e6:7.1f} MB  {path.name}")
    names = {parse_wheel_filename(path.name)[0] for path in files if path.suffix == ".whl"}
    print(f"{size / 1e6:7.1f} MB  in all, {len(names)} packages, in {FOLDER.relative_to(ROOT)}")
    if size > LIMIT:
        sys.exit(f"that is more than {LIMIT / 1e6:.0f} MB: name what surely is there in THERE ({__file__})")


if __name__ == "__main__":
    main()
