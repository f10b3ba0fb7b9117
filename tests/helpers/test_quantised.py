"""Weights that torchao quantised are stored as their inner tensors, mapped, and equal to the bit."""

import json
import threading

import architectures
import diffusers
import pipelines
import pytest
import torch
import transformers
from equality import assert_same_tensor
from torch import nn

from helpers import deserialise, inspect, serialise
from helpers.errors import CorruptFile, ModelError, SkeletonMismatch, UnsupportedModel

torchao = pytest.importorskip("torchao")
from torchao import quantization  # noqa: E402

TOKENS = torch.arange(2, 10)[None]
KINDS = {
    "int8": quantization.Int8WeightOnlyConfig,
    "int8 dynamic": quantization.Int8DynamicActivationInt8WeightConfig,
    "float8": quantization.Float8WeightOnlyConfig,
}


def network():
    torch.manual_seed(0)
    return (
        nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32), nn.LayerNorm(32)).bfloat16().eval()
    )


def llama():
    """Wide enough for groups of 32."""
    config = transformers.LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).eval()


def scores(model):
    with torch.inference_mode():
        return model(input_ids=TOKENS).logits


def assert_same_parts(one, other):
    """Every tensor, inner ones too, and the flags."""
    ones, others = list(one.named_parameters()), dict(other.named_parameters())
    assert [name for name, _ in ones] == list(others)
    for name, was in ones:
        now = others[name]
        assert type(now) is type(was) and now.requires_grad == was.requires_grad, name
        if hasattr(was, "tensor_data_names"):
            for inner in was.tensor_data_names:
                assert_same_tensor(f"{name} {inner}", getattr(was, inner), getattr(now, inner))
        else:
            assert_same_tensor(name, was, now)


@pytest.mark.parametrize("kind", KINDS)
def test_a_custom_module_comes_back_equal(tmp_path, kind):
    model, example = network(), torch.randn(3, 64, dtype=torch.bfloat16)
    quantization.quantize_(model, KINDS[kind]())
    with torch.inference_mode():
        before = model(example)
    serialise(model, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=network)
    assert_same_parts(model, loaded)
    with torch.inference_mode():
        assert_same_tensor("output", before, loaded(example))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_from_pretrained_quantised_comes_back_as_such(tmp_path, kind):
    llama().save_pretrained(tmp_path / "hf")
    how = transformers.TorchAoConfig(KINDS[kind]())
    model = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path / "hf", dtype=torch.bfloat16, quantization_config=how
    )
    before = scores(model)
    serialise(model, tmp_path / "m")
    loaded = deserialise(tmp_path / "m")
    assert_same_parts(model, loaded)
    assert_same_tensor("scores", before, scores(loaded))
    assert loaded.is_quantized and type(loaded.hf_quantizer) is type(model.hf_quantizer)
    assert loaded.quantization_method == model.quantization_method
    assert loaded.config.quantization_config.to_dict() == model.config.quantization_config.to_dict()
    serialise(loaded, tmp_path / "again")
    assert_same_tensor("again", before, scores(deserialise(tmp_path / "again")))


def drawn(unet):
    with torch.inference_mode():
        return unet(pipelines.noise(1, 3, 8, 8).bfloat16(), pipelines.STEP).sample


@pytest.mark.parametrize("kind", KINDS)
def test_a_diffusers_model_that_from_pretrained_quantised_comes_back_as_such(tmp_path, kind):
    pipelines.build("UNet2DModel").save_pretrained(tmp_path / "hf")
    model = diffusers.UNet2DModel.from_pretrained(
        tmp_path / "hf",
        dtype=torch.bfloat16,
        quantization_config=diffusers.TorchAoConfig(KINDS[kind]()),
    )
    before = drawn(model)
    serialise(model, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", device="cpu")
    assert_same_parts(model, loaded)
    assert_same_tensor("drawn", before, drawn(loaded))
    assert loaded.is_quantized and type(loaded.hf_quantizer) is type(model.hf_quantizer)
    assert loaded.quantization_method == model.quantization_method
    assert loaded.config["quantization_config"].to_dict() == model.config["quantization_config"].to_dict()
    serialise(loaded, tmp_path / "again")
    assert_same_tensor("again", before, drawn(deserialise(tmp_path / "again", device="cpu")))
    loaded.save_pretrained(tmp_path / "theirs")
    theirs = diffusers.UNet2DModel.from_pretrained(tmp_path / "theirs", dtype=torch.bfloat16)
    assert_same_tensor("by diffusers", before, drawn(theirs))


def test_other_quantisers_of_diffusers_are_refused_by_name(tmp_path):
    model = pipelines.build("UNet2DModel")
    how = diffusers.GGUFQuantizationConfig(compute_dtype=torch.bfloat16)
    model.hf_quantizer = diffusers.quantizers.auto.DiffusersAutoQuantizer.from_config(how)
    with pytest.raises(UnsupportedModel, match=r"is quantised by gguf.*dequantize"):
        serialise(model, tmp_path / "m")
    assert not list(tmp_path.iterdir())


def int4():
    """The packing that a CPU computes with."""
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

    return PrototypeInt4WeightOnlyConfig(group_size=32)


@pytest.mark.parametrize("kind", [*KINDS, "int4"])
def test_a_model_quantised_in_place_comes_back(tmp_path, kind):
    model = llama()
    quantization.quantize_(model, KINDS[kind]() if kind in KINDS else int4())
    serialise(model, tmp_path / "m")
    assert_same_tensor("scores", scores(model), scores(deserialise(tmp_path / "m")))
    assert getattr(deserialise(tmp_path / "m"), "hf_quantizer", None) is None


def test_a_configuration_that_transformers_would_not_read_again_is_refused_while_saving(tmp_path):
    llama().save_pretrained(tmp_path / "hf")
    how = transformers.TorchAoConfig(int4())
    model = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path / "hf", dtype=torch.bfloat16, quantization_config=how
    )
    with pytest.raises(UnsupportedModel, match=r"writes and does not read .*quantize_\(model"):
        serialise(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_pipeline_with_a_quantised_part_comes_back(tmp_path):
    import kept_models

    pipeline = kept_models.ddpm()
    quantization.quantize_(pipeline.unet, KINDS["int8"](), lambda part, name: isinstance(part, nn.Linear))
    serialise(pipeline, tmp_path / "m")
    assert inspect(tmp_path / "m" / "unet").family == "quantised"
    assert_same_parts(pipeline.unet, deserialise(tmp_path / "m").unet)


def test_the_weights_are_mapped_and_smaller(tmp_path):
    model = llama()
    serialise(model, tmp_path / "bf16")
    quantization.quantize_(model, KINDS["int8"]())
    serialise(model, tmp_path / "int8")
    held = {tensor.name: tensor for tensor in inspect(tmp_path / "int8").tensors}
    inner = held["model.layers.0.self_attn.q_proj._weight_qdata"]
    assert inner.dtype == "int8" and inner.bytes == 64 * 64
    assert inspect(tmp_path / "int8").bytes < inspect(tmp_path / "bf16").bytes
    loaded = deserialise(tmp_path / "int8")
    other = deserialise(tmp_path / "int8")
    loaded.model.layers[0].self_attn.q_proj.weight.qdata[0, 0] += 1  # a map is private: nobody else sees it
    assert_same_tensor("scores", scores(model), scores(other))


def test_ties_and_frozen_weights_survive(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)

    torch.manual_seed(0)
    model = Tied().bfloat16()
    quantization.quantize_(model, KINDS["int8"]())
    model.two.weight = model.one.weight
    model.three.bias.requires_grad_(False)
    serialise(model, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=lambda: Tied())
    assert loaded.two.weight is loaded.one.weight and loaded.three.weight is not loaded.one.weight
    assert_same_parts(model, loaded)


class Buffered(nn.Module):
    """A layer, and a buffer that may hold a weight."""

    def __init__(self):
        super().__init__()
        self.register_buffer("held", torch.zeros(64, 64))
        self.layer = nn.Linear(64, 64)


def test_a_quantised_buffer_is_refused_by_its_name(tmp_path):
    model, other = Buffered(), Buffered()
    for one in (model, other):
        quantization.quantize_(one, KINDS["int8"]())
    model.held = other.layer.weight.data
    with pytest.raises(UnsupportedModel, match=r"because of held \(a Int8Tensor, not a plain tensor\)"):
        serialise(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_buffer_that_is_a_quantised_weight_comes_back_as_that(tmp_path):
    model = Buffered()
    quantization.quantize_(model, KINDS["int8"]())
    model.register_buffer("held", model.layer.weight)
    serialise(model, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=Buffered)
    assert loaded._buffers["held"] is loaded.layer.weight
    assert_same_parts(model, loaded)


@pytest.mark.parametrize("kind", [*KINDS, "intx", "int8 dynamic intx", "int4"])
def test_a_loaded_model_takes_the_state_of_the_one_that_was_saved(tmp_path, kind):
    more = {
        "intx": quantization.IntxWeightOnlyConfig,
        "int8 dynamic intx": quantization.Int8DynamicActivationIntxWeightConfig,
        "int4": int4,
    }
    model = network()
    quantization.quantize_(model, (KINDS | more)[kind]())
    serialise(model, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=network)
    for one, other in zip(model.parameters(), loaded.parameters(), strict=True):
        if hasattr(one, "tensor_data_names"):
            assert repr(one.__tensor_flatten__()) == repr(other.__tensor_flatten__())
    loaded.load_state_dict(model.state_dict())  # compares what they hold besides tensors
    assert_same_parts(model, loaded)


def test_a_weight_that_would_change_is_refused_by_what_would(tmp_path):
    model = network()
    quantization.quantize_(model, KINDS["int8"]())
    model[2].weight.block_size = [(1,), (64,)]
    with pytest.raises(UnsupportedModel, match=r"2\.weight \(a Int8Tensor: block_size would change\)"):
        serialise(model, tmp_path / "m")


def test_a_part_can_be_loaded_alone(tmp_path):
    model = network()
    quantization.quantize_(model, KINDS["int8"]())
    serialise(model, tmp_path / "m")
    part = deserialise(tmp_path / "m", skeleton=network, only=lambda name: name.startswith("0."))
    assert type(part[0].weight) is type(model[0].weight)
    assert part[2].weight.is_meta and part[3].weight.is_meta


def test_another_type_is_refused(tmp_path):
    model = network()
    quantization.quantize_(model, KINDS["int8"]())
    serialise(model, tmp_path / "m")
    with pytest.raises(ModelError, match="is quantised, so its weights cannot be cast"):
        deserialise(tmp_path / "m", skeleton=network, dtype="float32")


def test_the_wrong_skeleton_is_refused(tmp_path):
    model = network()
    quantization.quantize_(model, KINDS["int8"]())
    serialise(model, tmp_path / "m")
    with pytest.raises(SkeletonMismatch, match="do not agree"):
        deserialise(tmp_path / "m", skeleton=lambda: nn.Sequential(nn.Linear(32, 128)))


def test_other_quantisers_are_refused_by_name(tmp_path):
    model = architectures.build("LlamaForCausalLM")
    model.hf_quantizer = transformers.quantizers.auto.AutoHfQuantizer.from_config(
        transformers.FineGrainedFP8Config(), pre_quantized=True
    )
    with pytest.raises(UnsupportedModel, match=r"is quantised by fp8.*dequantize"):
        serialise(model, tmp_path / "m")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"family": "torch_module"', '"family": "quantised"'),
        ("Int8Tensor", "Int9Tensor"),
        ("qdata", "rdata"),
        (r"\"_tuples\": []", r"\"_tuples\": [\"dtype\"]"),
        ('"quantised"', '"other"'),
    ],
)
def test_what_is_damaged_is_refused_in_a_sentence(tmp_path, old, new):
    model = network()
    quantization.quantize_(model, KINDS["int8"]())
    serialise(model, tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    head, settings, rest = path.read_text().partition('"settings"')
    assert old in rest
    path.write_text(head + settings + rest.replace(old, new, 1))
    with pytest.raises((CorruptFile, SkeletonMismatch)) as caught:
        deserialise(tmp_path / "m", skeleton=network)
    assert str(tmp_path / "m") in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ties", {"2.weight": "nothing"}),
        ("ties", {"2.weight": "3.weight"}),  # is there, but was not quantised
        ("ties", {"2.weight": ["0.weight"]}),
        ("ties", {"3.weight": "0.weight"}),  # has data of its own
        ("frozen", ["nothing"]),
        ("frozen", [["0.weight"]]),
        ("tensors", {"0.weight": "[" * 100_000}),
    ],
    ids=lambda part: str(part)[:40],
)
def test_what_a_description_says_and_cannot_be_true_is_refused_in_a_sentence(tmp_path, key, value):
    model = network()
    quantization.quantize_(model, KINDS["int8"]())
    serialise(model, tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    manifest = json.loads(path.read_text())
    manifest["settings"]["quantised"][key] = value
    path.write_text(json.dumps(manifest))
    for only in (None, lambda name: name.startswith("0.")):
        with pytest.raises(CorruptFile, match=r"m/model\.json: "):
            deserialise(tmp_path / "m", skeleton=network, only=only)


@pytest.mark.parametrize("key", ["grad_buffers", "aliases", "shared"])
def test_a_structure_that_names_a_part_of_a_quantised_weight_is_refused(tmp_path, key):
    model = network()
    quantization.quantize_(model, KINDS["int8"]())
    serialise(model, tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    manifest = json.loads(path.read_text())
    part = "0._weight_qdata"
    manifest["structure"][key] = [part] if key == "grad_buffers" else {"2.bias again": part}
    path.write_text(json.dumps(manifest))
    with pytest.raises(CorruptFile, match=r"m/model\.json: "):
        deserialise(tmp_path / "m", skeleton=network)


@pytest.mark.parametrize(
    ("held", "said"), [(threading.Lock(), r"_thread\.lock"), ((n for n in "ab"), "generator")]
)
def test_what_has_no_copy_is_refused_by_its_class(tmp_path, held, said):
    model = network()
    quantization.quantize_(model, KINDS["int8"]())
    model[0].held = held
    with pytest.raises(UnsupportedModel, match=rf"Sequential: is quantised and holds .*{said}"):
        serialise(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    del model[0].held
    serialise(model, tmp_path / "m")
