"""Our files are tensorizer files, and tensorizer's files load here."""

import os
import subprocess
import sys
from pathlib import Path

import architectures
import odd_modules
import pytest
import torch
from equality import assert_same_module, assert_same_tensor, bits
from tensorizer import TensorDeserializer, TensorSerializer
from torch import nn

from helpers import deserialise, deserialise_saved_model, serialise, serialise_model, verify
from helpers.errors import CorruptFile, SkeletonMismatch, UnsupportedModel
from helpers.format import layout
from helpers.format.layout import DTYPES
from helpers.weights import mapped as mapping
from helpers.weights import tensors, write


def model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30), nn.Sequential(nn.Linear(30, 7)))


def stock_file(module, path):
    serialiser = TensorSerializer(str(path))
    serialiser.write_module(module)
    serialiser.close()
    return path


@pytest.mark.parametrize("readers", [1, 8])
@pytest.mark.parametrize("verify", [False, True])
def test_stock_tensorizer_loads_our_file(tmp_path, readers, verify):
    module = model()
    serialise(module, tmp_path / "m")
    skeleton = model()
    for parameter in skeleton.parameters():
        nn.init.zeros_(parameter)
    with TensorDeserializer(
        str(tmp_path / "m" / "model.tensors"), device="cpu", num_readers=readers, verify_hash=verify
    ) as file:
        assert file.load_into_module(skeleton) == 9
    for name, tensor in module.state_dict().items():
        assert_same_tensor(name, tensor, skeleton.state_dict()[name])


def test_the_lines_of_the_readme_load_a_tied_model_by_stock_tensorizer(tmp_path):
    language_model = architectures.build("LlamaForCausalLM")
    serialise(language_model, tmp_path / "m")
    empty = architectures.build("LlamaForCausalLM", seed=1)
    readme = (Path(__file__).parents[2] / "helpers" / "README.md").read_text()
    (lines,) = [block for block in readme.split("```python")[1:] if "load_into_module" in block]
    lines = lines.partition("```")[0].replace("models/mine", str(tmp_path / "m"))
    exec(lines, {"model": empty})
    tokens = torch.arange(2, 10)[None]
    with torch.inference_mode():
        expected = language_model(input_ids=tokens).logits
        assert torch.equal(empty.cpu()(input_ids=tokens).logits, expected)
    assert empty.lm_head.weight is empty.model.embed_tokens.weight


def test_stock_tensorizer_filters_and_reads_our_file_lazily(tmp_path):
    module = odd_modules.Everything()
    serialise(module, tmp_path / "m")
    path = str(tmp_path / "m" / "model.tensors")
    with TensorDeserializer(path, device="cpu", lazy_load=True) as file:
        assert torch.equal(file[".scale"], module.scale)
        assert torch.equal(file["frozen.weight"], module.frozen.weight)
    with TensorDeserializer(path, device="cpu", filter_func=lambda name: "block" in name) as file:
        assert set(file) == {
            f"block.{part}"
            for part in (
                "0.weight",
                "0.bias",
                "1.weight",
                "1.bias",
                "1.running_mean",
                "1.running_var",
                "1.num_batches_tracked",
            )
        }


def test_attributes_are_out_of_the_sight_of_stock_tensorizer(tmp_path):
    module = odd_modules.Holder()
    module.plain = module.plain + 1
    serialise(module, tmp_path / "m")
    with TensorDeserializer(str(tmp_path / "m" / "model.tensors"), device="cpu") as file:
        file.load_into_module(odd_modules.Holder())
        assert set(file) == {".weight", ".table"}


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_every_type_agrees_with_stock_tensorizer(tmp_path, dtype):
    raw = torch.randint(0, 2 if dtype == "bool" else 256, (6 * DTYPES[dtype][1],), dtype=torch.uint8)
    tensor = raw.view(getattr(torch, dtype)).reshape(2, 3)
    write.write(tmp_path / "ours", {"x": ("buffer", tensor)})
    with TensorDeserializer(str(tmp_path / "ours"), device="cpu", verify_hash=True) as file:
        read = file[".x"].detach()
    assert read.dtype == tensor.dtype and torch.equal(bits(read), bits(tensor))
    serialiser = TensorSerializer(str(tmp_path / "stock"))
    serialiser.write_state_dict({"x": tensor})
    serialiser.close()
    raw_map = mapping.open_map(tmp_path / "stock", "stock")
    ((entry, _),) = layout.read_index(raw_map)
    assert_same_tensor("x", tensors.view(raw_map, entry), tensor)


@pytest.mark.parametrize("save", [serialise_model, stock_file])
def test_an_index_that_contradicts_the_records_is_damage_of_a_bare_file(tmp_path, save):
    """No hash covers the index, and a bare file has no manifest that would state it."""
    path = tmp_path / "bare.tensors"
    save(odd_modules.Everything(), path)
    names = [entry.name for entry, _ in layout.read_index(path.read_bytes())]
    assert verify(path).tensors == len(names)
    whole = bytearray(path.read_bytes())
    for place in (whole.index(b"scale"), whole.index(b"scale") + 5):  # a letter of the name, the kind
        damaged = whole.copy()
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CorruptFile, match=f"1 of {len(names)} tensors are damaged: "):
            verify(path)
    whole[layout.MARK_AT + 8] -= 1  # the number of tensors
    path.write_bytes(whole)
    with pytest.raises(CorruptFile, match="has an index of more tensors than it counts"):
        verify(path)


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("verify", [True, False])
def test_a_stock_file_loads_with_a_skeleton(tmp_path, mapped, verify):
    module = odd_modules.Everything().eval()
    path = stock_file(module, tmp_path / "stock.tensors")
    loaded = deserialise(
        path, skeleton=lambda: odd_modules.Everything().eval(), mapped=mapped, verify=verify, device="cpu"
    )
    assert_same_module(module, loaded)


@pytest.mark.parametrize("learns", [True, False])
def test_a_parameter_that_is_a_buffer_too_stays_both_and_as_frozen_as_the_skeletons(tmp_path, learns):
    def build():
        return odd_modules.BufferAndParameter().requires_grad_(learns)

    module = build()
    assert_same_module(module, deserialise(stock_file(module, tmp_path / "f"), skeleton=build, device="cpu"))


def test_a_stock_file_without_transient_buffers_keeps_the_skeletons(tmp_path):
    def build():  # not at the root: there stock tensorizer 2.12 drops persistent buffers too
        return nn.Sequential(odd_modules.Everything())

    module = build()
    serialiser = TensorSerializer(str(tmp_path / "f"))
    serialiser.write_module(module, include_non_persistent_buffers=False)
    serialiser.close()
    assert_same_module(module, deserialise(tmp_path / "f", skeleton=build))


def test_a_stock_file_whose_values_contradict_the_skeletons_ties_is_refused(tmp_path):
    path = stock_file(nn.ModuleDict({"first": nn.Linear(4, 4), "second": nn.Linear(4, 4)}), tmp_path / "f")
    with pytest.raises(SkeletonMismatch, match=r"second.weight and first.weight, second.bias and first.bias"):
        deserialise(path, skeleton=odd_modules.tied_blocks)


def test_a_misaligned_complex_tensor_of_a_stock_file_is_copied(tmp_path):
    module = nn.ParameterDict(
        {f"p{i}": nn.Parameter(torch.randn(3, dtype=torch.complex128)) for i in range(8)}
        | {"odd": torch.ones(3)}
    )
    path = stock_file(module, tmp_path / "f")
    offsets = [entry.offset for entry, _ in layout.read_index(path.read_bytes())]
    assert any(offset % 16 for offset in offsets)
    build = lambda: nn.ParameterDict({k: torch.empty_like(v) for k, v in module.items()})  # noqa: E731
    loaded = deserialise(path, skeleton=build)
    for name, parameter in module.items():
        assert loaded[name].data_ptr() % 16 == 0
        assert_same_tensor(name, parameter, loaded[name])


@pytest.mark.parametrize("writer", ["stock", "ours"])
def test_the_guides_loader_is_exact(tmp_path, writer):
    language_model = architectures.build("LlamaForCausalLM")
    language_model.generation_config.max_new_tokens = 7
    language_model.save_pretrained(tmp_path / "hf")
    path = tmp_path / "f.tensors"
    if writer == "stock":
        stock_file(language_model, path)
    else:
        assert serialise_model(language_model, path) is True
    loaded = deserialise_saved_model(path, tmp_path / "hf")
    assert_same_module(language_model, loaded)
    assert loaded.generation_config == language_model.generation_config
    assert not loaded.training and loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_the_guides_loader_takes_the_settings_of_generation_from_the_hub_too(tmp_path):
    """From the hub's own cache, since a test has no network."""
    language_model = architectures.build("LlamaForCausalLM")
    language_model.generation_config.max_new_tokens = 7
    for name, settings in {"with": language_model.generation_config, "without": None}.items():
        folder = tmp_path / "hub" / f"models--someone--{name}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        language_model.config.save_pretrained(folder / "snapshots" / ("0" * 40))
        if settings is not None:
            settings.save_pretrained(folder / "snapshots" / ("0" * 40))
    assert serialise_model(language_model, tmp_path / "f.tensors") is True
    code = """
import sys
from helpers import deserialise_saved_model
for name in ("with", "without"):
    print(deserialise_saved_model(sys.argv[1], f"someone/{name}").generation_config.max_new_tokens)
"""
    where = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    command = [sys.executable, "-c", code, str(tmp_path / "f.tensors")]
    done = subprocess.run(command, capture_output=True, text=True, env=where)
    assert done.stdout.split() == ["7", "None"], done.stderr


def test_the_guides_saver_logs_and_returns_false_and_leaves_the_old_file(tmp_path, caplog):
    path = tmp_path / "f.tensors"
    assert serialise_model(nn.Linear(2, 2), path)
    before = path.read_bytes()
    assert serialise_model(nn.LazyLinear(2), path) is False
    assert "lazy" in caplog.text
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_the_guides_saver_stores_each_name_of_a_memory_that_several_share(tmp_path):
    def build():
        module = nn.ModuleDict({"enc": nn.Linear(4, 3), "dec": nn.Linear(3, 4)})
        module.register_buffer("row", torch.zeros(4))
        return module

    module, path = build(), tmp_path / "f.tensors"
    module["dec"].weight = nn.Parameter(module["enc"].weight.detach().t())
    module.row = module["enc"].weight.detach()[1]
    assert serialise_model(module, path) is True
    assert_same_module(module, deserialise(path, skeleton=build))
    empty = build()
    with TensorDeserializer(str(path), device="cpu", verify_hash=True) as file:
        assert file.load_into_module(empty) == 5
    for name, tensor in module.state_dict().items():
        assert_same_tensor(name, tensor, empty.state_dict()[name])


def test_the_guides_saver_names_what_no_reader_of_its_file_would_find(tmp_path, caplog):
    module, path = nn.Linear(2, 2), tmp_path / "f.tensors"
    module.again = module.weight
    assert serialise_model(module, path) is True
    assert "not registered" not in caplog.text
    module.table, module.listed = torch.ones(2), [module.weight.detach()[0]]
    assert serialise_model(module, path) is True
    assert "leaves out tensors that are not registered: table, listed.0." in caplog.text
    with TensorDeserializer(str(path), device="cpu") as file:
        assert {name.removeprefix(".") for name in file} == {"weight", "bias"}


def test_the_guides_saver_keeps_parameters_that_lie_in_a_tensor_that_is_not_registered(tmp_path):
    def build():
        module = nn.Module()
        module.flat = torch.randn(12)
        module.first, module.second = nn.Parameter(module.flat[:6]), nn.Parameter(module.flat[6:])
        return module

    module, path = build(), tmp_path / "f.tensors"
    assert serialise_model(module, path) is True
    loaded = deserialise(path, skeleton=build)
    for name, tensor in module.state_dict().items():
        assert_same_tensor(name, tensor, loaded.state_dict()[name])


def test_an_encrypted_stock_file_is_refused_and_what_is_said_to_do_works(tmp_path):
    from tensorizer import DecryptionParams, EncryptionParams

    path, plain = tmp_path / "f.tensors", nn.Linear(2, 2)
    made = EncryptionParams.random()
    serialiser = TensorSerializer(str(path), encryption=made)
    serialiser.write_module(plain)
    serialiser.close()
    for key in (None, made.key):
        with pytest.raises(
            UnsupportedModel, match=r"encrypted by stock tensorizer.*DecryptionParams\.from_key"
        ):
            deserialise(path, skeleton=lambda: nn.Linear(2, 2), encryption=key)
    model = nn.Linear(2, 2)
    with TensorDeserializer(str(path), encryption=DecryptionParams.from_key(made.key)) as file:
        file.load_into_module(model)
    serialise(model, tmp_path / "m", encryption=made.key)
    again = deserialise(tmp_path / "m", skeleton=lambda: nn.Linear(2, 2), encryption=made.key, device="cpu")
    assert_same_module(plain, again)


def test_two_saves_of_one_model_are_the_same_bytes_aligned_and_small(tmp_path):
    module = odd_modules.Everything()
    serialise(module, tmp_path / "a")
    serialise(module, tmp_path / "b")
    one = (tmp_path / "a" / "model.tensors").read_bytes()
    assert one == (tmp_path / "b" / "model.tensors").read_bytes()
    assert all(entry.offset % 64 == 0 for entry, _ in layout.read_index(one))


@pytest.mark.slow
def test_more_tensors_than_the_stock_index_can_hold(tmp_path):
    names = [f"a_rather_long_name_of_a_tensor_{i}" for i in range(4000)]
    module = nn.ParameterDict({name: torch.full((1,), float(i)) for i, name in enumerate(names)})
    serialise(module, tmp_path / "m")
    loaded = deserialise(
        tmp_path / "m", skeleton=lambda: nn.ParameterDict({n: torch.empty(1) for n in names})
    )
    assert [loaded[name].item() for name in names] == list(range(4000))
    with TensorDeserializer(str(tmp_path / "m" / "model.tensors"), device="cpu") as file:
        assert file[f".{names[-1]}"].item() == 3999
    with pytest.raises(RuntimeError, match="Metadata overflow"):
        stock_file(module, tmp_path / "stock")
