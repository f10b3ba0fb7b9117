"""Diffusers models and whole pipelines come back exactly."""

import json
import shutil
from inspect import signature

import diffusers
import numpy as np
import pipelines
import pytest
import torch
from equality import assert_same_module, assert_same_tensor
from faulty import serving

from helpers import deserialise, inspect, serialise
from helpers.errors import CorruptFile, UnsupportedModel
from workbook import samples


def config_of(model):
    return {key: value for key, value in model.config.items() if not key.startswith("_")}


@pytest.mark.parametrize("name", pipelines.WITH_OUTPUTS)
def test_model_comes_back_with_equal_weights_config_and_outputs(tmp_path, name):
    model = pipelines.build(name)
    before = pipelines.outputs(model, name)
    serialise(model, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", device="cpu")
    assert_same_module(model, loaded)
    assert config_of(model) == config_of(loaded)
    after = pipelines.outputs(loaded, name)
    assert len(before) == len(after) > 0
    for one, other in zip(before, after, strict=True):
        assert_same_tensor(name, one, other)


@pytest.mark.slow
def test_every_class_that_can_be_built_small_comes_back_equal(tmp_path):
    done = []
    for cls in pipelines.model_classes():
        model = pipelines.small(cls)
        if model is None or not isinstance(model, diffusers.ConfigMixin):
            continue
        serialise(model, tmp_path / "m", overwrite=True, progress=False)
        loaded = deserialise(tmp_path / "m", device="cpu")
        assert_same_module(model, loaded)
        assert config_of(model) == config_of(loaded), cls.__name__
        done.append(cls.__name__)
    print(f"{len(done)} classes: {', '.join(done)}")
    assert len(done) >= 75


@pytest.mark.parametrize("name", pipelines.PIPELINES)
def test_pipeline_comes_back_and_draws_the_same(tmp_path, name):
    pipeline = pipelines.PIPELINES[name]()
    before = pipelines.draw(pipeline)
    saved = serialise(pipeline, tmp_path / "p")
    loaded = deserialise(tmp_path / "p", verify=True, device="cpu")
    assert type(loaded) is type(pipeline)
    assert config_of(loaded) == config_of(pipeline)
    assert loaded.components.keys() == pipeline.components.keys()
    for key, part in pipeline.components.items():
        again = loaded.components[key]
        if isinstance(part, torch.nn.Module):
            assert_same_module(part, again)
        elif part is None:
            assert again is None
        elif hasattr(part, "config"):
            assert type(part) is type(again)
            assert config_of(part) == config_of(again)
    assert np.array_equal(before, pipelines.draw(loaded))
    assert saved.tensors == sum(
        len({id(t) for t in [*part.parameters(), *part.buffers()]})
        for part in pipeline.components.values()
        if isinstance(part, torch.nn.Module)
    )


def test_a_pipeline_is_laid_out_as_diffusers_lays_it_out(tmp_path):
    pipeline = samples.tiny_stable_diffusion()
    serialise(pipeline, tmp_path / "p")
    pipeline.save_pretrained(tmp_path / "hf")
    ours, theirs = (json.loads((tmp_path / d / "model_index.json").read_text()) for d in ("p", "hf"))
    assert ours == theirs
    assert {path.name for path in (tmp_path / "p").iterdir() if path.is_dir()} == {
        path.name for path in (tmp_path / "hf").iterdir() if path.is_dir()
    }


def test_a_component_can_be_loaded_alone(tmp_path):
    pipeline = samples.tiny_stable_diffusion()
    serialise(pipeline, tmp_path / "p")
    assert_same_module(pipeline.unet, deserialise(tmp_path / "p" / "unet", device="cpu"))


def test_dtype_reaches_every_model_of_a_pipeline(tmp_path):
    serialise(samples.tiny_stable_diffusion(), tmp_path / "p")
    loaded = deserialise(tmp_path / "p", dtype=torch.bfloat16, device="cpu")
    assert {loaded.unet.dtype, loaded.vae.dtype, loaded.text_encoder.dtype} == {torch.bfloat16}


def test_a_pipeline_saved_over_another_replaces_it_whole(tmp_path):
    serialise(samples.tiny_stable_diffusion(), tmp_path / "p")
    serialise(pipelines.PIPELINES["ddpm"](), tmp_path / "p", overwrite=True)
    assert not (tmp_path / "p" / "vae").exists()
    assert isinstance(deserialise(tmp_path / "p"), diffusers.DDPMPipeline)


def test_a_pipeline_whose_write_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
    from helpers.weights import write as writing

    write, calls = writing.write, []

    def fail_at_third(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return write(*arguments, **options)

    monkeypatch.setattr(writing, "write", fail_at_third)
    from helpers.errors import StorageError

    with pytest.raises(StorageError, match="no space left"):
        serialise(samples.tiny_stable_diffusion(), tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_ones_own_is_refused_by_name(tmp_path):
    class Mine(diffusers.UNet2DModel):
        pass

    pipeline = pipelines.PIPELINES["ddpm"]()
    pipeline.register_modules(unet=Mine(**pipelines.WITH_OUTPUTS["UNet2DModel"][0]))
    with pytest.raises(UnsupportedModel, match=r"unet \(Mine\)|unet .*Mine"):
        serialise(pipeline, tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "entry",
    [["os", "system"], ["diffusers", "os"], ["diffusers", "UNet2DModel"], ["transformers", "pipeline"]],
)
def test_a_hostile_model_index_is_refused(tmp_path, entry):
    serialise(pipelines.PIPELINES["ddpm"](), tmp_path / "p")
    path = tmp_path / "p" / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scheduler": entry}))
    with pytest.raises(CorruptFile, match="no such class"):
        deserialise(tmp_path / "p")


@pytest.mark.parametrize("key", ["../b", "a/b", "/etc"])
def test_a_component_outside_the_directory_is_refused(tmp_path, key):
    serialise(pipelines.PIPELINES["ddpm"](), tmp_path / "p")
    serialise(pipelines.PIPELINES["ddpm"]().unet, tmp_path / "b")
    path = tmp_path / "p" / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps(index | {key: index["unet"]}))
    with pytest.raises(CorruptFile, match=r"model_index\.json: has a component"):
        deserialise(tmp_path / "p")


def test_a_component_that_the_pipeline_does_not_take_is_said(tmp_path):
    serialise(pipelines.PIPELINES["ddpm"](), tmp_path / "p")
    path = tmp_path / "p" / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"surprise": True}))
    with pytest.raises(CorruptFile, match=r"model_index\.json: cannot be read .*surprise"):
        deserialise(tmp_path / "p")


def test_damage_in_one_component_is_found_and_named(tmp_path):
    serialise(samples.tiny_stable_diffusion(), tmp_path / "p")
    path = tmp_path / "p" / "vae" / "model.tensors"
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CorruptFile, match=r"vae/model\.tensors.*1 of"):
        deserialise(tmp_path / "p", verify=True)
    path.unlink()
    with pytest.raises(CorruptFile, match=r"vae/model\.tensors: is missing"):
        deserialise(tmp_path / "p")


@pytest.mark.parametrize("key", [None, bytes(32)])
def test_a_component_of_another_pipeline_is_refused_at_every_load(tmp_path, key):
    """As after a copy that has replaced a part of the files."""
    pipeline = pipelines.PIPELINES["ddpm"]()
    serialise(pipeline, tmp_path / "p", encryption=key)
    with torch.no_grad():
        next(pipeline.unet.parameters()).add_(1)
    serialise(pipeline, tmp_path / "other", encryption=key)
    shutil.rmtree(tmp_path / "p" / "unet")
    shutil.copytree(tmp_path / "other" / "unet", tmp_path / "p" / "unet")
    with serving(tmp_path) as server:
        for source in (tmp_path / "p", f"{server.url}/p"):
            with pytest.raises(CorruptFile, match=r"unet/model\.json") as caught:
                deserialise(source, encryption=key, device="cpu")
    assert caught.value.remedy
    with pytest.raises(CorruptFile, match=r"unet/model\.json: does not belong to the manifest above it"):
        inspect(tmp_path / "p")


def test_a_replaced_activation_of_a_unet_is_refused_when_saved(tmp_path):
    model = pipelines.build("UNet2DModel")
    model.conv_act = torch.nn.ReLU()
    with pytest.raises(
        UnsupportedModel, match=r"other classes than its configuration builds: conv_act \(a ReLU\)"
    ):
        serialise(model, tmp_path / "m")


def test_a_layer_added_to_a_unet_is_refused_when_saved(tmp_path):
    unet = pipelines.build("UNet2DModel")
    unet.extra = torch.nn.Linear(2, 2)
    with pytest.raises(UnsupportedModel, match=r"extra\.bias, extra\.weight"):
        serialise(unet, tmp_path / "m")


def test_a_model_without_settings_comes_back(tmp_path):
    from diffusers.pipelines.deepfloyd_if import IFWatermarker

    model = IFWatermarker()
    model.watermark_image.copy_(torch.arange(62 * 62 * 4).reshape(62, 62, 4) % 256)
    serialise(model, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", device="cpu")
    assert type(loaded) is IFWatermarker
    assert_same_module(model, loaded)


def test_a_component_that_a_pipeline_makes_itself_when_it_gets_none_comes_back(tmp_path):
    """LongCatAudioDiTPipeline's scheduler is in its index, but not in its ``.components``."""
    import transformers
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    text = transformers.UMT5Config(vocab_size=96, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2)
    pipeline = diffusers.LongCatAudioDiTPipeline(
        vae=diffusers.LongCatAudioDiTVae(
            channels=8,
            c_mults=[1, 2],
            strides=[2, 2],
            latent_dim=4,
            encoder_latent_dim=8,
            downsampling_ratio=4,
        ),
        text_encoder=transformers.UMT5EncoderModel(text),
        tokenizer=transformers.PreTrainedTokenizerFast(tokenizer_object=words),
        transformer=diffusers.LongCatAudioDiTTransformer(
            dit_dim=16, dit_depth=1, dit_heads=2, dit_text_dim=16, latent_dim=4
        ),
    )
    pipeline.scheduler.register_to_config(shift=2.0)
    serialise(pipeline, tmp_path / "p")
    loaded = deserialise(tmp_path / "p", device="cpu")
    assert type(loaded.scheduler) is type(pipeline.scheduler)
    assert loaded.scheduler.config.shift == 2.0
    assert_same_module(pipeline.transformer, loaded.transformer)


def test_a_part_that_takes_the_place_of_none_comes_back(tmp_path):
    from transformers import CLIPImageProcessor

    pipeline = samples.tiny_stable_diffusion()
    pipeline.feature_extractor = CLIPImageProcessor(size={"shortest_edge": 20})
    vae, pipeline.vae = pipeline.vae, None
    pipeline.vae = vae
    assert pipeline.config.feature_extractor == (None, None)  # diffusers does not notice
    serialise(pipeline, tmp_path / "p")
    assert pipeline.config.feature_extractor == (None, None)  # and what is the user's stays as it is
    loaded = deserialise(tmp_path / "p", device="cpu")
    assert loaded.feature_extractor.to_dict() == pipeline.feature_extractor.to_dict()
    index = json.loads((tmp_path / "p" / "model_index.json").read_text())
    assert index["vae"] == ["diffusers", "AutoencoderKL"]


def test_what_a_pipeline_and_its_parts_were_told_besides_their_configuration_comes_back(tmp_path):
    import transformers
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    scheduler.set_shift(3.0)
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=2.5)
    guider.guidance_scale = 4.5
    parts = dict.fromkeys(signature(diffusers.HunyuanImagePipeline).parameters)
    parts |= {"tokenizer": transformers.PreTrainedTokenizerFast(tokenizer_object=words)}
    pipeline = diffusers.HunyuanImagePipeline(**parts | {"scheduler": scheduler, "guider": guider})
    pipeline.tokenizer.padding_side = "left"
    pipeline.tokenizer_max_length, pipeline.hf_device_map = 77, {"vae": "cpu"}
    serialise(pipeline, tmp_path / "p")
    loaded = deserialise(tmp_path / "p", device="cpu")
    assert loaded.scheduler.shift == 3.0 and loaded.scheduler.config.shift == 1.0
    assert loaded.guider.guidance_scale == 4.5 and loaded.tokenizer.padding_side == "left"
    assert loaded.tokenizer_max_length == 77
    # where it lay, and the state of a run, are no part of it
    assert loaded.hf_device_map is None and not hasattr(loaded.scheduler, "num_inference_steps")
    for each in (pipeline.scheduler, loaded.scheduler):
        each.set_timesteps(3)
    assert_same_tensor("sigmas", pipeline.scheduler.sigmas, loaded.scheduler.sigmas)


def test_the_labels_of_a_pipeline_come_back(tmp_path):
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=8, num_embeds_ada_norm=10
    )
    scheduler = diffusers.DDIMScheduler()
    vae = samples.tiny_stable_diffusion().vae
    pipeline = diffusers.DiTPipeline(transformer, vae, scheduler, id2label={3: "cat, kitty", 4: "dog"})
    assert pipeline.labels == {"cat": 3, "dog": 4, "kitty": 3}
    serialise(pipeline, tmp_path / "p")
    assert deserialise(tmp_path / "p", device="cpu").labels == pipeline.labels


def test_a_part_under_two_names_is_stored_once_and_comes_back_as_one(tmp_path):
    model, scheduler = pipelines.build("UNet2DConditionModel"), diffusers.UniPCMultistepScheduler()
    pipeline = diffusers.WanPipeline(None, None, None, scheduler, transformer=model, transformer_2=model)
    saved = serialise(pipeline, tmp_path / "p")
    assert saved.tensors == len([*model.parameters(), *model.buffers()])
    loaded = deserialise(tmp_path / "p", device="cpu", verify=True)
    assert loaded.transformer is loaded.transformer_2 and loaded.vae is None
    assert_same_module(model, loaded.transformer)
    assert config_of(loaded) == config_of(pipeline)


@pytest.mark.parametrize(
    "settings",
    [{"state": 3}, {"states": {"scheduler": 3}}, {"same": {"unet": "none"}}, {"same": 3}],
    ids=str,
)
def test_a_pipeline_with_a_manifest_that_cannot_be_true_is_refused(tmp_path, settings):
    serialise(samples.tiny_stable_diffusion(), tmp_path / "p")
    path = tmp_path / "p" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"settings": settings}))
    with pytest.raises(CorruptFile, match="cannot be read"):
        deserialise(tmp_path / "p")


def with_controls(controlnets):
    """A pipeline with every part of tiny_stable_diffusion, and ControlNets besides."""
    parts = samples.tiny_stable_diffusion().components
    return diffusers.StableDiffusionControlNetPipeline(
        **parts, controlnet=controlnets, requires_safety_checker=False
    )


def several(name):
    """Different models of one class, the first of which is in train mode."""
    first, second = pipelines.build(name), pipelines.build(name)
    with torch.no_grad():
        next(second.parameters()).mul_(2)
    return [first.train(), second, first]


def test_several_controlnets_come_back_in_their_pipeline(tmp_path):
    nets = several("ControlNetModel")
    pipeline = with_controls(nets)
    saved = serialise(pipeline, tmp_path / "p")
    loaded = deserialise(tmp_path / "p", device="cpu", verify=True)
    assert type(loaded.controlnet) is diffusers.MultiControlNetModel
    assert_same_module(pipeline.controlnet, loaded.controlnet)
    assert loaded.controlnet.nets[0] is loaded.controlnet.nets[2]
    models = [*nets[:2], pipeline.unet, pipeline.vae, pipeline.text_encoder]
    assert saved.tensors == sum(len([*model.parameters(), *model.buffers()]) for model in models)


@pytest.mark.parametrize(
    ("wrapper", "name"), [("MultiAdapter", "T2IAdapter"), ("SD3MultiControlNetModel", "ControlNetModel")]
)
def test_several_models_in_a_wrapper_come_back_alone(tmp_path, wrapper, name):
    model = getattr(diffusers, wrapper)(several(name)).eval()
    assert serialise(model, tmp_path / "m").family == "diffusers_several"
    loaded = deserialise(tmp_path / "m", device="cpu")
    assert_same_module(model, loaded)


@pytest.mark.parametrize(
    "change",
    [
        {"class_name": "diffusers.UNet2DModel"},
        {"settings": {}},
        {"settings": {"order": ["9"], "modes": [1, 1]}},
    ],
    ids=str,
)
def test_a_wrapper_with_a_manifest_that_cannot_be_true_is_refused(tmp_path, change):
    serialise(diffusers.MultiControlNetModel(several("ControlNetModel")), tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CorruptFile):
        deserialise(tmp_path / "m")


def test_a_wrapper_around_a_model_of_ones_own_is_refused_by_its_place(tmp_path):
    class Mine(diffusers.ControlNetModel):
        pass

    nets = [pipelines.build("ControlNetModel"), Mine(**pipelines.WITH_OUTPUTS["ControlNetModel"][0])]
    with pytest.raises(UnsupportedModel, match=r"1 \(.*Mine\)"):
        serialise(diffusers.MultiControlNetModel(nets), tmp_path / "m")


@pytest.mark.parametrize("name", ["MotifVideoPipeline", "HunyuanImagePipeline", "HunyuanVideo15Pipeline"])
@pytest.mark.parametrize("enabled", [True, False])
def test_a_guider_comes_back_as_it_was(tmp_path, name, enabled):
    kind = "AdaptiveProjectedMixGuidance" if "Image" in name else "ClassifierFreeGuidance"
    guider = getattr(diffusers, kind)(guidance_scale=2.5, stop=0.75)
    if not enabled:
        guider.disable()
    cls = getattr(diffusers, name)
    parts = dict.fromkeys(signature(cls).parameters)  # None of the large ones
    if "Video15" in name:  # asks its autoencoder how many channels it has
        parts["vae"] = diffusers.AutoencoderKLHunyuanVideo15(
            latent_channels=4, block_out_channels=(16,) * 5, layers_per_block=1
        )
    pipeline = cls(**parts | {"guider": guider, "scheduler": diffusers.FlowMatchEulerDiscreteScheduler()})
    serialise(pipeline, tmp_path / "p")
    loaded = deserialise(tmp_path / "p", device="cpu")
    assert type(loaded) is cls and type(loaded.guider) is type(guider)
    assert config_of(loaded.guider) == config_of(guider) | {"enabled": enabled}
    assert loaded.guider._enabled is enabled and loaded.guider._stop == 0.75
