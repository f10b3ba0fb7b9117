"""What a caller gets wrong is said in one sentence, and what is plainly meant is understood."""

import logging
import re
import shutil
import sys
from pathlib import Path

import architectures
import pytest
import torch
from torch import nn

import helpers
from helpers import deserialise, serialise
from helpers.__main__ import main
from helpers.errors import ModelError, SkeletonMismatch, StorageError, UnsupportedModel


def build():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


@pytest.fixture
def saved(tmp_path):
    serialise(build(), tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize("name", ["float16", "torch.float16", torch.float16])
def test_a_type_is_given_by_name_or_as_torchs_own(saved, name):
    assert deserialise(saved, skeleton=build, device="cpu", dtype=name).weight.dtype == torch.float16


@pytest.mark.parametrize("dtype", ["float17", "int8", torch.int8, 16, "nn"])
def test_what_is_no_floating_point_type_is_refused(saved, dtype):
    with pytest.raises(ModelError, match="is no floating-point type of torch. Pass torch.bfloat16"):
        deserialise(saved, skeleton=build, dtype=dtype)


@pytest.mark.parametrize("device", ["gpu", "auto", "meta", "", 3.5])
def test_what_is_no_device_is_refused(saved, device):
    with pytest.raises(ModelError, match=r"is no device to load to\. Pass 'cpu', 'cuda'"):
        deserialise(saved, skeleton=build, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", [0, "cuda", "cuda:1", torch.device("cuda")])
def test_a_device_that_is_not_there_is_said_and_never_becomes_the_cpu(saved, device):
    with pytest.raises(ModelError, match="is not available here"):
        deserialise(saved, skeleton=build, device=device)


@pytest.mark.parametrize("mapped", [None, False])
@pytest.mark.parametrize("device", ["mps", "xpu", "hpu", "mtia"])
def test_a_device_of_another_kind_that_is_not_there_is_said_too(saved, device, mapped):
    if torch.accelerator.is_available() and torch.accelerator.current_accelerator().type == device:
        pytest.skip("it is there")
    with pytest.raises(ModelError, match=f"^{device}: is not available here. Pass device='cpu'"):
        deserialise(saved, skeleton=build, device=device, mapped=mapped)


@pytest.mark.parametrize("address", ["gs://bucket/m", "file:///tmp/m", "az://c/m"])
def test_an_unknown_kind_of_address_is_no_path(address):
    for action in (deserialise, helpers.inspect, helpers.verify, lambda where: serialise(build(), where)):
        with pytest.raises(StorageError, match=r"^\w+://: is no kind of address that is known here"):
            action(address)


@pytest.mark.parametrize(
    "address", ["s3://bucket/m", "https://user:geheim@host/m", "S3://bucket/m", "gs://b/m"]
)
@pytest.mark.parametrize("kind", [Path, lambda address: str(Path(address))])
def test_an_address_that_was_made_a_path_is_refused(address, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for action in (deserialise, helpers.inspect, helpers.verify, lambda where: serialise(build(), where)):
        with pytest.raises(
            StorageError, match=r"^\w+:/: is no path, .* Pass the address as a string"
        ) as error:
            action(kind(address))
        assert "geheim" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "address", ["s3://bucket/m.tensors", "https://host/m", "gs://b/m", Path("s3://bucket/m")]
)
def test_the_guides_own_function_takes_no_address_for_a_path(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert helpers.serialise_model(build(), address) is False
    assert list(tmp_path.iterdir()) == []


def test_a_path_with_a_colon_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in (Path("v:1/m"), Path("files3:/m"), tmp_path / "s3:" / "m"):
        serialise(build(), place)
        assert torch.equal(deserialise(place, skeleton=build, device="cpu").weight, build().weight)


@pytest.fixture
def no_boto3(tmp_path, saved, monkeypatch):
    """An environment without boto3, for this process and for one that fetches ahead; all other imports are done."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "boto3.py").write_text("raise ModuleNotFoundError('No boto3', name='boto3')")
    monkeypatch.syspath_prepend(tmp_path / "path")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "boto3", raising=False)
    monkeypatch.delitem(sys.modules, "helpers.storage.s3", raising=False)
    monkeypatch.delattr("helpers.storage.s3", raising=False)


@pytest.mark.usefixtures("no_boto3")
def test_what_is_in_s3_without_boto3_says_how_to_install_it(capsys):
    place = "s3://bucket/m"
    said = "s3://bucket/m: needs boto3, which is not installed. Install it: pip install 'model-loading-workbook[s3]'."
    for action in (deserialise, helpers.inspect, helpers.verify, lambda where: serialise(build(), where)):
        with pytest.raises(UnsupportedModel) as error:
            action(place)
        assert str(error.value) == said
    for command in ("verify", "inspect", "record"):  # the last one by `cold_start`
        assert main([command, place]) == 1
        assert capsys.readouterr().err.splitlines()[-1] == said


def test_a_tilde_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    serialise(build(), "~/m")
    assert (tmp_path / "m" / "model.json").is_file()
    assert torch.equal(deserialise("~/m", skeleton=build, device="cpu").weight, build().weight)
    assert helpers.verify("~/m").tensors == helpers.inspect("~/m").tensors.__len__() == 2


def test_the_weights_inside_a_saved_directory_name_the_directory(saved, tmp_path):
    loaded = deserialise(
        saved / "model.tensors", skeleton=lambda: build().requires_grad_(False), device="cpu"
    )
    assert loaded.weight.requires_grad, "which parameters are frozen stands in the manifest beside it"
    assert helpers.inspect(saved / "model.tensors").class_name.endswith("Linear")
    shutil.copy(saved / "model.tensors", tmp_path / "bare.tensors")
    loaded = deserialise(tmp_path / "bare.tensors", skeleton=lambda: build().requires_grad_(False))
    assert not loaded.weight.requires_grad, "a bare file does not say, so the skeleton does"


def test_a_save_says_that_its_model_needs_a_skeleton(tmp_path, caplog):
    model = architectures.build("SwinForImageClassification")
    with caplog.at_level(logging.INFO, logger="helpers"):
        whole = serialise(model, tmp_path / "whole")
        assert not caplog.messages and "skeleton" not in repr(whole) and not whole.needs_skeleton
        part = serialise(model.swin.encoder, tmp_path / "part")
    name = "transformers.models.swin.modeling_swin.SwinEncoder"
    assert caplog.messages == [
        f"{tmp_path / 'part'} holds a {name}, whose code is not stored: load it with deserialise(..., skeleton=...)"
    ]
    assert part.needs_skeleton and repr(part).endswith(" s, load it with skeleton=)")
    for saved in ("whole", "part", "part/model.tensors"):
        found = helpers.inspect(tmp_path / saved)
        assert found.needs_skeleton == (saved != "whole")
        assert ("load it with skeleton=" in repr(found)) == found.needs_skeleton
    (tmp_path / "part" / "model.tensors").rename(tmp_path / "bare.tensors")
    assert helpers.inspect(tmp_path / "bare.tensors").needs_skeleton


def test_a_skeleton_that_is_none_of_the_kind_is_refused(saved):
    for skeleton, said in (
        (lambda: None, r"skeleton\(\) gave a NoneType"),
        (lambda: {"a": 1}, r"skeleton\(\) gave a dict"),
        (build(), "needs a function as skeleton=, not a Linear"),
        (5, "needs a function as skeleton=, not an int"),
    ):
        with pytest.raises(SkeletonMismatch, match=said) as caught:
            deserialise(saved, skeleton=skeleton)
        assert str(saved) in str(caught.value)


@pytest.mark.parametrize("only", ["bert", ["bert"], 3])
def test_what_is_no_function_of_a_name_is_refused(saved, only):
    with pytest.raises(ModelError, match=r"^only=.* is no function of a tensor's name\. Pass .*lambda name:"):
        deserialise(saved, skeleton=build, only=only)


@pytest.mark.parametrize("trusted", ["__main__.Own", ["Own"], [nn.Linear], nn.Linear, None])
def test_what_is_no_list_of_full_names_is_refused_as_it_was_given(saved, tmp_path, trusted):
    said = re.escape(f"trusted={trusted!r}: is no list of full names of types")
    with pytest.raises(ModelError, match=said):
        deserialise(saved, skeleton=build, trusted=trusted)
    with pytest.raises(ModelError, match=said):
        serialise(build(), tmp_path / "more", trusted=trusted)


@pytest.mark.parametrize("companions", [["tok"], "tok", None, nn.Linear(2, 2)])
def test_a_companion_that_cannot_be_saved_is_refused_before_anything_is_made(tmp_path, companions):
    with pytest.raises(ModelError, match=r"^companions=.*Pass .* companions=\[tokenizer\]"):
        serialise(build(), tmp_path / "m", companions=companions)
    assert not (tmp_path / "m").exists()


def test_of_a_state_dict_the_module_is_asked_for(tmp_path):
    with pytest.raises(UnsupportedModel, match="OrderedDict: .* load it into its module first"):
        serialise(build().state_dict(), tmp_path / "m")


@pytest.mark.filterwarnings("ignore")
def test_what_is_scripted_or_traced_is_referred_to_torch(tmp_path):
    traced = torch.jit.trace(build(), torch.ones(1, 3))
    for model, place in ((torch.jit.script(build()), "the module itself"), (nn.Sequential(traced), "0")):
        with pytest.raises(
            UnsupportedModel, match=rf"{place} \(scripted or traced\)\. Save that by torch\.jit\.save"
        ):
            serialise(model, tmp_path / "m")


def test_errors_and_only_public_names_are_at_hand():
    assert helpers.ModelError is ModelError and issubclass(helpers.CorruptFile, helpers.ModelError)
    assert dir(helpers) == sorted(helpers.__all__)
    for american, british in (("serialize", "serialise"), ("deserialize", "deserialise")):
        with pytest.raises(AttributeError, match=f"Did you mean: '{british}'"):
            getattr(helpers, american)


def test_a_notebook_shows_the_sentence_and_no_frames(tmp_path):
    from IPython.testing.globalipapp import get_ipython, start_ipython

    shell = start_ipython() or get_ipython()
    shell.run_cell(f"from helpers import deserialise\ndeserialise({str(tmp_path / 'absent')!r})")
    with pytest.raises(ModelError) as caught:
        deserialise(tmp_path / "absent")
    assert caught.value._render_traceback_() == [f"NotAModel: {caught.value}"]


def test_a_passphrase_is_made_into_a_key_once_a_save(tmp_path, monkeypatch):
    from helpers.weights import keys

    made, real = [], keys._made
    monkeypatch.setattr(keys, "_made", lambda *given, **limits: made.append(1) or real(*given, **limits))
    serialise(build(), tmp_path / "m", encryption="a passphrase")
    assert len(made) == 1


def test_a_manifest_that_could_not_be_read_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.format.manifest.LIMIT", 500)
    with pytest.raises(ModelError, match="would be larger than 500 bytes"):
        serialise(build(), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_bar_of_a_successful_save_ends_at_its_end(tmp_path, monkeypatch):
    """A bar that stops short of its total is drawn red."""
    from helpers.weights import write

    bars = []
    real = write.progress_bar

    def remember(*arguments):
        bars.append(real(*arguments))
        return bars[-1]

    monkeypatch.setattr(write, "progress_bar", remember)
    logging.getLogger("tqdm")
    serialise(build(), tmp_path / "m")
    assert bars[0].total == 8 * 4
    counted = []
    monkeypatch.setattr(write, "progress_bar", lambda total, *_: _Bar(counted))
    serialise(build(), tmp_path / "n")
    assert sum(counted) == 8 * 4


class _Bar:
    def __init__(self, counted):
        self.update = counted.append

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_the_hint_for_an_adapter_model_is_one_that_can_work(tmp_path):
    wrapped = type("PeftModel", (nn.Linear,), {"__module__": "peft.peft_model"})
    serialise(wrapped(3, 2), tmp_path / "m")
    with pytest.raises(SkeletonMismatch, match="a function that loads the base model and wraps it as it was"):
        deserialise(tmp_path / "m")
