"""What the command line takes of a checkpoint: all of it, in its types, and nothing that its library made up."""

import builtins
import http.server
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pipelines
import pytest
import torch
import transformers
from architectures import build
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from equality import assert_same_module
from safetensors.torch import load_file, save_file
from tensorizer import TensorSerializer
from tokenizers import Tokenizer, models

from helpers import deserialise
from helpers.__main__ import main
from helpers.checkpoint import open_checkpoint
from helpers.errors import CorruptFile, ModelError, NotAModel, UnsupportedModel
from workbook.samples import tiny_stable_diffusion


def without(file, count):
    """Take some tensors out of a file of weights; their names."""
    weights = load_file(file)
    gone = sorted(weights)[:count]
    save_file({key: weights[key] for key in weights if key not in gone}, file, {"format": "pt"})
    return gone


def refused(capsys, path, gone):
    """Whether the command names all that is gone, and writes nothing."""
    assert main(["serialise", str(path), str(path.parent / "m")]) == 1
    said = capsys.readouterr()
    assert said.out == "" and "lacks tensors of the model" in said.err
    assert [name for name in gone if name not in said.err] == []
    assert not (path.parent / "m").exists()
    return True


def test_a_pipeline_whose_parts_lack_tensors_is_refused_with_all_their_names(tmp_path, capsys):
    tiny_stable_diffusion().save_pretrained(tmp_path / "c")
    gone = [
        f"text_encoder.{key}" for key in without(tmp_path / "c" / "text_encoder" / "model.safetensors", 2)
    ]
    for part in ("unet", "vae"):
        file = tmp_path / "c" / part / "diffusion_pytorch_model.safetensors"
        gone += [f"{part}.{key}" for key in without(file, 2)]
    assert refused(capsys, tmp_path / "c", gone)


def with_safety_checker():
    pipeline = tiny_stable_diffusion()
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = small | {"image_size": 16, "patch_size": 8, "projection_dim": 8}
    config = transformers.CLIPConfig(text_config=small, vision_config=vision, projection_dim=8)
    checker = StableDiffusionSafetyChecker(config).eval()
    pipeline.register_modules(safety_checker=checker, feature_extractor=transformers.CLIPImageProcessor())
    return pipeline


def test_a_safety_checker_that_lacks_tensors_is_refused_too_and_a_whole_one_is_taken(tmp_path, capsys):
    pipeline = with_safety_checker()
    pipeline.save_pretrained(tmp_path / "c")
    loaded, _ = open_checkpoint(tmp_path / "c")
    assert type(loaded.safety_checker) is StableDiffusionSafetyChecker
    assert "non-standard module" not in capsys.readouterr().err
    gone = without(tmp_path / "c" / "safety_checker" / "model.safetensors", 2)
    assert refused(capsys, tmp_path / "c", [f"safety_checker.{key}" for key in gone])


def test_a_pipeline_with_a_model_in_its_own_directory_is_taken_in_its_type(tmp_path):
    pipelines.PIPELINES["ddpm"]().save_pretrained(tmp_path / "c")
    pipelines.build("UNet2DModel").bfloat16().save_pretrained(tmp_path / "c")
    shutil.rmtree(tmp_path / "c" / "unet")
    loaded, _ = open_checkpoint(tmp_path / "c")
    assert loaded.unet.dtype == torch.bfloat16


def test_a_diffusers_model_that_lacks_tensors_is_refused_with_all_their_names(tmp_path, capsys):
    pipelines.build("UNet2DModel").save_pretrained(tmp_path / "c")
    gone = without(tmp_path / "c" / "diffusion_pytorch_model.safetensors", 3)
    assert refused(capsys, tmp_path / "c", gone)


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "20KB"}])
def test_variants_beside_the_weights_do_not_choose_the_type(tmp_path, shards):
    model = pipelines.build("UNet2DModel")
    model.save_pretrained(tmp_path / "c", **shards)
    model.half()
    for variant in ("fp16", "non_ema"):
        model.save_pretrained(tmp_path / "c", variant=variant, **shards)
    assert len(list((tmp_path / "c").glob("*.safetensors"))) >= 3 * (1 + len(shards))
    assert open_checkpoint(tmp_path / "c")[0].dtype == torch.float32


def test_a_diffusers_model_by_its_name_keeps_its_type(tmp_path):
    """In the hub's own cache, since a test has no network."""
    folder = tmp_path / "hub" / "models--someone--tiny"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    pipelines.build("UNet2DModel").bfloat16().save_pretrained(folder / "snapshots" / ("0" * 40))
    command = [sys.executable, "-m", "helpers", "serialise", "someone/tiny", str(tmp_path / "m")]
    where = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub"), "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=where)
    assert done.returncode == 0, done.stderr
    assert deserialise(tmp_path / "m", device="cpu").dtype == torch.bfloat16


def test_the_type_of_the_files_counts_not_the_one_that_the_configuration_names(tmp_path):
    model = build("LlamaForCausalLM")
    model.save_pretrained(tmp_path / "c")
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    (tmp_path / "c" / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    loaded, _ = open_checkpoint(tmp_path / "c")
    assert_same_module(model, loaded)
    assert loaded.config.dtype == torch.float32


@pytest.mark.parametrize("kind", [sys.modules["architectures"], pipelines])
def test_a_few_large_tensors_choose_the_type_not_many_small_ones(tmp_path, kind):
    model = kind.build("BertModel" if kind is not pipelines else "UNet2DModel").bfloat16()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data = parameter.data.float()
    kinds = [parameter.dtype for parameter in model.parameters()]
    assert kinds.count(torch.float32) > kinds.count(torch.bfloat16)
    model.save_pretrained(tmp_path / "c")
    assert {parameter.dtype for parameter in open_checkpoint(tmp_path / "c")[0].parameters()} == {
        torch.bfloat16
    }


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_a_package_that_a_checkpoint_needs_besides_is_named(tmp_path):
    config = {"architectures": ["DetrForObjectDetection"], "model_type": "detr"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"w": torch.zeros(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        UnsupportedModel, match="needs what is not installed here .*the timm library.*pip install"
    ):
        open_checkpoint(tmp_path)


def test_a_checkpoint_that_does_not_fit_into_memory_is_not_called_damaged(tmp_path):
    model = build("LlamaForCausalLM")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    # a table that is not in the file, larger than any machine's memory: its library makes it up
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 1 << 50}))
    assert without(tmp_path / "model.safetensors", 1) == ["model.embed_tokens.weight"]
    with pytest.raises(ModelError, match="does not fit into memory. Free memory") as caught:
        open_checkpoint(tmp_path)
    assert type(caught.value) is ModelError


def test_a_stock_file_brings_the_settings_of_generation_and_the_tokenizer_beside_it(tmp_path):
    model = build("LlamaForCausalLM").eval()
    model.generation_config.max_new_tokens = 7
    model.save_pretrained(tmp_path / "c")
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path / "c")
    stock = TensorSerializer(str(tmp_path / "c" / "stock.tensors"))
    stock.write_module(model)
    stock.close()
    assert main(["serialise", str(tmp_path / "c" / "stock.tensors"), str(tmp_path / "m")]) == 0
    assert deserialise(tmp_path / "m", device="cpu").generation_config.max_new_tokens == 7
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "m")("b").input_ids == [1]


@pytest.fixture
def with_code(tmp_path, monkeypatch):
    """A checkpoint with code of its own that leaves a file when it runs, and a reader who agrees to anything."""
    build("LlamaForCausalLM").save_pretrained(tmp_path / "c")
    (tmp_path / "c" / "own.py").write_text(f"open({str(tmp_path / 'has run')!r}, 'w').close()")
    monkeypatch.setattr(builtins, "input", lambda *asked: "y")
    return tmp_path / "c"


def test_code_of_a_model_without_a_named_class_is_not_run(tmp_path, with_code):
    more = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    config = json.loads((with_code / "config.json").read_text()) | more
    del config["architectures"]
    (with_code / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match="brings the code of its class with it, which is not run"):
        open_checkpoint(with_code)
    assert not (tmp_path / "has run").exists()


def test_code_of_a_processor_is_not_run(tmp_path, with_code):
    (with_code / "processor_config.json").write_text('{"auto_map": {"AutoProcessor": "own.Processor"}}')
    with pytest.raises(CorruptFile, match="has a tokenizer or a processor that cannot be loaded"):
        open_checkpoint(with_code)
    assert not (tmp_path / "has run").exists()


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("BertModel", {"vocab.txt": "\n".join(WORDS)}),
        (
            "GPT2LMHeadModel",
            {"vocab.json": '{"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3}', "merges.txt": "a b"},
        ),
    ],
)
def test_the_tokenizer_of_an_older_checkpoint_comes_along(tmp_path, name, files):
    build(name).save_pretrained(tmp_path / "c")
    for file, text in files.items():
        (tmp_path / "c" / file).write_text(text)
    expected = transformers.AutoTokenizer.from_pretrained(tmp_path / "c")("ab b").input_ids
    assert main(["serialise", str(tmp_path / "c"), str(tmp_path / "m")]) == 0
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "m")("ab b").input_ids == expected
    assert len(set(expected)) > 1


def asked_for(name, folder, **where):
    """What the command says of a name, with an empty cache of the hub; it has ended within seconds."""
    command = [sys.executable, "-m", "helpers", "serialise", name, str(folder / "m")]
    path = [str(Path(__file__).parents[2])]
    where = {"HF_HUB_CACHE": str(folder / "hub"), "PATH": "", "PYTHONPATH": os.pathsep.join(path), **where}
    done = subprocess.run(command, capture_output=True, text=True, env=where, cwd=folder, timeout=60)
    assert done.returncode == 1 and done.stdout == ""
    return done.stderr


def test_a_path_below_a_directory_that_is_here_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotAModel, match="^checkpoints/none: there is no such directory. Check the path"):
        open_checkpoint("checkpoints/none")


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub that knows someone/empty, without a file, and no one else."""

    def do_HEAD(self):
        self.server.asked.append(self.path)
        is_there = self.path.startswith("/someone/empty/")
        self.send_response(404)
        self.send_header("X-Error-Code", "EntryNotFound" if is_there else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def test_a_hub_that_cannot_be_reached_is_tried_once_and_is_not_said_to_hold_nothing(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    said = asked_for("someone/tiny", tmp_path, HF_ENDPOINT=endpoint)
    assert said.startswith("someone/tiny: is no directory here, and the hub cannot be asked for it (")
    assert "Retrying" not in said and said.endswith(f"or the connection to {endpoint}.\n")


def test_a_hub_that_answers_has_the_word(tmp_path, hub):
    endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
    said = asked_for("someone/empty", tmp_path, HF_ENDPOINT=endpoint)
    assert said.startswith("someone/empty: holds no config.json and no model_index.json")
    said = asked_for("someone/else", tmp_path, HF_ENDPOINT=endpoint)
    assert "someone/else is not a local folder and is not a valid model identifier" in said
    assert all(path.startswith(("/someone/empty/", "/someone/else/")) for path in hub.asked)
