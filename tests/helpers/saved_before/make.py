"""How the models beside this file were made: by the package as it was at commit 049e4bd.

They show that what an older version has saved stays loadable, so they are never made again by a newer one.
To see how they came about, check that commit out and run this file in it, with its ``helpers`` first on the
path and ``tests/support`` of this one behind:

    PYTHONPATH=OLD:NEW/tests/support python NEW/tests/helpers/saved_before/make.py OTHER_DIRECTORY
"""

import json
import sys
from pathlib import Path

import kept_models
import torch


def main(target):
    """Save every model below ``target``, each with its facts beside it."""
    from helpers import serialise, serialise_model

    torch.manual_seed(0)
    models = {
        "transformers": kept_models.llama(torch.float32),
        "transformers_bfloat16": kept_models.llama(torch.bfloat16),
        "diffusers": kept_models.unet(),
        "diffusion_pipeline": kept_models.ddpm(),
        "torch_module": kept_models.Small(),
        "sklearn": kept_models.estimator(),
        "encrypted": kept_models.Small(),
        "bare": kept_models.plain(),
        "from_s3": kept_models.Small(),
    }
    for name, model in models.items():
        place = target / name
        place.mkdir(parents=True)
        if hasattr(model, "set_progress_bar_config"):
            model.set_progress_bar_config(disable=True)
        if name == "bare":
            assert serialise_model(model, place / "model.tensors")
        elif name == "from_s3":
            _through_s3(model, place / "model")
        else:
            key = kept_models.PASSPHRASE if name == "encrypted" else None
            serialise(model, place / "model", encryption=key)
        text = json.dumps(kept_models.facts(model), indent=1)
        (place / "expected.json").write_text(text + "\n")


def _through_s3(model, place):
    """Save to a store and fetch what lies there, object by object: the layout with a folder of its own."""
    import boto3
    from helpers.samples.servers import object_store

    from helpers import serialise

    with object_store() as store:
        serialise(model, f"s3://{store.bucket}/m")
        client = boto3.session.Session().client("s3")
        for item in client.list_objects_v2(Bucket=store.bucket, Prefix="m/")["Contents"]:
            path = place / item["Key"].removeprefix("m/")
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(store.bucket, item["Key"], str(path))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
