"""Transformers models of many architectures come back exactly."""

import json
import threading

import architectures
import numpy as np
import pytest
import torch
import transformers
from equality import assert_same_module, assert_same_tensor
from transformers.generation import SynthIDTextWatermarkingConfig

from helpers import deserialise, serialise
from helpers.errors import CorruptFile, SkeletonMismatch, UnsupportedModel

VOCABULARY = (
    "<cls>",
    "<pad>",
    "<eos>",
    "<unk>",
    *"LAGVSERTIDPKQNFYMHWCXBUZO",
    ".",
    "-",
    "<null_1>",
    "<mask>",
)


@pytest.mark.parametrize("name", architectures.ALL)
def test_architecture_comes_back_equal(tmp_path, name):
    model = architectures.build(name)
    before = architectures.outputs(model, name)
    serialise(model, tmp_path / "m")
    loaded = deserialise(tmp_path / "m")
    assert_same_module(model, loaded)
    assert model.config.to_dict() == loaded.config.to_dict()
    if hasattr(model, "generation_config"):
        assert model.generation_config == loaded.generation_config
    after = architectures.outputs(loaded, name)
    assert before and len(before) == len(after)
    for i, (one, other) in enumerate(zip(before, after, strict=True)):
        assert_same_tensor(f"output {i}", one, other)


def test_no_model_class_here_needs_to_be_built_for_real(tmp_path, monkeypatch):
    for way in ("_parameters_on_meta", "_for_real"):
        monkeypatch.setattr(f"helpers.modules.skeleton.{way}", None)
    for name in ("LlamaForCausalLM", "BertModel", "T5ForConditionalGeneration", "SwinForImageClassification"):
        serialise(architectures.build(name), tmp_path / name)
        deserialise(tmp_path / name)


def test_train_mode_frozen_parts_and_generation_settings_survive(tmp_path):
    model = architectures.build("LlamaForCausalLM").train()
    model.model.layers[0].requires_grad_(False).eval()
    model.generation_config.temperature = 0.3  # without do_sample, which save_pretrained refuses
    model.generation_config.max_new_tokens = 5
    serialise(model, tmp_path / "m")
    loaded = deserialise(tmp_path / "m")
    assert_same_module(model, loaded)
    assert loaded.training and not loaded.model.layers[0].training
    assert loaded.generation_config == model.generation_config


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("watermarking_config", SynthIDTextWatermarkingConfig(ngram_len=3, keys=[1, 2])),
        ("num_return_sequences", 4),  # without do_sample, which the library checks when it reads
        ("sequence_bias", {(10, 5): -2.0}),
        ("eos_token_id", torch.tensor(1)),
    ],
)
def test_a_setting_of_generation_that_would_not_come_back_is_refused_when_saved(tmp_path, setting, value):
    model = architectures.build("LlamaForCausalLM")
    setattr(model.generation_config, setting, value)
    said = f"LlamaForCausalLM: has settings of generation .*({setting}|Watermarking|Tensor)"
    with pytest.raises(UnsupportedModel, match=said):
        serialise(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_unusual_settings_of_generation_come_back_and_how_to_compile_is_left_out(tmp_path):
    model = architectures.build("LlamaForCausalLM")
    given = model.generation_config
    given.compile_config = transformers.CompileConfig(dynamic=True)
    given.sequence_bias, given.eos_token_id = [[[10, 5], -2.0]], (1, 2)
    given.temperature, given.language_codes = float("nan"), {"de": 1}  # one that the library does not know
    serialise(model, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", device="cpu").generation_config
    given.compile_config = None
    assert loaded == given and loaded._from_model_config == given._from_model_config
    assert loaded.language_codes == {"de": 1}


def test_mixed_types_and_a_changed_vocabulary_survive(tmp_path):
    model = architectures.build("LlamaForCausalLM").to(torch.bfloat16)
    model.model.norm.float()
    model.resize_token_embeddings(101)
    serialise(model, tmp_path / "m")
    assert_same_module(model, deserialise(tmp_path / "m"))


def test_attention_code_is_the_same(tmp_path):
    model = architectures.build("LlamaForCausalLM")
    model.set_attn_implementation("eager")
    serialise(model, tmp_path / "m")
    assert deserialise(tmp_path / "m").config._attn_implementation == "eager"


def test_a_cast_while_loading_equals_a_cast_by_from_pretrained(tmp_path):
    model = architectures.build("LlamaForCausalLM")
    serialise(model, tmp_path / "m")
    model.save_pretrained(tmp_path / "hf")
    wanted = type(model).from_pretrained(tmp_path / "hf", dtype=torch.bfloat16)
    loaded = deserialise(tmp_path / "m", dtype=torch.bfloat16)
    assert_same_module(wanted, loaded)
    assert loaded.config.dtype == wanted.config.dtype


@pytest.mark.parametrize("name", ["CLIPModel", "T5ForConditionalGeneration"])
def test_a_cast_while_loading_is_recorded_for_every_part_as_by_from_pretrained(tmp_path, name):
    if name in architectures.ALL:
        model = architectures.build(name)
    else:
        text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        vision = text | {"image_size": 16, "patch_size": 8, "projection_dim": 8}
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path / "hf")  # which notes the type of now
    model = type(model).from_pretrained(tmp_path / "hf")
    serialise(model, tmp_path / "m")
    wanted = type(model).from_pretrained(tmp_path / "hf", dtype=torch.bfloat16)
    loaded = deserialise(tmp_path / "m", device="cpu", dtype="bfloat16")
    kept = [vars(part)["config"].dtype for part in loaded.modules() if "config" in vars(part)]
    assert kept == [vars(part)["config"].dtype for part in wanted.modules() if "config" in vars(part)]
    assert set(kept) == {torch.bfloat16}
    assert loaded.config.to_dict() == wanted.config.to_dict() | {"_name_or_path": loaded.config._name_or_path}


def test_a_model_that_its_configuration_does_not_build_is_refused_when_saved(tmp_path):
    model = architectures.build("LlamaForCausalLM")
    model.model.adapter = torch.nn.Linear(32, 32)
    with pytest.raises(
        UnsupportedModel, match=r"the skeleton lacks model\.adapter\.bias, model\.adapter\.weight"
    ):
        serialise(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "a part that its library does not show"])
@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("id2label", {np.int64(0): "no", np.int64(1): "yes"}, "that JSON does not hold: id2label .*int64"),
        ("scale", np.float32(3), "that JSON does not hold: scale .*float32"),
        ("lock", threading.Lock(), "that JSON does not hold: lock "),
        ("names", {1: "a"}, r"whose keys JSON does not keep as they are: names\."),
        ("mixed", {1: "a", "b": "c"}, "that JSON does not hold: mixed "),
    ],
)
def test_a_setting_that_json_would_change_is_refused_when_saved(tmp_path, name, setting, value, said):
    if name in architectures.ALL:
        model = architectures.build(name)
    else:
        model = architectures.build("BartForConditionalGeneration").model.decoder
    setattr(model.config, setting, value)
    with pytest.raises(UnsupportedModel, match=f"has settings {said}"):
        serialise(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_unusual_settings_come_back(tmp_path):
    model = architectures.build("LlamaForCausalLM")
    model.config.id2label, model.config.label2id = {0: "no", 1: "yes"}, {"no": 0, "yes": 1}
    model.config.pair, model.config.table = (1, 2), {"a": {"b": 1}}
    serialise(model, tmp_path / "m")
    assert deserialise(tmp_path / "m", device="cpu").config.to_dict() == model.config.to_dict()


def pix2struct():
    text = {"hidden_size": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 64}
    vision = {"hidden_size": 16, "d_kv": 8, "d_ff": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Pix2StructConfig(text_config=text, vision_config=vision)
    return transformers.Pix2StructForConditionalGeneration(config).eval()


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("T5ForConditionalGeneration", {"tie_word_embeddings": False}),
        ("Qwen2ForCausalLM", {"sliding_window": 4, "use_sliding_window": False}),
        ("pix2struct", {"decoder_start_token_id": 5, "eos_token_id": 6, "pad_token_id": 7}),
        ("pix2struct", {"initializer_range": 0.05}),
        ("pix2struct", {"text_config.initializer_range": 0.05, "text_config.bounds": (1, float("nan"))}),
    ],
)
def test_a_setting_that_its_class_sets_anew_while_it_reads_comes_back(tmp_path, name, changed):
    model = pix2struct() if name == "pix2struct" else architectures.build(name)
    for path, value in changed.items():
        part, _, key = path.rpartition(".")
        setattr(getattr(model.config, part) if part else model.config, key, value)
    serialise(model, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", device="cpu", dtype="bfloat16")
    assert loaded.dtype == loaded.config.dtype == torch.bfloat16
    loaded = deserialise(tmp_path / "m", device="cpu")
    again = loaded.config.to_dict() | {"_name_or_path": model.config._name_or_path}
    assert json.dumps(again, sort_keys=True) == json.dumps(model.config.to_dict(), sort_keys=True)


def test_a_head_of_its_own_stays_so_when_the_vocabulary_of_a_loaded_model_grows(tmp_path):
    model = architectures.build("T5ForConditionalGeneration")
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    serialise(model, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", device="cpu")
    loaded.resize_token_embeddings(100)
    assert_same_tensor("head", model.lm_head.weight, loaded.lm_head.weight[:96])


def test_number_keys_within_a_part_are_refused_by_their_place_and_no_others(tmp_path):
    model = pix2struct()
    model.config.text_config.names = {1: "a"}
    with pytest.raises(UnsupportedModel, match=r"keys JSON does not keep as they are: text_config\.names\. "):
        serialise(model, tmp_path / "m")


def test_a_setting_that_can_neither_be_read_nor_set_again_is_refused_by_its_name(tmp_path):
    model = pix2struct()
    model.config.more = model.config.text_config.__class__()  # a part that its class does not know
    with pytest.raises(UnsupportedModel, match=r"does not read again as they are: more\. Undo"):
        serialise(model, tmp_path / "m")


def test_a_configuration_that_is_not_read_again_is_refused_as_the_one_in_memory(tmp_path):
    model = architectures.build("Qwen2ForCausalLM")
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1  # and of layer_types there are two
    said = r"Qwen2ForCausalLM: cannot be built from its configuration \(.*layer_types.*Undo what was changed"
    with pytest.raises(UnsupportedModel, match=f"(?s){said}"):
        serialise(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("said", [1, {":": 1}, {":.no_part": {"a": 1}}])
def test_a_damaged_description_of_settings_is_refused_in_a_sentence(tmp_path, said):
    serialise(architectures.build("LlamaForCausalLM"), tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    manifest = json.loads(path.read_text())
    manifest["settings"]["changed"] = said
    path.write_text(json.dumps(manifest))
    with pytest.raises(CorruptFile, match=r"m/model\.json: cannot be read"):
        deserialise(tmp_path / "m", device="cpu")


def replace_activation(model):
    model.bert.encoder.layer[1].intermediate.intermediate_act_fn = torch.nn.ReLU()
    return r"builds: bert\.encoder\.layer\.1\.intermediate\.intermediate_act_fn \(a ReLU\)"


def replace_dropout(model):
    model.dropout = torch.nn.Identity()
    return r"builds: dropout \(a Identity\)\."


def remove_dropout(model):
    model.dropout = None
    return r"builds: dropout \(none\)\."


def replace_head(model):
    class Scaled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model.classifier = Scaled(32, 3)
    return r"builds: classifier \(a Scaled\)\."


@pytest.mark.parametrize("change", [replace_activation, replace_dropout, remove_dropout, replace_head])
def test_a_part_of_another_class_with_the_same_tensors_is_refused_when_saved(tmp_path, change):
    model = architectures.build("BertForSequenceClassification")
    said = change(model)
    with pytest.raises(UnsupportedModel, match=f"has parts of other classes than its configuration {said}"):
        serialise(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_class_of_ones_own_needs_its_skeleton(tmp_path):
    import transformers

    class Mine(transformers.LlamaForCausalLM):
        pass

    config = architectures.build("LlamaForCausalLM").config
    model = Mine(config)
    assert serialise(model, tmp_path / "m").family == "torch_module"
    with pytest.raises(SkeletonMismatch, match="Pass skeleton="):
        deserialise(tmp_path / "m")
    assert_same_module(model, deserialise(tmp_path / "m", skeleton=lambda: Mine(config)))


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_part_that_its_library_does_not_show_is_loaded_without_a_skeleton(tmp_path, part):
    model = getattr(architectures.build("BartForConditionalGeneration").model, part)
    assert not hasattr(transformers, type(model).__name__)
    assert serialise(model, tmp_path / "m").family == "transformers"
    loaded = deserialise(tmp_path / "m", device="cpu")
    assert_same_module(model, loaded)
    inputs = {"input_ids": torch.arange(5, 21).reshape(2, 8)}
    with torch.no_grad():
        one, other = (m(**inputs).last_hidden_state for m in (model, loaded))
    assert_same_tensor("output", one, other)


def test_a_part_that_its_library_does_not_show_is_built_once_to_be_saved(tmp_path, monkeypatch):
    import helpers.families.transformers as family

    model, built, real = architectures.build("BartForConditionalGeneration").model.decoder, [], family._empty
    monkeypatch.setattr(family, "_empty", lambda *given: (built.append(given), real(*given))[1])
    assert serialise(model, tmp_path / "m").family == "transformers"
    assert len(built) == 1
    model.layers.append(model.layers[0])  # no longer what its configuration builds
    assert serialise(model, tmp_path / "more").family == "torch_module"
    assert len(built) == 2


def test_a_part_that_a_larger_model_gives_more_than_a_configuration_needs_its_skeleton(tmp_path):
    model = architectures.build("SwinForImageClassification").swin.encoder
    assert serialise(model, tmp_path / "m").family == "torch_module"
    with pytest.raises(SkeletonMismatch, match="SwinEncoder.*Pass skeleton="):
        deserialise(tmp_path / "m")


@pytest.mark.parametrize(
    "name",
    [
        "transformers.models.bart.modeling_bart.PreTrainedModel",
        "transformers.models.bart.modeling_bart.BartDecoderLayer",
        "transformers.models.bart.configuration_bart.BartConfig",
        "transformers.models.bart.modeling_absent.BartDecoder",
        "transformers.models.modeling_bart.BartDecoder",
        "transformers.utils.hub.modeling_bart.BartDecoder",
        "os.models.bart.modeling_bart.BartDecoder",
    ],
)
def test_a_hostile_name_of_a_part_is_refused(tmp_path, name):
    serialise(architectures.build("BartForConditionalGeneration").model.decoder, tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"class_name": name}))
    with pytest.raises(CorruptFile, match="no such class"):
        deserialise(tmp_path / "m")


def test_constants_that_a_model_makes_at_its_first_use_come_back(tmp_path):
    """EsmForProteinFolding registers them while it folds; they are not in its state dict."""
    structure = {"sequence_dim": 16, "pairwise_dim": 8, "ipa_dim": 4, "resnet_dim": 8, "num_heads_ipa": 2,
                 "num_blocks": 1, "num_resnet_blocks": 1}  # fmt: skip
    trunk = {"num_blocks": 1, "sequence_state_dim": 16, "pairwise_state_dim": 8, "sequence_head_width": 8,
             "pairwise_head_width": 4, "max_recycles": 1, "structure_module": structure}  # fmt: skip
    config = transformers.EsmConfig(
        vocab_size=33, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        mask_token_id=32, pad_token_id=1, is_folding_model=True, vocab_list=VOCABULARY,
        esmfold_config={"trunk": trunk, "fp16_esm": False},
    )  # fmt: skip
    model = transformers.EsmForProteinFolding(config).eval()
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        before = model(tokens).positions
    assert "default_frames" in dict(model.trunk.structure_module.named_buffers())
    serialise(model, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", device="cpu")
    assert_same_module(model, loaded)
    with torch.no_grad():
        assert_same_tensor("positions", before, loaded(tokens).positions)


def test_companions_come_along_and_load_by_their_own_means(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")
    tokenizer.chat_template = "{{ messages[0].content }}"
    serialise(architectures.build("LlamaForCausalLM"), tmp_path / "m", companions=[tokenizer])
    again = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert again("a b")["input_ids"] == tokenizer("a b")["input_ids"]
    assert again.chat_template == tokenizer.chat_template


def test_a_quantised_model_is_refused(tmp_path):
    model = architectures.build("LlamaForCausalLM")
    model.is_quantized = True  # as every quantiser of the library marks it
    with pytest.raises(UnsupportedModel, match="is quantised"):
        serialise(model, tmp_path / "m")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_model_is_equal_and_nothing_stays_behind(tmp_path):
    model = architectures.build("LlamaForCausalLM")
    serialise(model, tmp_path / "m")
    for mapped in (None, True):
        loaded = deserialise(tmp_path / "m", device="cuda", mapped=mapped)
        assert {t.device.type for t in [*loaded.parameters(), *loaded.buffers()]} == {"cuda"}
        assert_same_module(model, loaded)


def test_generation_settings_of_a_class_of_their_own_keep_it(tmp_path):
    text = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8,
            "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 4, "top_k_experts": 2,
            "moe_intermediate_size": 16}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
              "num_key_value_heads": 2, "head_dim": 16, "position_embedding_size": 64}  # fmt: skip
    config = transformers.DiffusionGemmaConfig(text_config=text, vision_config=vision)
    model = transformers.DiffusionGemmaForBlockDiffusion(config).eval()
    model.generation_config.max_denoising_steps = 7
    serialise(model, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", device="cpu")
    assert type(loaded.generation_config) is type(model.generation_config)
    assert type(loaded.generation_config) is not transformers.GenerationConfig
    assert loaded.generation_config.max_denoising_steps == 7
