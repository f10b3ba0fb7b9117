"""How long a load from S3 takes: `deserialise` against stock tensorizer with its defaults.

A real store (SeaweedFS) on loopback holds the file that each loader's own writer makes. Each load
runs in a fresh process, in turns; timed is the load alone, with the empty model, after the imports.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from workbook.bench.run import NO_GPU

LOADERS = ("tensorizer", "helpers")


def measure(model, rounds):
    """Seconds and first tokens by loader, round by round.

    Parameters
    ----------
    model : workbook.bench.models.Model
        With its files in the formats ``guide`` and ``helpers``.
    rounds : int

    Returns
    -------
    dict of str to list of float

    Raises
    ------
    RuntimeError
        A loader computed another first token than the other one.
    StorageError
        The store does not start.
    """
    from workbook.samples.servers import object_store

    with object_store() as store:
        import boto3

        client = boto3.session.Session().client("s3")
        for form in ("guide", "helpers"):
            for path in (model.folder / form).iterdir():
                client.upload_file(str(path), store.bucket, f"{form}/{path.name}")
        os.sync()  # what the upload left to write would be written beside the first rounds
        found = {name: [] for name in LOADERS}
        tokens = set()
        for _ in range(rounds):
            for name in LOADERS:
                command = [
                    sys.executable,
                    "-m",
                    "workbook.bench.streaming",
                    name,
                    store.bucket,
                    str(model.hf),
                ]
                done = subprocess.run(
                    command, capture_output=True, text=True, check=True, env=os.environ | NO_GPU
                )
                run = json.loads(done.stdout.strip().splitlines()[-1])
                found[name].append(run["seconds"])
                tokens.add(run["token"])
    if len(tokens) > 1:
        raise RuntimeError("the two loaders gave different models")
    return found


def main(name, bucket, hf):
    from workbook.bench import loaders, models
    from workbook.bench.child import first_token

    model = models.Model("", Path(hf).parent)
    model.model_class()
    if name == "tensorizer":
        import tensorizer  # noqa: F401 - an import is no part of what is timed
    from helpers import deserialise

    start = time.perf_counter()
    if name == "tensorizer":
        loaded = loaders.tensorizer_from_store(model, f"s3://{bucket}/guide/model.tensors")
    else:
        loaded = deserialise(f"s3://{bucket}/helpers", device="cpu", progress=False)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "token": first_token(loaded)[0]}))


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main(*sys.argv[1:])
