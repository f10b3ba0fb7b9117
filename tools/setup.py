"""Make .venv ready: create it, repair it or reuse it. Standard library only.

A virtual environment is reused only if it stands in the same place, was finished for the same
Python and the same list of dependencies, and still imports what it should.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
READY = VENV / "ready"
BEFORE = ROOT / "build" / "venv-before"  # the old environment, until the new one works
EXTRAS = sys.argv[1] if len(sys.argv) > 1 else "workbook,test,peers,scale,site"
SPACE = 7 << 30  # bytes; the CPU build of torch needs less, the CUDA build all of it
NEEDED = (
    "torch tensorizer transformers diffusers sklearn skops gguf accelerate matplotlib pandas ipywidgets "
    "jupyterlab nbclient nbval peft pytest xdist hypothesis ruff boto3 helpers workbook importlinter mypy "
    "myst_nb sphinx_book_theme"
)
OLDEST = (3, 11)
# What pip cannot bring, by how it is recognised; without it the tests and cells that need it are skipped.
SYSTEM = {
    "nginx": "nginx-light",  # the HTTP server of notebook 09
    "fusermount3": "fuse3",  # a mounted network filesystem, tests only
    "chromium": "chromium",  # browser tests
    "libsodium": "libsodium23",  # encryption
    "curl": "curl",  # tensorizer's own reading from S3, to compare with
}


def stop(problem, remedy):
    sys.exit(f"\nset-up stopped: {problem}\n  what to do: {remedy}")


def fingerprint():
    """What a finished environment was made from."""
    digest = hashlib.sha256(f"{sys.version}{VENV}{EXTRAS}".encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def works():
    """Whether the environment's Python runs and finds every package that it should have."""
    check = (
        f"from importlib.util import find_spec as f; raise SystemExit(not all(map(f, {NEEDED.split()!r})))"
    )
    try:
        return subprocess.run([PYTHON, "-c", check], stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def run(arguments, problem, remedy):
    print("$", *arguments, flush=True)
    if subprocess.run([str(a) for a in arguments], cwd=ROOT).returncode != 0:
        stop(problem, remedy)


def _library(name):
    return name.startswith("lib") and find_library(name.removeprefix("lib"))


def system_packages():
    """Install what pip cannot bring where that is possible, else name it."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    missing = [name for name in SYSTEM if not (shutil.which(name, path=path) or _library(name))]
    if not missing:
        return
    packages = [SYSTEM[name] for name in missing]
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        print(f"not installed, and skipped where needed: {', '.join(missing)} (Debian: {' '.join(packages)})")
        return
    print("installing", *packages, flush=True)
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # start no service
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", "-qq", *command], env=quiet, stdout=subprocess.DEVNULL)
    if done.returncode != 0:
        print(f"apt-get could not install all of them: what needs {', '.join(missing)} is skipped")


def main():
    system_packages()
    if sys.version_info < OLDEST:
        stop(
            f"Python {sys.version.split()[0]} is too old, {'.'.join(map(str, OLDEST))} or newer is needed",
            "install a newer Python and name it: make test PYTHON=python3.12",
        )
    if READY.is_file() and READY.read_text() == fingerprint() and works():
        return
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        stop(
            "this Python cannot make virtual environments (no venv or ensurepip)",
            "on Debian and Ubuntu: apt-get install python3-venv; with conda: conda install pip",
        )
    free = shutil.disk_usage(ROOT).free
    if free < SPACE:
        stop(f"{free >> 30} GB are free here, {SPACE >> 30} GB are needed", "free some space")
    print("repairing .venv" if VENV.exists() else "making .venv", "(some minutes, once)", flush=True)
    _put_aside()
    try:
        _make()
    except BaseException:  # also Ctrl-C; without a package index the old one is better than none
        shutil.rmtree(VENV, ignore_errors=True)
        if BEFORE.exists():
            BEFORE.rename(VENV)
            print("the environment from before is back in .venv", flush=True)
        raise
    shutil.rmtree(BEFORE, ignore_errors=True)


def _put_aside():
    """Move the environment away; one that a killed set-up left half-made is removed, and the one before it stays."""
    if BEFORE.exists() and not READY.exists():
        shutil.rmtree(VENV, ignore_errors=True)
    elif VENV.exists():
        shutil.rmtree(BEFORE, ignore_errors=True)
        BEFORE.parent.mkdir(exist_ok=True)
        VENV.rename(BEFORE)


def _interpreter():
    """What makes the environment: not the Python of the old one, where that is active and has just been put aside."""
    if Path(sys.prefix) != VENV:
        return sys.executable
    return Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")


def _make():
    run(
        [_interpreter(), "-m", "venv", VENV],
        "the virtual environment could not be made",
        "read the lines above",
    )
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(
        [*pip, "--constraint", "constraints.txt", "--editable", f".[{EXTRAS}]"],
        "pip could not install the packages",
        "read the lines above; pip needs a package index it can reach (pip config list shows which)",
    )
    if not works():
        stop("a package is missing after the installation", f"remove {VENV} and try again")
    READY.write_text(fingerprint())


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)
    main()
