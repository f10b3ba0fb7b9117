"""What a save does not see, it must notice: either it is stored, or it is refused by name."""

import functools
import json
import re

import hidden
import pytest
import torch
import transformers
from equality import assert_same_module, assert_same_tensor
from torch import nn

from helpers import deserialise, serialise
from helpers.errors import CorruptFile, SkeletonMismatch, UnsupportedModel
from helpers.modules.restore import without_data


@pytest.mark.parametrize("name", hidden.REFUSED)
def test_a_tensor_out_of_sight_is_refused_by_name(tmp_path, name):
    build, place = hidden.REFUSED[name]
    with pytest.raises(UnsupportedModel) as error:
        serialise(build(), tmp_path / "m")
    assert re.search(rf" {re.escape(place)}[.\w]* \(", str(error.value))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", hidden.HARMLESS)
def test_what_holds_no_tensor_of_its_own_is_saved(tmp_path, name):
    serialise(hidden.HARMLESS[name](), tmp_path / "m")


def test_tensors_in_containers_come_back(tmp_path):
    module = hidden.Bank()
    for tensor in (module.listed[0], module.by_name["deep"][0][1], *module.pair):
        tensor.mul_(3)  # no longer what the constructor makes
    serialise(module, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=hidden.Bank)
    for one, other in zip(hidden.tensors_of(module), hidden.tensors_of(loaded), strict=True):
        assert_same_tensor("bank", one, other)
    assert loaded.listed[1] is loaded.by_name["deep"][0][1] is loaded.again
    assert loaded.pair is not None and loaded.same_pair[0] is loaded.pair[0]
    assert loaded.listed[2] is loaded.weight


def test_a_container_that_the_skeleton_lacks_is_named(tmp_path):
    serialise(hidden.Bank(), tmp_path / "m")
    with pytest.raises(SkeletonMismatch, match=r"the skeleton lacks by_name\.deep\.0\.1, "):
        deserialise(tmp_path / "m", skeleton=lambda: hidden.Bank(listed=False))


def test_a_list_that_holds_itself_is_loaded(tmp_path):
    def build():
        module = nn.Linear(2, 2)
        module.loop = [torch.zeros(2), {}]
        module.loop[1]["back"] = module.loop
        module.loop.append(module.loop)
        return module

    module = build()
    module.loop[0].fill_(5)
    serialise(module, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=build)
    assert loaded.loop[2] is loaded.loop is loaded.loop[1]["back"]
    assert torch.equal(loaded.loop[0], module.loop[0])


@pytest.mark.parametrize("hide", [lambda t: hidden.Plain(t), lambda t: functools.partial(torch.add, t)])
def test_a_loaded_module_that_reaches_a_tensor_without_data_is_refused(tmp_path, hide):
    module = nn.Linear(2, 2)
    serialise(module, tmp_path / "m")

    def skeleton():
        made = nn.Linear(2, 2)
        made.held = hide(torch.ones(2, device="meta"))
        return made

    assert any(name.startswith("held.") for name in without_data(skeleton()))
    with pytest.raises(SkeletonMismatch, match=r"no data after loading: held\."):
        deserialise(tmp_path / "m", skeleton=skeleton)


def test_a_skeleton_that_keeps_tensors_in_an_object_is_built_for_real(tmp_path):
    """The saved module has none there; what its class has gained since is made by the constructor."""
    serialise(nn.Linear(2, 2), tmp_path / "m")

    def skeleton():
        made = nn.Linear(2, 2)
        made.held = hidden.Plain(torch.arange(3.0))
        return made

    assert torch.equal(deserialise(tmp_path / "m", skeleton=skeleton).held.table, torch.arange(3.0))


def consistency_decoder():
    import diffusers

    parts = {"down_block_types": ("ResnetDownsampleBlock2D",) * 2, "up_block_types": ("ResnetUpsampleBlock2D",) * 2,
             "block_out_channels": (32, 64), "layers_per_block": 1}  # fmt: skip
    decoder = {f"decoder_{name}": value for name, value in parts.items()}
    return diffusers.ConsistencyDecoderVAE(
        encoder_block_out_channels=(32, 64), encoder_down_block_types=("DownEncoderBlock2D",) * 2,
        encoder_layers_per_block=1, **decoder,
    ).eval()  # fmt: skip


def test_what_a_library_makes_again_in_an_object_is_there_after_loading(tmp_path):
    """Its scheduler is no module, and its tensors have no data where the model is built on meta."""
    torch.manual_seed(0)
    model = consistency_decoder()
    serialise(model, tmp_path / "m")
    state = torch.random.get_rng_state()
    loaded = deserialise(tmp_path / "m")
    assert torch.equal(torch.random.get_rng_state(), state)
    latent = torch.ones(1, 4, 4, 4)
    with torch.no_grad():
        one, other = (
            m.decode(latent, generator=torch.Generator().manual_seed(0)).sample for m in (model, loaded)
        )
    assert_same_tensor("picture", one, other)


def test_what_a_library_would_make_otherwise_is_refused(tmp_path):
    model = consistency_decoder()
    model.decoder_scheduler.c_out *= 2
    with pytest.raises(UnsupportedModel, match=r"because of decoder_scheduler\.c_out \(a Tensor that is not"):
        serialise(model, tmp_path / "m")


_MIMI = {
    "hidden_size": 32, "num_filters": 8, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4,
    "head_dim": 8, "intermediate_size": 32, "codebook_size": 16, "codebook_dim": 8, "num_quantizers": 4,
    "vector_quantization_hidden_dimension": 8, "num_semantic_quantizers": 1, "upsample_groups": 4,
}  # fmt: skip
_TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8,
         "vocab_size": 32, "num_codebooks": 4}  # fmt: skip


def mimi():
    return transformers.MimiModel(transformers.MimiConfig(**_MIMI))


def csm():
    text = _TEXT | {"intermediate_size": 32}
    config = transformers.CsmConfig(
        **text,
        text_vocab_size=40,
        codec_config=_MIMI,
        depth_decoder_config=text | {"backbone_hidden_size": 32},
    )
    return transformers.CsmForConditionalGeneration(config)


def moshi():
    depth = _TEXT | {"ffn_dim": 32, "audio_vocab_size": 16, "input_size": 32}
    config = transformers.MoshiConfig(
        **_TEXT,
        ffn_dim=32,
        audio_vocab_size=16,
        audio_encoder_config=_MIMI | {"model_type": "mimi"},
        depth_decoder_config=depth,
    )
    return transformers.MoshiForConditionalGeneration(config)


def kyutai():
    config = transformers.KyutaiSpeechToTextConfig(
        **_TEXT,
        ffn_dim=32,
        codebook_vocab_size=17,
        bos_token_id=1,
        pad_token_id=3,
        audio_bos_token_id=16,
        audio_pad_token_id=100,
        codec_config=_MIMI | {"model_type": "mimi"},
    )
    return transformers.KyutaiSpeechToTextForConditionalGeneration(config)


@pytest.mark.parametrize("build", [mimi, csm, moshi, kyutai], ids=lambda build: build.__name__)
def test_attributes_that_from_pretrained_leaves_without_data_are_made_again(tmp_path, build):
    made = build()
    made.save_pretrained(tmp_path / "hf")
    model = type(made).from_pretrained(tmp_path / "hf")
    assert without_data(model)
    serialise(model, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", device="cpu")
    assert_same_module(model, loaded)
    assert not without_data(loaded)
    sound = torch.linspace(-1, 1, 4000).reshape(1, 1, -1)
    codecs = [next(p for p in m.modules() if type(p) is transformers.MimiModel) for m in (model, loaded)]
    with torch.no_grad():
        one, other = (codec.encode(sound).audio_codes for codec in codecs)
    assert torch.equal(one, other)


def transposed():
    module = nn.ModuleDict({"enc": nn.Linear(4, 3, bias=False), "dec": nn.Linear(3, 4, bias=False)})
    module.dec = module["dec"]
    module["dec"].weight = nn.Parameter(module["enc"].weight.detach().t())
    return module


def sliced():
    module = nn.Module()
    module.whole = nn.Parameter(torch.randn(6, 4))
    module.register_buffer("row", module.whole.detach()[2])
    module.register_buffer("corner", module.whole.detach()[1:5:2, 1:])
    module.spread = module.whole.detach()[:1].expand(3, 4)
    return module


def apart():
    """The same shapes, each with memory of its own, as a constructor makes them."""
    module = nn.Module()
    module.whole = nn.Parameter(torch.zeros(6, 4))
    module.register_buffer("row", torch.zeros(4))
    module.register_buffer("corner", torch.zeros(2, 3))
    return module


@pytest.mark.parametrize(
    ("build", "skeleton", "base"),
    [
        (transposed, lambda: nn.ModuleDict({"enc": nn.Linear(4, 3, False), "dec": nn.Linear(3, 4, False)}),
         "enc.weight"),
        (sliced, apart, "whole"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mapped", [True, False])
def test_views_of_one_memory_stay_views_of_it(tmp_path, build, skeleton, base, mapped):
    module = build()
    saved = serialise(module, tmp_path / "m")
    assert saved.tensors == 1
    loaded = deserialise(tmp_path / "m", skeleton=skeleton, mapped=mapped)
    with torch.no_grad():
        for each in (module, loaded):
            each.get_parameter(base).view(-1)[::2] = 7
    for name, tensor in module.state_dict().items():
        assert_same_tensor(name, tensor, loaded.state_dict()[name])
        assert loaded.state_dict()[name].stride() == tensor.stride()


def test_memory_shared_in_another_way_is_refused_by_name(tmp_path):
    module, memory = nn.Module(), torch.zeros(12)
    module.register_buffer("low", memory[:8])
    module.register_buffer("high", memory[4:])
    module.register_buffer("bits", memory[:4].view(torch.int32))
    with pytest.raises(UnsupportedModel, match=r"bits \(overlaps low\), high \(overlaps low\)"):
        serialise(module, tmp_path / "m")


def test_columns_side_by_side_are_not_taken_for_one_another(tmp_path):
    module, memory = nn.Module(), torch.arange(12.0).reshape(3, 4)
    module.register_buffer("left", memory[:, :2])
    module.register_buffer("right", memory[:, 2:])
    serialise(module, tmp_path / "m")


@pytest.mark.parametrize(
    "view", [[-1, [4], [1]], [21, [4], [1]], [0, [4], []], [0, [7, 4], [4, 1]], ["0", [4], [1]], [0, 4, 1], None]
)  # fmt: skip
def test_a_view_beyond_its_memory_is_refused(tmp_path, view):
    serialise(sliced(), tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    record = json.loads(path.read_text())
    record["structure"]["views"]["row"] = view
    path.write_text(json.dumps(record))
    with pytest.raises(CorruptFile):
        deserialise(tmp_path / "m", skeleton=apart)


def test_a_structure_from_before_views_is_loaded(tmp_path):
    serialise(nn.Linear(2, 2), tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    record = json.loads(path.read_text())
    record["structure"].pop("views", None)
    path.write_text(json.dumps(record))
    deserialise(tmp_path / "m", skeleton=lambda: nn.Linear(2, 2))


def test_a_part_of_a_model_with_containers_and_views_is_loaded(tmp_path):
    serialise(hidden.Bank(), tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=hidden.Bank, only=lambda name: name in ("again", "pair.0"))
    assert loaded.listed[0].is_meta and torch.equal(loaded.listed[1], torch.arange(4.0))
    assert not loaded.pair[0].is_meta and loaded.pair[1].is_meta
    module = sliced()
    serialise(module, tmp_path / "v")
    loaded = deserialise(tmp_path / "v", skeleton=apart, only=lambda name: name == "row")
    assert torch.equal(loaded.row, module.row) and torch.equal(loaded.whole, module.whole)
