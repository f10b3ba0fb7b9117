"""Shards: a process loads its part of a model, and nothing else is read."""

import os
import shutil
import sys

import architectures
import pytest
import torch
from equality import assert_same_module, assert_same_tensor
from faulty import serving
from torch import nn

from helpers import deserialise, serialise
from helpers.errors import SkeletonMismatch, UnsupportedModel
from helpers.storage import fetch
from workbook.bench import pagecache

pytestmark = pytest.mark.alone  # it looks at the page cache

KEY = bytes(32)


def build():
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(1000, 1000) for _ in range(8)])


def second_half(name):
    return int(name.partition(".")[0]) >= 4


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("only") / "m"
    serialise(build(), path)
    return path


def check(model, wanted=second_half):
    whole = build()
    for name, tensor in model.state_dict().items():
        if wanted(name):
            assert_same_tensor(name, whole.state_dict()[name], tensor)
        else:
            assert tensor.is_meta, name
    assert_same_module(whole[4:], model[4:])


@pytest.mark.parametrize("options", [{}, {"verify": True}, {"mapped": False}, {"dtype": None}])
def test_the_rest_stays_without_data(saved, options):
    check(deserialise(saved, skeleton=build, only=second_half, device="cpu", **options))


def test_a_skeleton_that_is_built_for_real_keeps_no_random_numbers(saved):
    def for_real():
        torch.zeros(1).item()
        if torch.empty(0).is_meta:
            raise RuntimeError("cannot be built on meta")
        return build()

    check(deserialise(saved, skeleton=for_real, only=second_half, device="cpu"))


class Reading(nn.Module):
    """Tensors outside the registers, and a constructor that cannot run on meta, or not even without its parameters."""

    def __init__(self, of_parameters):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        float((self.layer.weight if of_parameters else torch.ones(1)).detach().sum())
        self.table = torch.randn(3)
        self.listed = [nn.Parameter(torch.randn(2)), self.layer.bias, {"x": self.table}]


@pytest.mark.parametrize("of_parameters", [False, True])
def test_what_is_not_registered_keeps_no_random_numbers_either(tmp_path, of_parameters):
    model = Reading(of_parameters)
    serialise(model, tmp_path / "m")
    only = {"only": lambda name: name == "layer.weight", "device": "cpu"}
    loaded = deserialise(tmp_path / "m", skeleton=lambda: Reading(of_parameters), **only)
    assert_same_tensor("layer.weight", model.layer.weight, loaded.layer.weight)
    assert loaded.layer.bias.is_meta and loaded.table.is_meta and loaded.listed[0].is_meta
    assert isinstance(loaded.listed[0], nn.Parameter)
    assert loaded.listed[1] is loaded.layer.bias and loaded.listed[2]["x"] is loaded.table


@pytest.mark.skipif(sys.platform != "linux", reason="looks at the page cache as Linux shows it")
@pytest.mark.parametrize("mapped", [True, False])
def test_nothing_else_is_read_from_the_disk(tmp_path, mapped):
    serialise(build(), tmp_path / "m")
    path = tmp_path / "m" / "model.tensors"
    pagecache.evict(path)
    if pagecache.resident(path) > 0.02:
        pytest.skip("this filesystem keeps files in memory")
    only = {"only": lambda name: name.startswith("3."), "mapped": mapped}
    model = deserialise(tmp_path / "m", skeleton=build, device="cpu", **only)
    assert model[3].weight.sum() == build()[3].weight.sum()
    allowed = 0.15 if mapped else 0.45  # tensorizer reads by buffers, and the system ahead of it
    assert 0.12 < pagecache.resident(path) < allowed


@pytest.mark.slow
def test_nothing_else_is_read_from_the_network(saved, monkeypatch):
    monkeypatch.setattr(fetch, "_PIECES", (64 << 10, 64 << 10))
    size = os.path.getsize(saved / "model.tensors")
    for verify in (False, True):
        with serving(saved.parent) as server:
            url = f"{server.url}/m"
            check(deserialise(url, skeleton=build, only=second_half, device="cpu", verify=verify))
            ranges = [wanted[6:].split("-") for path, wanted in server.seen if path.endswith(".tensors")]
            read = sum(int(stop) - int(start) + 1 for start, stop in ranges)
        assert 0.5 * size <= read < 0.51 * size


def test_encrypted_parts(tmp_path):
    serialise(build(), tmp_path / "m", encryption=KEY)
    check(deserialise(tmp_path / "m", skeleton=build, only=second_half, device="cpu", encryption=KEY))


def test_a_tied_tensor_is_chosen_by_any_of_its_names(tmp_path):
    model = architectures.build("LlamaForCausalLM")
    model.lm_head.weight = model.model.embed_tokens.weight
    model.config.tie_word_embeddings = True
    serialise(model, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", device="cpu", only=lambda name: name == "lm_head.weight")
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert not loaded.lm_head.weight.is_meta
    assert loaded.model.norm.weight.is_meta


def test_parts_of_a_pipeline_go_by_their_names(tmp_path):
    from workbook.samples import tiny_stable_diffusion

    pipeline = tiny_stable_diffusion()
    serialise(pipeline, tmp_path / "p")
    names = lambda name: not name.startswith("vae/decoder")  # noqa: E731
    loaded = deserialise(tmp_path / "p", device="cpu", only=names)
    assert_same_module(pipeline.unet, loaded.unet)
    assert all(p.is_meta for p in loaded.vae.decoder.parameters())


def test_what_cannot_be_is_said(saved, tmp_path):
    with pytest.raises(SkeletonMismatch, match="only= chooses none of its 16 tensors"):
        deserialise(saved, skeleton=build, only=lambda name: False)
    shutil.copy(saved / "model.tensors", tmp_path / "bare.tensors")
    with pytest.raises(SkeletonMismatch, match="which is loaded whole"):
        deserialise(tmp_path / "bare.tensors", skeleton=build, only=second_half)
    from sklearn.linear_model import LinearRegression

    serialise(LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]), tmp_path / "e")
    with pytest.raises(UnsupportedModel, match="is loaded whole"):
        deserialise(tmp_path / "e", only=lambda name: True)


def test_a_component_of_which_nothing_is_wanted_stays_without_data(tmp_path):
    from workbook.samples import tiny_stable_diffusion

    pipeline = tiny_stable_diffusion()
    serialise(pipeline, tmp_path / "p")
    loaded = deserialise(tmp_path / "p", device="cpu", only=lambda name: name.startswith("unet/"))
    assert_same_module(pipeline.unet, loaded.unet)
    assert all(p.is_meta for p in loaded.vae.parameters())
    with pytest.raises(SkeletonMismatch, match="only= chooses none of its"):
        deserialise(tmp_path / "p", device="cpu", only=lambda name: name.startswith("nothing/"))


@pytest.mark.skipif(sys.platform != "linux", reason="looks at the page cache")
def test_of_a_component_of_which_nothing_is_wanted_nothing_is_read(tmp_path):
    from helpers.storage.page_cache import pull
    from workbook.bench.pagecache import evict, resident

    path = tmp_path / "file"
    path.write_bytes(os.urandom(8 << 20))
    evict(path)
    if resident(path) > 0.1:
        pytest.skip("this filesystem keeps files in memory")
    pull(path, spans=[])
    assert resident(path) < 0.1
