"""Bad input ends in an error that names the path and the remedy, before anything is allocated."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import architectures
import pipelines
import pytest
import torch
from torch import nn

from helpers import deserialise, inspect, serialise, verify
from helpers.checkpoint import open_checkpoint
from helpers.errors import (
    CorruptFile,
    ModelError,
    NotAModel,
    SkeletonMismatch,
    StorageError,
    UnsupportedModel,
)
from helpers.modules.skeleton import buildable
from helpers.saved.publish import check_destination


def build():
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(20, 30), nn.BatchNorm1d(30))


@pytest.fixture
def saved(tmp_path):
    serialise(build(), tmp_path / "m")
    return tmp_path / "m"


def fails(error, path, match, **options):
    """The load fails with this error, in a message that names the path, says what and what to do."""
    with pytest.raises(error, match=match) as caught:
        deserialise(path, **{"skeleton": build, "device": "cpu"} | options)
    assert str(path) in str(caught.value)
    assert caught.value.problem and caught.value.remedy.endswith(".")


def test_no_such_path(tmp_path):
    fails(NotAModel, tmp_path / "absent", "does not exist")


def test_a_directory_without_a_manifest(tmp_path):
    fails(NotAModel, tmp_path, r"holds no saved model .*serialise\(model")


def test_a_hugging_face_directory_is_recognised(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    fails(NotAModel, tmp_path, "looks like a Hugging Face directory")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", "\x00\xff", "[" * 100_000, '{"format": 1}', '{"format": 1e400}']
)
def test_a_manifest_that_is_none(saved, text):
    (saved / "model.json").write_bytes(text.encode("latin-1"))
    fails(CorruptFile, saved, "model.json")


def test_a_manifest_of_a_future_version(saved):
    edit(saved, format=2)
    fails(CorruptFile, saved, r"is of format 2.*Update the helpers package")


def edit(saved, **fields):
    path = saved / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("mapped", [True, False])
def test_a_truncated_file(saved, keep, mapped):
    path = saved / "model.tensors"
    os.truncate(path, int(path.stat().st_size * keep))
    fails(CorruptFile, saved, "truncated|is empty|not a .tensors", mapped=mapped)


@pytest.mark.parametrize("lost", [12, 3000])  # a part of the last tensor, or of most
def test_a_file_that_is_cut_while_it_is_read(saved, monkeypatch, lost):
    from helpers.weights import private

    path, read = saved / "model.tensors", private.read

    def cut_and_read(*arguments):
        os.truncate(path, path.stat().st_size - lost)
        return read(*arguments)

    monkeypatch.setattr(private, "read", cut_and_read)
    fails(CorruptFile, saved, "is truncated", mapped=False)


def test_every_truncation_of_a_bare_file_is_noticed(saved, tmp_path):
    whole = (saved / "model.tensors").read_bytes()
    for length in range(0, len(whole) - 8, 37):
        (tmp_path / "bare").write_bytes(whole[:length])
        with pytest.raises((CorruptFile, NotAModel)):
            deserialise(tmp_path / "bare", skeleton=build)


def test_an_extended_file(saved):
    with open(saved / "model.tensors", "ab") as file:
        file.write(b"\0")
    fails(CorruptFile, saved, "extended")


@pytest.mark.parametrize("content", [b"PK\x03\x04" * 1000, b"|TZR", b"{}", bytes(5000)])
def test_a_foreign_file(saved, tmp_path, content):
    (saved / "model.tensors").write_bytes(content)
    fails(CorruptFile, saved, "not a .tensors file")
    (tmp_path / "bare").write_bytes(content)
    fails(NotAModel, tmp_path / "bare", "does not begin as")


def test_an_empty_bare_file(tmp_path):
    (tmp_path / "bare").touch()
    fails(CorruptFile, tmp_path / "bare", "is empty")


def test_missing_weights(saved):
    (saved / "model.tensors").unlink()
    fails(CorruptFile, saved, "model.tensors: is missing")


def test_a_bare_file_needs_a_skeleton(saved, tmp_path):
    shutil.copy(saved / "model.tensors", tmp_path / "bare.tensors")
    fails(SkeletonMismatch, tmp_path / "bare.tensors", "Pass skeleton=", skeleton=None)


@pytest.mark.parametrize("mapped", [True, False])
def test_a_flipped_bit_anywhere_in_a_record_is_found_by_verify_and_named(saved, mapped):
    path = saved / "model.tensors"
    whole = bytearray(path.read_bytes())
    entries = json.loads((saved / "model.json").read_text())["entries"]
    name, _, _, _, offset, _ = entries[0]
    for at in (offset - 10, offset, offset + 1000):
        damaged = whole.copy()
        damaged[at] ^= 4
        path.write_bytes(damaged)
        fails(CorruptFile, saved, f"1 of 7 tensors are damaged: {name}", verify=True, mapped=mapped)
        fails(CorruptFile, path, f"1 of 7 tensors are damaged: {name}", verify=True, mapped=mapped)


def test_verify_names_every_damaged_tensor(saved):
    path = saved / "model.tensors"
    whole = bytearray(path.read_bytes())
    for _, _, _, _, offset, _ in json.loads((saved / "model.json").read_text())["entries"][:2]:
        whole[offset] ^= 1
    path.write_bytes(whole)
    fails(CorruptFile, saved, r"2 of 7 tensors are damaged: 0\.bias, 0\.weight", verify=True)


def test_a_flipped_bit_in_the_index_is_found_without_verify(saved):
    path = saved / "model.tensors"
    whole = path.read_bytes()
    for at in range(5, 400, 7):
        damaged = bytearray(whole)
        damaged[at] ^= 16
        path.write_bytes(damaged)
        said = "states data version" if 5 <= at < 9 else "does not belong to the manifest"
        fails(CorruptFile, saved, said)


@pytest.mark.parametrize("version", [6, 99, 2**32 - 1])
def test_weights_of_a_future_version_are_said_to_be_that(saved, version):
    path = saved / "model.tensors"
    whole = bytearray(path.read_bytes())
    whole[5:9] = version.to_bytes(4, "little")
    path.write_bytes(whole)
    fails(CorruptFile, saved, rf"states data version {version}, .* Update the helpers package")
    fails(CorruptFile, path, f"states data version {version}, ")


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_weights_of_another_known_version_do_not_belong_to_the_manifest(saved, version):
    path = saved / "model.tensors"
    whole = bytearray(path.read_bytes())
    whole[5:9] = version.to_bytes(4, "little")
    path.write_bytes(whole)
    fails(CorruptFile, saved, "does not belong to the manifest")


def test_the_weights_of_another_model_of_the_same_shape_are_noticed_without_verify(saved, tmp_path):
    other = build()
    nn.init.ones_(other[0].weight)
    serialise(other, tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.tensors", saved / "model.tensors")
    fails(CorruptFile, saved, "does not belong to the manifest")


def entries_with(saved, **changes):
    rows = json.loads((saved / "model.json").read_text())["entries"]
    columns = ["name", "kind", "dtype", "shape", "offset", "sha256"]
    for column, value in changes.items():
        rows[1][columns.index(column)] = value
    return rows


HOSTILE_ENTRIES = {
    "offset beyond the file": {"offset": 10**15},
    "negative offset": {"offset": -64},
    "overlap": {"offset": 512},
    "float offset": {"offset": 1.5},
    "absurd shape": {"shape": [2**31, 2**31, 2**31]},
    "huge shape": {"shape": [2**40]},
    "negative shape": {"shape": [-1, -30]},
    "many dimensions": {"shape": [1] * 1000},
    "shape of text": {"shape": "ab"},
    "unknown type": {"dtype": "object"},
    "type as code": {"dtype": "__import__('os')"},
    "unknown kind": {"kind": "pickle"},
    "type in a list": {"dtype": ["float32"]},
    "kind in a list": {"kind": ["parameter"]},
    "no name": {"name": ""},
    "half a surrogate": {"name": "\ud800"},
    "name twice": {"name": "0.weight"},
    "other name": {"name": "elsewhere"},
    "row too short": None,
}


@pytest.mark.parametrize("case", HOSTILE_ENTRIES)
def test_hostile_entries_are_refused(saved, case):
    changes = HOSTILE_ENTRIES[case]
    rows = [["x"]] if changes is None else entries_with(saved, **changes)
    edit(saved, entries=rows)
    fails(CorruptFile, saved, "model.json|model.tensors")


@pytest.mark.parametrize(
    "fields",
    [
        {"length": 10**18},
        {"length": -1},
        {"length": "7"},
        {"fingerprint": "x"},
        {"fingerprint": "0" * 16},
        {"family": "os"},
        {"family": "../evil"},
        {"files": {"../../etc/passwd": "0"}},
        {"files": {"/etc/passwd": "0"}},
        {"files": {"absent.json": "0" * 64}},
        {"structure": {}},
        {"surprise": 1},
    ],
    ids=str,
)
def test_hostile_fields_are_refused(saved, fields):
    edit(saved, **fields)
    fails(CorruptFile, saved, "model.json|model.tensors|absent.json")


@pytest.mark.parametrize(
    "change",
    [
        {"aliases": {"a": "nothing"}},
        {"aliases": {"0.weight": "0.bias"}},
        {"aliases": {"a": ["x"]}},
        {"shared": {"a": "nothing"}},
        {"shared": {"0.weight": "0.bias"}},
        {"strides": {"0.weight": [10**15, 10**15]}},
        {"strides": {"0.weight": [1]}},
        {"strides": {"0.weight": "ab"}},
        {"strides": {"nothing": [1]}},
        {"frozen": [1]},
        {"training": "yes"},
    ],
    ids=str,
)
def test_hostile_structure_is_refused(saved, change):
    structure = json.loads((saved / "model.json").read_text())["structure"]
    edit(saved, structure=structure | change)
    fails(CorruptFile, saved, "model.json")


@pytest.mark.parametrize(
    "class_name",
    [
        "os.system",
        "transformers.os",
        "transformers.pipeline",
        "transformers.utils.import_utils.LazyModule",
        "transformers.LlamaConfig",
        "transformers.PreTrainedModel",
        "torch.nn.Linear",
        "transformers.",
        "",
        "evil_module.Model",
    ],
)
def test_a_class_outside_its_library_is_refused_and_not_imported(tmp_path, class_name):
    serialise(architectures.build("LlamaForCausalLM"), tmp_path / "m")
    edit(tmp_path / "m", class_name=class_name)
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    sys.path.insert(0, str(tmp_path))
    try:
        fails(CorruptFile, tmp_path / "m", "no such class of the installed", skeleton=None)
    finally:
        sys.path.remove(str(tmp_path))
    assert "evil_module" not in sys.modules


def test_a_damaged_configuration(tmp_path):
    serialise(architectures.build("LlamaForCausalLM"), tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    right = path.read_text()
    path.write_text(right.replace('"hidden_size": 32', '"hidden_size": 64'))
    fails(SkeletonMismatch, tmp_path / "m", "in the file", skeleton=None)
    fails(CorruptFile, tmp_path / "m", "config.json: is not what was saved", skeleton=None, verify=True)
    path.write_text("{")
    fails(CorruptFile, tmp_path / "m", "config.json: cannot be read", skeleton=None)
    path.unlink()
    fails(CorruptFile, tmp_path / "m", "config.json: is missing", skeleton=None)


@pytest.mark.parametrize(
    ("kind", "name", "old", "reason"),
    [
        (architectures, "LlamaForCausalLM", "silu", "KeyError: 'Nope'"),
        (pipelines, "UNet2DModel", "DownBlock2D", "ValueError: Nope does not exist"),
    ],
)
def test_a_configuration_that_its_class_cannot_build(tmp_path, kind, name, old, reason):
    serialise(kind.build(name), tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(path.read_text().replace(f'"{old}"', '"Nope"'))
    fails(CorruptFile, tmp_path / "m", rf"m: cannot be built .*\({reason}", skeleton=None)
    with pytest.raises(ZeroDivisionError):  # of the caller's own function
        deserialise(tmp_path / "m", skeleton=lambda: 1 / 0)


def test_a_model_that_its_configuration_no_longer_builds_is_refused_when_it_is_saved(tmp_path):
    language, drawing = architectures.build("LlamaForCausalLM"), pipelines.build("UNet2DModel")
    language.config.hidden_act = "Nope"
    drawing.register_to_config(down_block_types=("Nope", "AttnDownBlock2D"))
    for model in (language, drawing):
        with pytest.raises(UnsupportedModel, match=rf"{type(model).__name__}: cannot be built .*Nope"):
            serialise(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(importlib.util.find_spec("natten") is not None, reason="natten is installed")
def test_a_package_that_a_class_needs_besides_is_named(tmp_path):
    serialise(architectures.build("LlamaForCausalLM"), tmp_path / "m")
    edit(tmp_path / "m", class_name="transformers.DinatModel", settings={})
    (tmp_path / "m" / "config.json").write_text('{"model_type": "dinat"}')
    fails(UnsupportedModel, tmp_path / "m", "DinatModel requires the natten .*pip install", skeleton=None)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, torch.OutOfMemoryError])
def test_what_no_configuration_is_to_blame_for_passes(error):
    with pytest.raises(error), buildable("m", CorruptFile, "Restore it."):
        raise error


def test_a_destination_that_exists_is_kept(saved):
    before = (saved / "model.tensors").read_bytes()
    with pytest.raises(StorageError, match="exists already.*overwrite=True") as caught:
        serialise(nn.Linear(2, 2), saved)
    assert str(saved) in str(caught.value)
    assert (saved / "model.tensors").read_bytes() == before
    serialise(nn.Linear(2, 2), saved, overwrite=True)
    assert deserialise(saved, skeleton=lambda: nn.Linear(2, 2)).weight.shape == (2, 2)


def test_an_empty_directory_may_be_filled_and_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    serialise(nn.Linear(2, 2), tmp_path / "link")
    serialise(nn.Linear(3, 3), tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "model.json").is_file()


def test_overwriting_never_destroys_a_file_that_no_save_has_written(saved):
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"notes\.txt.*Move these away"):
        serialise(nn.Linear(2, 2), saved, overwrite=True)
    assert (saved / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "v1/model.tensors"])
def test_overwriting_spares_what_only_bears_a_name_that_other_saves_write(saved, name):
    (saved / name).parent.mkdir(exist_ok=True)
    (saved / name).write_text("mine")
    with pytest.raises(StorageError, match=f"no save has written: {name}"):
        serialise(build(), saved, overwrite=True)
    (saved / "model.json").write_text("{")
    if "/" in name:
        with pytest.raises(StorageError, match=f"no save has written: {name}"):
            serialise(build(), saved, overwrite=True)
    assert (saved / name).read_text() == "mine"


def test_a_damaged_model_can_be_overwritten_but_not_its_neighbours(saved):
    (saved / "model.json").write_text("{")
    serialise(build(), saved, overwrite=True)
    deserialise(saved, skeleton=build)
    (saved / "model.json").write_text('{"weights": "of another program"}')
    (saved / "shard1.bin").write_text("its weights")
    with pytest.raises(StorageError, match=r"no save has written: shard1\.bin"):
        serialise(build(), saved, overwrite=True)
    (saved / "model.json").unlink()
    with pytest.raises(StorageError, match=r"model\.tensors, shard1\.bin"):
        serialise(build(), saved, overwrite=True)


def test_a_destination_that_is_a_file(tmp_path):
    (tmp_path / "f").write_text("x")
    with pytest.raises(StorageError, match="exists and is a file"):
        serialise(nn.Linear(2, 2), tmp_path / "f", overwrite=True)


def test_an_address_of_s3_that_would_be_read_as_a_file_is_refused_before_anything_is_written(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)  # not even asked
    said = r"^s3://models/mine\.tensors: ends in \.tensors, so it would be read"
    with pytest.raises(StorageError, match=said):
        serialise(build(), "s3://models/mine.tensors")
    with pytest.raises(StorageError, match=said):  # as the command line asks, before it loads
        check_destination("s3://models/mine.tensors", overwrite=False)


def test_companions_that_would_overwrite_each_other_are_refused(tmp_path):
    class Companion:
        def __init__(self, text):
            self.text = text

        def save_pretrained(self, folder):
            os.makedirs(folder, exist_ok=True)
            Path(folder, "part.json").write_text(self.text)

    serialise(nn.Linear(2, 2), tmp_path / "a", companions=[Companion("1"), Companion("1")])
    assert (tmp_path / "a" / "part.json").read_text() == "1"
    with pytest.raises(StorageError, match=r"part\.json: is written by the Companion"):
        serialise(nn.Linear(2, 2), tmp_path / "b", companions=[Companion("1"), Companion("2")])
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("name", ["model.json", "model.tensors", "sub/model.json", "sub/sub/model.tensors"])
def test_a_companion_that_writes_a_file_of_a_saved_model_is_refused(saved, name):
    class Companion:
        def save_pretrained(self, folder):
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).write_text("{}")

    with pytest.raises(StorageError, match=f"^{name}: is written by the Companion, and a saved model has"):
        serialise(build(), saved, companions=[Companion()], overwrite=True)
    assert deserialise(saved, skeleton=build, device="cpu")  # what was there before


def test_no_space_for_the_file_is_said_and_nothing_is_left(tmp_path):
    """A real limit of the operating system on the size of a file, met in the middle of the write."""
    code = f"""
import resource, signal, torch
from helpers import serialise
from helpers.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    serialise(torch.nn.Linear(1000, 1000), {str(tmp_path / "m")!r})
except StorageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "m: no space left while writing the model. The temporary files are removed" in done.stdout, done
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_before_anything_is_written(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small filesystem needs root")
    try:
        with pytest.raises(StorageError, match="4,004,000 bytes are needed"):
            serialise(nn.Linear(1000, 1000), place / "m")
        assert list(place.iterdir()) == []
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_no_permission_is_said(tmp_path):
    place = tmp_path / "closed"
    place.mkdir(mode=0o500)
    code = f"""
import os, torch
from helpers import serialise
from helpers.errors import StorageError
if os.geteuid() == 0:
    os.setuid(65534)  # root may write everywhere
try:
    serialise(torch.nn.Linear(2, 2), {str(place / "m")!r})
except StorageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Permission denied. Check the permissions" in done.stdout, done


@pytest.mark.parametrize("look", [deserialise, inspect, verify, open_checkpoint])
@pytest.mark.parametrize("ending", ["", ".tensors"])
def test_a_path_that_cannot_be_looked_at_is_said(tmp_path, look, ending):
    path = tmp_path / ("m" * 5000 + ending)
    with pytest.raises(StorageError, match="failed: File name too long. Check that") as caught:
        look(path)
    assert caught.value.path == str(path)


def test_a_file_of_a_manifest_that_cannot_be_looked_at_is_said(saved):
    edit(saved, files={"x" * 5000: "0" * 64})
    fails(StorageError, saved, "File name too long")


def test_a_directory_that_may_not_be_looked_into_is_a_sentence_on_the_command_line(tmp_path):
    (tmp_path / "closed" / "m").mkdir(parents=True)
    (tmp_path / "closed").chmod(0)
    code = f"""
import os
import helpers.checkpoint, helpers.inspect, helpers.serialise, helpers.verify
from helpers.__main__ import main
if os.geteuid() == 0:
    os.setuid(65534)  # root may look everywhere
path = {str(tmp_path / "closed" / "m")!r}
print([main(["inspect", path]), main(["verify", path]), main(["serialise", path, path + "2"])])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    (tmp_path / "closed").chmod(0o700)
    assert done.stdout == "[1, 1, 1]\n", done
    assert done.stderr.count("closed/m: looking for the ") == 3, done
    assert done.stderr.count("Permission denied. Check the permissions of this path.") == 3


def test_a_model_is_found_from_within(saved, monkeypatch):
    monkeypatch.chdir(saved)
    assert verify(".").tensors == 7


def test_errors_survive_pickling_between_processes():
    import pickle

    error = pickle.loads(pickle.dumps(CorruptFile("/m", "is damaged", "Fetch it again.")))
    assert isinstance(error, ModelError) and str(error) == "/m: is damaged. Fetch it again."


@pytest.mark.parametrize("key", ["grad_buffers", "attributes", "frozen", "transient"])
def test_a_structure_that_names_what_is_not_there_is_refused(saved, key):
    structure = json.loads((saved / "model.json").read_text())["structure"]
    edit(saved, structure=structure | {key: ["nothing"]})
    fails(CorruptFile, saved, r"model\.json: names 'nothing', which it does not hold")


@pytest.mark.parametrize(
    "change",
    [
        {"grad_buffers": ["tied"], "aliases": {"tied": "0.weight"}},
        {"grad_buffers": ["1.num_batches_tracked"]},
        {"grad_buffers": ["view"], "shared": {"view": "1.num_batches_tracked"}},
    ],
    ids=str,
)
def test_a_gradient_of_what_can_have_none_is_refused(saved, change):
    structure = json.loads((saved / "model.json").read_text())["structure"]
    edit(saved, structure=structure | change)
    fails(CorruptFile, saved, r"model\.json: gives '.+' a gradient, which it cannot have")


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.count = nn.Parameter(torch.arange(3), requires_grad=False)


def test_a_parameter_of_integers_that_is_not_frozen_is_refused(tmp_path):
    serialise(Counted(), tmp_path / "m")
    assert deserialise(tmp_path / "m", skeleton=Counted, device="cpu").count.tolist() == [0, 1, 2]
    structure = json.loads((tmp_path / "m" / "model.json").read_text())["structure"]
    edit(tmp_path / "m", structure=structure | {"frozen": []})
    fails(CorruptFile, tmp_path / "m", "gives 'count' a gradient, which it cannot have", skeleton=Counted)


def test_a_bare_file_whose_record_is_damaged_is_refused_by_inspect(saved, tmp_path):
    from helpers.format import layout

    raw = bytearray((saved / "model.tensors").read_bytes())
    (_, start), *_ = layout.read_index(raw)
    raw[start : start + 15] = b"\xff" * 15
    (tmp_path / "bare.tensors").write_bytes(raw)
    with pytest.raises(CorruptFile, match="has a record whose header cannot be read"):
        inspect(tmp_path / "bare.tensors")
