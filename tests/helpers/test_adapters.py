"""Adapters on a base: only their own tensors are saved, and the base is mapped once for all of them."""

import architectures
import pytest
import torch
from equality import assert_same_module, assert_same_tensor

from helpers import deserialise, inspect, serialise, verify
from helpers.errors import CorruptFile, NotAModel, SkeletonMismatch, StorageError, UnsupportedModel

peft = pytest.importorskip("peft")
TOKENS = torch.arange(2, 10)[None]


def lora(**settings):
    return peft.LoraConfig(
        **{"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | settings
    )


def shaken(model):
    """Adapters begin as nothing (B is zero): give every tensor of theirs random numbers."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.3
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved base."""
    path = tmp_path_factory.mktemp("models") / "base"
    model = architectures.build("LlamaForCausalLM").to(torch.bfloat16).eval()
    serialise(model, path)
    return path


@pytest.fixture
def base(saved):
    return deserialise(saved)


def scores(model):
    with torch.inference_mode():
        return model(input_ids=TOKENS).logits


def assert_comes_back(model, path):
    before = scores(model)
    serialise(model, path)
    loaded = deserialise(path)
    assert_same_module(model, loaded)
    assert_same_tensor("scores", before, scores(loaded))
    assert {k: c.to_dict() for k, c in model.peft_config.items()} == {
        k: c.to_dict() for k, c in loaded.peft_config.items()
    }
    return loaded


def test_an_adapter_comes_back_on_its_mapped_base(base, saved, tmp_path):
    model = shaken(peft.get_peft_model(base, lora()))
    assert not torch.equal(scores(model), scores(deserialise(saved)))
    loaded = assert_comes_back(model, tmp_path / "voice")
    assert loaded.active_adapters == loaded.base_model.active_adapter == ["default"]
    held = inspect(tmp_path / "voice")
    assert held.family == "adapters" and all("lora_" in tensor.name for tensor in held.tensors)
    assert verify(tmp_path / "voice").tensors == len(held.tensors)


def test_what_is_loaded_can_be_trained_and_saved_again(base, tmp_path):
    serialise(shaken(peft.get_peft_model(base, lora())), tmp_path / "one")
    loaded = deserialise(tmp_path / "one").train()
    loaded(input_ids=TOKENS, labels=TOKENS).loss.backward()
    trained = [name for name, parameter in loaded.named_parameters() if parameter.grad is not None]
    assert trained and all("lora_" in name for name in trained)
    assert_comes_back(loaded, tmp_path / "two")


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"use_rslora": True, "rank_pattern": {"v_proj": 2}},
        {"lora_bias": True},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_kinds_of_lora_come_back(base, tmp_path, settings):
    assert_comes_back(shaken(peft.get_peft_model(base, lora(**settings))), tmp_path / "voice")


def test_several_adapters_and_the_active_one_come_back(base, tmp_path):
    model = peft.get_peft_model(base, lora(), adapter_name="calm")
    model.add_adapter("loud", lora(r=2, target_modules=["o_proj"]))
    shaken(model).set_adapter("loud")
    loaded = assert_comes_back(model, tmp_path / "voices")
    assert list(loaded.peft_config) == ["calm", "loud"] and loaded.active_adapter == "loud"
    assert loaded.base_model.active_adapter == model.base_model.active_adapter == "loud"
    for name in ("calm", "loud"):
        model.set_adapter(name)
        loaded.set_adapter(name)
        assert_same_tensor(name, scores(model), scores(loaded))


def test_two_active_adapters_and_disabled_ones_come_back(base, tmp_path):
    model = peft.get_peft_model(base, lora(), adapter_name="a")
    model.add_adapter("b", lora())
    shaken(model).base_model.set_adapter(["a", "b"])
    loaded = assert_comes_back(model, tmp_path / "both")
    assert loaded.active_adapters == ["a", "b"]
    model.base_model.disable_adapter_layers()
    assert_comes_back(model, tmp_path / "off")


def test_adapters_added_by_transformers_itself_come_back(base, tmp_path):
    base.add_adapter(lora(), "calm")
    base.add_adapter(lora(), "loud")
    base.set_adapter("calm")
    loaded = assert_comes_back(shaken(base), tmp_path / "voice")
    assert type(loaded) is type(base) and loaded.active_adapters() == ["calm"]


def test_an_unet_with_adapters_comes_back(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    small = {
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 8,
    }
    blocks = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
    blocks |= {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    unet = diffusers.UNet2DConditionModel(sample_size=8, attention_head_dim=2, **small, **blocks).eval()
    serialise(unet, tmp_path / "unet")
    unet = deserialise(tmp_path / "unet")
    unet.register_to_config(sample_size=16)
    unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"]), "style")
    shaken(unet)
    serialise(unet, tmp_path / "style")
    loaded = deserialise(tmp_path / "style")
    assert_same_module(unet, loaded)
    assert loaded.config.sample_size == unet.config.sample_size == 16


def test_what_was_set_in_the_base_since_it_was_loaded_comes_back(base, tmp_path):
    base.set_attn_implementation("eager")
    base.config.update({"use_cache": False, "pad_token_id": 5, "dtype": torch.bfloat16})
    base.generation_config.temperature = 0.3
    loaded = assert_comes_back(peft.get_peft_model(base, lora()), tmp_path / "voice")
    assert loaded.config == base.config and loaded.generation_config == base.generation_config
    assert loaded.config.use_cache is False and loaded.config._attn_implementation == "eager"


def test_the_implementation_of_experts_that_was_set_in_the_base_comes_back(tmp_path):
    serialise(architectures.build("MixtralForCausalLM"), tmp_path / "base")
    base = deserialise(tmp_path / "base")
    base.set_experts_implementation("batched_mm")
    serialise(peft.get_peft_model(base, lora()), tmp_path / "voice")
    assert deserialise(tmp_path / "voice").config._experts_implementation == "batched_mm"


def test_what_peft_itself_sets_in_the_base_is_no_change(base, tmp_path):
    base.config.pretraining_tp = 2
    serialise(base, tmp_path / "base")
    model = peft.get_peft_model(deserialise(tmp_path / "base"), lora())
    loaded = assert_comes_back(model, tmp_path / "voice")
    assert loaded.config.pretraining_tp == model.config.pretraining_tp == 1
    assert '"changed": {}' in (tmp_path / "voice" / "model.json").read_text()


def test_a_setting_that_json_does_not_keep_is_refused_by_its_name(base, tmp_path):
    base.config.id2label = {0: "no", 1: "yes"}
    with pytest.raises(
        UnsupportedModel, match=r"to what JSON does not keep: id2label = .*Save the base with"
    ):
        serialise(peft.get_peft_model(base, lora()), tmp_path / "voice")


def test_a_manifest_sets_nothing_of_the_librarys_own_in_the_base(base, tmp_path):
    base.config.use_cache = False
    serialise(peft.get_peft_model(base, lora()), tmp_path / "voice")
    path = tmp_path / "voice" / "model.json"
    path.write_text(path.read_text().replace('"use_cache": false', '"_attn_implementation_internal": "evil"'))
    assert deserialise(tmp_path / "voice").config._attn_implementation == "sdpa"


@pytest.mark.parametrize("loaded_from", ["base", "link"])
@pytest.mark.parametrize("destination", ["base", "link"])
def test_adapters_do_not_take_the_place_of_their_base(base, tmp_path, loaded_from, destination):
    serialise(base, tmp_path / "base")
    (tmp_path / "link").symlink_to("base")
    model = peft.get_peft_model(deserialise(tmp_path / loaded_from), lora())
    with pytest.raises(StorageError, match=f"{tmp_path}/base: cannot be replaced by a model that refers to"):
        serialise(model, tmp_path / destination, overwrite=True)
    assert_same_module(base, deserialise(tmp_path / "base", verify=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "link"]


def test_a_pipeline_does_not_take_the_place_of_the_base_of_its_adapters(tmp_path):
    from workbook.samples import tiny_stable_diffusion

    serialise(tiny_stable_diffusion(), tmp_path / "pipeline")
    pipeline = deserialise(tmp_path / "pipeline")
    pipeline.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"]), "style")
    with pytest.raises(StorageError, match=r"/pipeline: cannot be replaced .* saved in .*/pipeline/unet\."):
        serialise(pipeline, tmp_path / "pipeline", overwrite=True)
    assert verify(tmp_path / "pipeline")
    serialise(pipeline, tmp_path / "style")
    assert_same_module(pipeline.unet, deserialise(tmp_path / "style").unet)


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig", "PromptEncoderConfig"])
def test_what_learns_a_prompt_is_refused_and_nothing_is_written(base, tmp_path, kind):
    config = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with pytest.raises(UnsupportedModel, match=r"has adapters that learn a prompt .*save_pretrained\(\)"):
        serialise(peft.get_peft_model(base, config), tmp_path / "voice")
    assert not list(tmp_path.iterdir())


def test_what_computes_its_places_anew_is_refused_and_not_its_configuration_blamed(base, tmp_path):
    model = peft.get_peft_model(base, peft.ShiraConfig(target_modules=["q_proj"], r=2))
    with pytest.raises(
        UnsupportedModel, match=r"has adapters that compute anew .*\(SHIRA\).*PEFT's own format"
    ):
        serialise(model, tmp_path / "voice")
    assert not list(tmp_path.iterdir())


def test_a_configuration_that_peft_does_not_read_again_is_refused_while_saving(base, tmp_path):
    model = peft.get_peft_model(base, peft.IA3Config(target_modules=["q_proj"]))
    with pytest.raises(UnsupportedModel, match="PEFT writes and does not read again"):
        serialise(model, tmp_path / "voice")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "settings", "why"),
    [
        ("PromptTuningConfig", {"num_virtual_tokens": 4}, r"learn a prompt .*\(PROMPT_TUNING\)"),
        ("XLoraConfig", {"hidden_size": 32, "adapters": {"a": "x/y"}}, r"take in other models .*\(XLORA\)"),
        ("ShiraConfig", {"r": 2}, r"compute anew .*\(SHIRA\)"),
        ("ShadowConfig", {"shadow_model": "x/y"}, r"take in other models .*\(SHADOW\)"),
    ],
)
def test_a_configuration_that_would_bring_in_more_is_refused(base, tmp_path, kind, settings, why):
    if not hasattr(peft, kind):
        pytest.skip(f"the installed PEFT has no {kind}")
    serialise(peft.get_peft_model(base, lora()), tmp_path / "voice")
    getattr(peft, kind)(task_type="CAUSAL_LM", **settings).save_pretrained(tmp_path / "voice" / "adapter-0")
    with pytest.raises(CorruptFile, match=f"{tmp_path}/voice/adapter-0: asks for adapters that {why}"):
        deserialise(tmp_path / "voice")


def test_a_base_and_its_adapters_can_move_together(base, saved, tmp_path):
    folder = tmp_path / "here"
    serialise(base, folder / "base")
    model = shaken(peft.get_peft_model(deserialise(folder / "base"), lora()))
    serialise(model, folder / "voice")
    folder.rename(tmp_path / "there")
    assert_same_module(model, deserialise(tmp_path / "there" / "voice"))


def test_a_base_that_is_gone_or_another_is_refused_by_its_name(base, tmp_path):
    serialise(base, tmp_path / "base")
    serialise(shaken(peft.get_peft_model(deserialise(tmp_path / "base"), lora())), tmp_path / "voice")
    (tmp_path / "base").rename(tmp_path / "away")
    with pytest.raises(NotAModel, match=f"{tmp_path}/base: is gone: it is the base of {tmp_path}/voice"):
        deserialise(tmp_path / "voice")
    serialise(architectures.build("LlamaForCausalLM"), tmp_path / "base")
    with pytest.raises(SkeletonMismatch, match="is not the base that .*voice was saved with"):
        deserialise(tmp_path / "voice")


def test_a_base_that_was_never_saved_is_refused_and_nothing_is_written(tmp_path):
    model = peft.get_peft_model(architectures.build("LlamaForCausalLM"), lora())
    with pytest.raises(UnsupportedModel, match=r"has a base that was not loaded from a saved model"):
        serialise(model, tmp_path / "voice")
    assert not list(tmp_path.iterdir())


def test_a_changed_base_is_refused_and_the_change_named(base, tmp_path):
    model = peft.get_peft_model(base, lora())
    base.model.norm.weight.data = base.model.norm.weight.data * 2
    with pytest.raises(
        UnsupportedModel, match=r"has a base that is not what is saved in .*: model\.norm\.weight\."
    ):
        serialise(model, tmp_path / "voice")


def test_merged_and_scaled_adapters_are_refused(base, tmp_path):
    model = shaken(peft.get_peft_model(base, lora()))
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    layer.set_scale("default", 0.5)
    with pytest.raises(
        UnsupportedModel, match=r"scaled or switched one by one: .*layers\.0\.self_attn\.q_proj"
    ):
        serialise(model, tmp_path / "voice")
    layer.set_scale("default", 1)
    model.merge_adapter()
    with pytest.raises(UnsupportedModel, match=r"merged, scaled"):
        serialise(model, tmp_path / "voice")


def test_adapters_can_be_encrypted_on_a_plain_base(base, tmp_path):
    model = shaken(peft.get_peft_model(base, lora()))
    serialise(model, tmp_path / "voice", encryption=bytes(range(32)))
    assert_same_module(model, deserialise(tmp_path / "voice", encryption=bytes(range(32))))


def test_the_command_line_says_what_to_do_with_a_checkpoint_of_adapters(base, tmp_path):
    from helpers.checkpoint import open_checkpoint

    peft.get_peft_model(base, lora()).save_pretrained(tmp_path / "hf")
    with pytest.raises(
        UnsupportedModel, match=r"holds adapters without their base.*PeftModel\.from_pretrained"
    ):
        open_checkpoint(tmp_path / "hf")


def test_only_part_of_them_is_refused(base, tmp_path):
    serialise(peft.get_peft_model(base, lora()), tmp_path / "voice")
    with pytest.raises(SkeletonMismatch, match="loaded whole"):
        deserialise(tmp_path / "voice", only=lambda name: "lora_A" in name)


def test_reading_ahead_brings_the_base_too(base, saved, tmp_path):
    from helpers.storage import read_ahead

    serialise(peft.get_peft_model(base, lora()), tmp_path / "voice")
    files = {file for file, *_ in read_ahead._steps(str(tmp_path / "voice"))}
    assert {str(saved / "model.tensors"), str(tmp_path / "voice" / "model.tensors")} <= files


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("base.json", "fingerprint", "finger"),
        ("model.json", '"wrapper": "PeftModelForCausalLM"', '"wrapper": "AutoPeftModel"'),
        ("model.json", '"wrapper": "PeftModelForCausalLM"', '"wrapper": "LoraConfig"'),
        ("model.json", '"active": [', '"active": ["nobody", '),
        ("model.json", '"q_proj.base_layer.weight": "', '"q_proj.base_layer.weight": "no.'),
        ("model.json", '"changed": {', '"changes": {'),
        ("adapter-0/adapter_config.json", '"LORA"', '"NONE"'),
        ("adapter-0/adapter_config.json", '"megatron_config": null', '"megatron_config": {"a": 1}'),
    ],
)
def test_what_is_damaged_is_refused_in_a_sentence(base, tmp_path, file, old, new):
    serialise(peft.get_peft_model(base, lora()), tmp_path / "voice")
    path = tmp_path / "voice" / file
    text = path.read_text()
    old = old if old in text else old.removeprefix('"')
    assert old in text
    path.write_text(text.replace(old, new.removeprefix('"') if not old.startswith('"') else new))
    with pytest.raises((CorruptFile, SkeletonMismatch)) as caught:
        deserialise(tmp_path / "voice")
    assert str(tmp_path / "voice") in str(caught.value)
