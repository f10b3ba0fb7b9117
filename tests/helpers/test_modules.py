"""Custom torch modules come back exactly, with ``skeleton=``."""

import copy
import pickle

import hidden
import odd_modules
import pytest
import torch
from equality import assert_same_module, assert_same_tensor
from torch import nn

from helpers import deserialise, serialise
from helpers.errors import ModelError, SkeletonMismatch, UnsupportedModel
from helpers.modules.restore import restore
from helpers.modules.structure import blank


@pytest.mark.parametrize("name", odd_modules.ALL)
@pytest.mark.parametrize("mapped", [True, False])
def test_odd_module_comes_back_equal(tmp_path, name, mapped):
    torch.manual_seed(1)
    module = odd_modules.ALL[name]()
    serialise(module, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=odd_modules.ALL[name], mapped=mapped, device="cpu")
    assert_same_module(module, loaded)


def test_running_statistics_and_outputs_survive(tmp_path):
    module = odd_modules.Everything()
    x = torch.arange(10)
    module(x)  # moves the running statistics
    module.eval()
    serialise(module, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=odd_modules.Everything)
    assert torch.equal(module(x), loaded(x))
    assert loaded.head.weight is loaded.embed.weight and loaded.again is loaded.block


@pytest.mark.parametrize(
    "name", ["lstm", "gru", "orthogonal", "weight_norm", "weight_norm_hook", "spectral_norm"]
)
def test_modules_with_derived_weights_compute_the_same(tmp_path, name):
    torch.manual_seed(2)
    module = odd_modules.ALL[name]().eval()
    serialise(module, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=odd_modules.ALL[name])
    x = torch.randn(3, 2, 4)
    one, other = module(x), loaded(x)
    one, other = (one, other) if isinstance(one, torch.Tensor) else (one[0], other[0])
    assert torch.equal(one, other)


def test_unregistered_tensors_and_their_identities_survive(tmp_path):
    module = odd_modules.Holder()
    module.plain = module.plain * 3  # no longer what the constructor makes
    serialise(module, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=odd_modules.Holder)
    assert torch.equal(loaded.plain, module.plain)
    assert loaded.original_table is loaded.table
    assert loaded.listed[0] is loaded.weight and loaded.listed[1]["table"] is loaded.table
    assert loaded.listed[2][0] is loaded.weight


def test_parameter_subclasses_and_marks_survive(tmp_path):
    serialise(odd_modules.Special(), tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=odd_modules.Special)
    assert type(loaded.weight) is odd_modules.SpecialParameter
    assert loaded.weight._no_weight_decay and loaded.bias._no_weight_decay


def test_which_unregistered_tensors_learn_comes_from_the_file(tmp_path):
    module = odd_modules.Unregistered()
    module.listed[0].requires_grad_(False)
    module.listed[1].requires_grad_(True)
    module.learned.requires_grad_(False)
    serialise(module, tmp_path / "m")
    assert_same_module(module, deserialise(tmp_path / "m", skeleton=odd_modules.Unregistered))


def test_a_frozen_parameter_that_is_a_buffer_too_is_frozen_and_both_after_loading(tmp_path):
    module = odd_modules.BufferAndParameter().requires_grad_(False)
    serialise(module, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=odd_modules.BufferAndParameter)
    assert loaded.weight is loaded.part.weight and not loaded.weight.requires_grad
    assert_same_module(module, loaded)


@pytest.mark.parametrize("learns", [True, False])
def test_a_parameter_that_an_older_version_stored_under_the_name_of_a_buffer_is_both_again(learns):
    module = odd_modules.BufferAndParameter()
    tensors = {"weight": ("buffer", torch.ones(2, 2)), "alone": ("buffer", torch.ones(2))}
    tensors |= {"part.bias": ("parameter", torch.ones(2))}
    structure = blank() | {
        "aliases": {"part.weight": "weight"},
        "grad_buffers": ["weight", "alone"] if learns else [],
    }
    restore(module, tensors, structure, "m")
    assert module.weight is module.part.weight and torch.equal(module.weight, torch.ones(2, 2))
    for parameter in (module.weight, module.alone):
        assert isinstance(parameter, nn.Parameter) and parameter.requires_grad == learns
    assert module.part.bias.requires_grad


def test_a_tensor_under_two_keys_of_one_name_comes_back_under_both(tmp_path):
    def build():
        module = nn.Module()
        module.named = {1: torch.rand(2)}
        module.named["1"] = module.named[1]
        return module

    module = build()
    serialise(module, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=build)
    assert loaded.named[1] is loaded.named["1"]
    assert torch.equal(loaded.named[1], module.named[1])


def test_memory_format_survives(tmp_path):
    module = odd_modules.channels_last()
    serialise(module, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=lambda: nn.Conv2d(3, 8, 3))
    assert loaded.weight.stride() == module.weight.stride() != (27, 9, 3, 1)


def test_ties_made_after_construction_are_restored(tmp_path):
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight = module[0].weight
    serialise(module, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    assert loaded[1].weight is loaded[0].weight


def test_parameters_over_one_memory_still_share_it(tmp_path):
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight.data = module[0].weight.data
    saved = serialise(module, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    assert saved.tensors == 3
    assert loaded[1].weight is not loaded[0].weight
    with torch.no_grad():
        loaded[0].weight.fill_(5)
    assert (loaded[1].weight == 5).all()


def test_untied_in_the_file_is_untied_after_loading(tmp_path):
    def tied():
        module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        module[1].weight = module[0].weight
        return module

    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    serialise(module, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=tied)
    assert_same_module(module, loaded)


def test_a_slot_set_later_and_a_slot_set_to_none_survive(tmp_path):
    module = odd_modules.Everything()
    module.unset = torch.ones(2)
    module.block[0].bias = None
    serialise(module, tmp_path / "m")
    assert_same_module(module, deserialise(tmp_path / "m", skeleton=odd_modules.Everything))


def test_a_module_that_cannot_be_built_on_meta_is_built_for_real_without_touching_the_random_state(tmp_path):
    module = odd_modules.ALL["orthogonal"]()
    serialise(module, tmp_path / "m")
    state = torch.random.get_rng_state()
    devices = []

    def skeleton():
        devices.append(torch.empty(0).device.type)
        return odd_modules.ALL["orthogonal"]()

    deserialise(tmp_path / "m", skeleton=skeleton)
    assert devices == ["meta", "cpu", "cpu"]  # on meta, all but the parameters for real, all for real
    assert torch.equal(state, torch.random.get_rng_state())


class Counting(nn.Module):
    """Reads a constant while it is built, as several models of torchvision and diffusers do, and keeps another."""

    def __init__(self):
        super().__init__()
        self.count = torch.tensor([2, 3]).prod().item()
        self.scale = hidden.Plain(torch.ones(self.count))
        self.register_buffer("mask", torch.zeros(self.count))
        self.net = nn.Linear(self.count, self.count)
        nn.init.ones_(self.mask)
        self.again = nn.Linear(self.count, self.count)
        self.again.weight = self.net.weight


def test_a_module_that_reads_constants_while_it_is_built_is_not_initialised(tmp_path, monkeypatch):
    module = Counting()
    module.scale = None  # what it keeps besides cannot be saved; the skeleton makes it again
    serialise(module, tmp_path / "m")
    real = []
    monkeypatch.setattr("torch.nn.init.kaiming_uniform_", lambda tensor, **_: real.append(not tensor.is_meta))
    monkeypatch.setattr("helpers.modules.skeleton._for_real", None)
    loaded = deserialise(tmp_path / "m", skeleton=Counting)
    assert_same_module(module, loaded)
    assert torch.equal(loaded.scale.table, torch.ones(6))
    assert real and not any(real)


@pytest.mark.parametrize("mapped", [True, False])
def test_a_loaded_model_trains_and_never_touches_the_file(tmp_path, mapped):
    module = nn.Linear(8, 4)
    serialise(module, tmp_path / "m")
    before = (tmp_path / "m" / "model.tensors").read_bytes()
    loaded = deserialise(tmp_path / "m", skeleton=lambda: nn.Linear(8, 4), mapped=mapped)
    optimiser = torch.optim.SGD(loaded.parameters(), lr=0.1)
    loaded(torch.ones(2, 8)).sum().backward()
    optimiser.step()
    assert not torch.equal(loaded.weight, module.weight)
    assert (tmp_path / "m" / "model.tensors").read_bytes() == before
    again = deserialise(tmp_path / "m", skeleton=lambda: nn.Linear(8, 4))
    assert torch.equal(again.weight, module.weight)


def test_a_loaded_model_pickles_copies_and_changes_type(tmp_path):
    module = odd_modules.Everything().eval()
    serialise(module, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=odd_modules.Everything)
    assert_same_module(module, pickle.loads(pickle.dumps(loaded)))
    assert len(pickle.dumps(loaded)) < 50_000  # each tensor with its own bytes, not the whole map
    assert_same_module(module, copy.deepcopy(loaded))
    assert_same_module(copy.deepcopy(module).to(torch.float64), loaded.to(torch.float64))


def test_a_loaded_model_outlives_its_file(tmp_path):
    module = nn.Linear(300, 300)
    serialise(module, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=lambda: nn.Linear(300, 300))
    serialise(nn.Linear(5, 5), tmp_path / "m", overwrite=True)
    (tmp_path / "m" / "model.tensors").unlink()
    assert torch.equal(loaded.weight, module.weight)


def test_a_loaded_model_can_be_saved_over_its_own_file(tmp_path):
    module = nn.Linear(300, 300)
    serialise(module, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=lambda: nn.Linear(300, 300))
    serialise(loaded, tmp_path / "m", overwrite=True)
    assert torch.equal(loaded.weight, module.weight)
    again = deserialise(tmp_path / "m", skeleton=lambda: nn.Linear(300, 300), verify=True)
    assert_same_module(module, again)


def test_dtype_casts_weights_and_leaves_integers_and_transient_buffers(tmp_path):
    module = odd_modules.Everything()
    serialise(module, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=odd_modules.Everything, dtype=torch.float16)
    assert {p.dtype for p in loaded.parameters()} == {torch.float16}
    assert loaded.block[1].running_mean.dtype == torch.float16
    assert loaded.steps.dtype == torch.int64 and loaded.mask.dtype == torch.float32
    assert_same_tensor("scale", loaded.scale, module.scale.to(torch.float16))
    assert loaded.head.weight is loaded.embed.weight


class Flat(nn.Module):
    """Parameters that lie in one plain tensor."""

    def __init__(self):
        super().__init__()
        self.flat = torch.rand(6)
        self.first = nn.Parameter(self.flat[:4].view(2, 2))
        self.second = nn.Parameter(self.flat[4:])


def test_dtype_casts_parameters_that_lie_in_a_tensor_that_is_not_registered(tmp_path):
    module = Flat()
    serialise(module, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", skeleton=Flat, dtype=torch.float16, device="cpu")
    for name in ("flat", "first", "second"):
        assert_same_tensor(name, getattr(module, name).half(), getattr(loaded, name))
    loaded.flat.zero_()
    assert not loaded.first.any() and not loaded.second.any()


def test_dtype_is_refused_where_a_buffer_that_keeps_its_type_lies_in_a_parameter(tmp_path):
    def build():
        module = nn.Linear(2, 2)
        module.register_buffer("row", module.weight.detach()[0], persistent=False)
        return module

    module = build()
    serialise(module, tmp_path / "m")
    with pytest.raises(ModelError, match=r"cannot be cast to torch\.float16.*: row and weight\."):
        deserialise(tmp_path / "m", skeleton=build, dtype="float16")
    assert_same_module(module, deserialise(tmp_path / "m", skeleton=build, device="cpu"))


class Tagged(torch.Tensor):
    """A class of its own that does nothing."""


class ExtraState(nn.Linear):
    def get_extra_state(self):
        return {"anything": 1}


def unsupported_cases():
    sparse = nn.Module()
    sparse.weight = nn.Parameter(torch.eye(3).to_sparse())
    nested = nn.Module()
    nested.both = nn.Parameter(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]))
    tagged = nn.Module()
    tagged.register_buffer("scale", torch.ones(2).as_subclass(Tagged))
    tagged.listed = [torch.ones(2).as_subclass(Tagged)]
    return {
        "lazy": (nn.Sequential(nn.LazyLinear(3)), ["0.weight (lazy", "0.bias (lazy"]),
        "meta": (nn.Linear(2, 2, device="meta"), ["weight (on the meta device", "bias (on the meta"]),
        "sparse": (sparse, ["weight (sparse"]),
        "nested": (nested, ["both (nested"]),
        "class": (tagged, ["scale (a Tagged, not", "listed.0 (a Tagged, not"]),
        "extra state": (nn.Sequential(ExtraState(2, 2)), ["0 (get_extra_state)"]),
    }


@pytest.mark.parametrize("case", ["lazy", "meta", "sparse", "nested", "class", "extra state"])
def test_what_cannot_be_saved_is_refused_by_name_and_leaves_nothing(tmp_path, case):
    module, named = unsupported_cases()[case]
    with pytest.raises(UnsupportedModel) as error:
        serialise(module, tmp_path / "m")
    for part in named:
        assert part in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_object_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(UnsupportedModel, match="builtins.dict"):
        serialise({"weight": torch.ones(2)}, tmp_path / "m")


def test_a_missing_skeleton_is_asked_for(tmp_path):
    serialise(odd_modules.Everything(), tmp_path / "m")
    with pytest.raises(SkeletonMismatch, match=r"skeleton=odd_modules.Everything\)"):
        deserialise(tmp_path / "m")


class Configured(nn.Linear):
    def __init__(self, config):
        super().__init__(config, config)


def test_a_class_that_takes_arguments_is_asked_for_in_a_lambda_and_its_type_error_is_said_to_be_its_own(
    tmp_path,
):
    serialise(Configured(2), tmp_path / "m")
    with pytest.raises(SkeletonMismatch, match=r"skeleton=lambda: \S+Configured\(\.\.\.\)\)"):
        deserialise(tmp_path / "m")
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'config'") as error:
        deserialise(tmp_path / "m", skeleton=Configured)
    (note,) = error.value.__notes__
    assert note.startswith(f"{tmp_path / 'm'}: skeleton() raised this") and "skeleton=lambda: My(" in note
    deserialise(tmp_path / "m", skeleton=lambda: Configured(2))


def test_every_difference_of_a_skeleton_is_listed(tmp_path):
    serialise(
        nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(3, 3), "n": nn.BatchNorm1d(2)}), tmp_path / "m"
    )

    def other():
        return nn.ModuleDict({"a": nn.Linear(2, 5), "c": nn.Linear(3, 3), "n": nn.BatchNorm1d(2)})

    with pytest.raises(SkeletonMismatch) as error:
        deserialise(tmp_path / "m", skeleton=other)
    message = str(error.value)
    assert "the skeleton lacks b.bias, b.weight" in message
    assert "the file lacks c.weight, c.bias" in message
    assert "a.weight ([2, 2] in the file, [5, 2] in the skeleton)" in message
    assert "a.bias ([2] in the file, [5] in the skeleton)" in message


def test_a_skeleton_that_shares_what_the_file_holds_apart_is_refused(tmp_path):
    serialise(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), tmp_path / "m")

    def shared():
        part = nn.Linear(2, 2)
        return nn.ModuleList([part, part])

    with pytest.raises(SkeletonMismatch, match="1.weight .the skeleton shares it with 0.weight"):
        deserialise(tmp_path / "m", skeleton=shared)


def test_of_many_differences_the_first_are_listed_and_the_others_counted(tmp_path):
    serialise(nn.Sequential(*(nn.Linear(2, 2) for _ in range(200))), tmp_path / "m")

    def other():
        return nn.ModuleDict({str(i): nn.Linear(3, 3) for i in range(100, 300)})

    with pytest.raises(SkeletonMismatch) as error:
        deserialise(tmp_path / "m", skeleton=other)
    assert error.value.problem.count(" … and ") == 3
    assert "the skeleton lacks 0.bias, 0.weight, 1.bias, " in error.value.problem
    assert "; the file lacks 200.weight, 200.bias, " in error.value.problem
    assert " … and 192 more; " in error.value.problem
    assert len(error.value.problem) < 1000


def test_what_is_none_in_the_file_is_not_missed_among_what_is_not(tmp_path):
    serialise(nn.Linear(2, 2, bias=False), tmp_path / "m")
    with pytest.raises(SkeletonMismatch, match=r"the skeleton lacks weight\. "):
        deserialise(tmp_path / "m", skeleton=nn.Module)

    def without_the_place():
        module = nn.Module()
        module.weight = nn.Parameter(torch.ones(2, 2))
        return module

    with pytest.raises(SkeletonMismatch, match=r"the skeleton lacks bias \(None in the file\)\. "):
        deserialise(tmp_path / "m", skeleton=without_the_place)


def test_a_parameter_where_the_file_has_a_buffer_is_refused(tmp_path):
    def with_buffer():
        module = nn.Module()
        module.register_buffer("x", torch.ones(2))
        return module

    def with_parameter():
        module = nn.Module()
        module.x = nn.Parameter(torch.ones(2))
        return module

    serialise(with_buffer(), tmp_path / "m")
    with pytest.raises(SkeletonMismatch, match="x .a buffer in the file, a parameter in the skeleton"):
        deserialise(tmp_path / "m", skeleton=with_parameter)


def test_a_skeleton_that_returns_no_module_and_one_that_raises(tmp_path):
    serialise(nn.Linear(2, 2), tmp_path / "m")
    with pytest.raises(SkeletonMismatch, match="gave a dict"):
        deserialise(tmp_path / "m", skeleton=dict)
    with pytest.raises(SkeletonMismatch, match="gave an int"):
        deserialise(tmp_path / "m", skeleton=int)

    def broken():
        raise KeyError("the user's own bug")

    with pytest.raises(KeyError, match="own bug") as error:
        deserialise(tmp_path / "m", skeleton=broken)
    assert "skeleton() raised this" in error.value.__notes__[0]
