"""Encrypted models: equal with the key, of no use without it, and clear words for every mistake."""

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import threading
import time

import architectures
import pytest
import torch
from equality import assert_same_module
from faulty import serving
from odd_modules import ALL as ODD
from tensorizer import TensorDeserializer
from tensorizer._crypt import PWHash
from torch import nn

import helpers
from helpers import deserialise, serialise
from helpers.errors import CorruptFile, EncryptionError, UnsupportedModel
from helpers.format import layout, manifest
from workbook.samples import tiny_stable_diffusion

KEY = bytes(range(32))
PHRASE = "correct horse battery staple"


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(200, 300), nn.BatchNorm1d(300), nn.Linear(300, 100))


def load(path, **options):
    return deserialise(path, **{"skeleton": build, "device": "cpu", "encryption": KEY} | options)


@pytest.fixture
def saved(tmp_path):
    serialise(build(), tmp_path / "m", encryption=KEY)
    return tmp_path / "m"


@pytest.mark.parametrize("key", [KEY, pytest.param(PHRASE, marks=pytest.mark.slow)])
def test_a_module_comes_back_equal(tmp_path, key):
    model = build()
    serialise(model, tmp_path / "m", encryption=key)
    assert_same_module(build(), model)  # tensorizer encrypts in place: not our model
    for verify in (False, True):
        assert_same_module(model, load(tmp_path / "m", encryption=key, verify=verify))
    assert helpers.verify(tmp_path / "m", encryption=key).tensors == 9


@pytest.mark.parametrize("name", sorted(ODD))
def test_odd_modules_come_back_equal(tmp_path, name):
    make = ODD[name]
    torch.manual_seed(0)
    model = make()
    serialise(model, tmp_path / "m", encryption=KEY)
    assert_same_module(model, load(tmp_path / "m", skeleton=make))


def test_language_models_pipelines_and_estimators_come_back_equal(tmp_path):
    from sklearn.datasets import load_iris
    from sklearn.ensemble import RandomForestClassifier

    model = architectures.build("LlamaForCausalLM")
    serialise(model, tmp_path / "l", encryption=KEY)
    assert_same_module(model, deserialise(tmp_path / "l", encryption=KEY, device="cpu"))
    pipeline = tiny_stable_diffusion()
    serialise(pipeline, tmp_path / "p", encryption=KEY)
    assert_same_module(pipeline.unet, deserialise(tmp_path / "p", encryption=KEY, device="cpu").unet)
    data, target = load_iris(return_X_y=True)
    forest = RandomForestClassifier(n_estimators=10, random_state=0).fit(data, target)
    serialise(forest, tmp_path / "e", encryption=KEY)
    loaded = deserialise(tmp_path / "e", encryption=KEY)
    assert (loaded.predict_proba(data) == forest.predict_proba(data)).all()
    assert helpers.verify(tmp_path / "p").tensors == len(helpers.inspect(tmp_path / "p").tensors)


def test_neither_the_weights_nor_the_key_are_in_the_files(tmp_path):
    model = nn.Linear(64, 64)
    nn.init.constant_(model.weight, 0.7071)
    plain = model.weight.detach().numpy().tobytes()[:64]
    serialise(model, tmp_path / "plain")
    serialise(model, tmp_path / "key", encryption=KEY)
    serialise(model, tmp_path / "phrase", encryption=PHRASE)
    assert plain in (tmp_path / "plain" / "model.tensors").read_bytes()
    for name in ("key", "phrase"):
        whole = b"".join(path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file())
        assert plain not in whole
        assert KEY not in whole and KEY.hex().encode() not in whole and PHRASE.encode() not in whole
    assert not any(t.sha256 for t in helpers.inspect(tmp_path / "key").tensors)
    assert helpers.inspect(tmp_path / "phrase").encryption == "phrase".replace("phrase", "passphrase")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (None, "is encrypted. Pass encryption=, the key it was saved with"),
        (bytes(32), "cannot be decrypted"),
        (PHRASE, "was encrypted with a key of bytes"),
        (b"short", "takes a key of 32 bytes or a passphrase"),
        ("", "takes a key of 32 bytes or a passphrase"),
        (12, "takes a key of 32 bytes or a passphrase"),
    ],
)
def test_each_mistake_with_a_key_has_its_own_words(saved, key, said):
    with pytest.raises(EncryptionError, match=said) as caught:
        load(saved, encryption=key)
    assert caught.value.remedy
    assert KEY.hex() not in str(caught.value) and PHRASE not in str(caught.value)


@pytest.mark.slow
def test_a_wrong_passphrase_and_a_key_for_a_plain_model(tmp_path):
    serialise(build(), tmp_path / "m", encryption=PHRASE)
    with pytest.raises(EncryptionError, match="cannot be decrypted"):
        load(tmp_path / "m", encryption="wrong")
    serialise(build(), tmp_path / "plain")
    for path in (tmp_path / "plain", tmp_path / "plain" / "model.tensors"):
        with pytest.raises(EncryptionError, match="is not encrypted. Load it without encryption="):
            load(path)
    with pytest.raises(EncryptionError, match="is not encrypted"):
        helpers.verify(tmp_path / "plain", encryption=KEY)


@pytest.fixture(scope="module")
def phrased(tmp_path_factory):
    path = tmp_path_factory.mktemp("phrased") / "m"
    serialise(build(), path, encryption=PHRASE)
    return path


@pytest.fixture
def derived(monkeypatch):
    """The salts with which a key was made of a passphrase so far."""
    calls = []

    def count(self, *rest, real=PWHash.hash):
        calls.append(bytes(self.salt))
        return real(self, *rest)

    monkeypatch.setattr(PWHash, "hash", count)
    return calls


def test_a_load_makes_one_key_of_a_passphrase(phrased, derived):
    assert_same_module(build(), load(phrased, encryption=PHRASE, readers=8))
    assert len(derived) == 1  # not one a thread, with 256 MiB each


@pytest.mark.parametrize(
    ("field", "bit", "check"),
    [
        (0, 5, load),
        (0, 28, helpers.verify),  # Argon2 would take days, and no Ctrl-C ends it
        (8, 20, helpers.verify),
        (8, 48, load),
    ],
)
def test_a_damaged_cost_of_a_passphrase_names_the_tensor_and_is_never_paid(
    phrased, derived, tmp_path, field, bit, check
):
    path = shutil.copytree(phrased, tmp_path / "m") / "model.tensors"
    whole = bytearray(path.read_bytes())
    place = whole.index(struct.pack("<QQ", 3, 256 << 20)) + field  # of the first tensor
    whole[place + bit // 8] ^= 1 << bit % 8
    path.write_bytes(whole)
    with pytest.raises(CorruptFile, match=r"1 of 9 tensors are damaged: 0\.weight"):
        check(path.parent, encryption=PHRASE)
    assert len(set(derived)) == 1 and len(derived) <= 3


def test_too_little_memory_for_a_passphrase_is_no_damage(phrased, tmp_path):
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + (200 << 20), before[1]))
    try:
        for action in (
            lambda: load(phrased, encryption=PHRASE, readers=1),
            lambda: helpers.verify(phrased, encryption=PHRASE),
            lambda: serialise(build(), tmp_path / "new", encryption=PHRASE),
        ):
            with pytest.raises(EncryptionError, match="needs 256 MiB of memory to make a key") as caught:
                action()
            assert caught.value.remedy
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert not list(tmp_path.iterdir())


def test_it_is_never_mapped(saved):
    with pytest.raises(EncryptionError, match="is never mapped"):
        load(saved, mapped=True)


def test_libsodium_missing_is_said(tmp_path):
    code = """
import ctypes.util, sys
find = ctypes.util.find_library
ctypes.util.find_library = lambda name: None if "sodium" in name else find(name)
load = ctypes.CDLL.__init__
def refuse(self, name=None, *rest, **more):
    if name and "sodium" in str(name):
        raise OSError("no such library")
    load(self, name, *rest, **more)
ctypes.CDLL.__init__ = refuse
import torch
from helpers import serialise, deserialise
for action in (lambda: serialise(torch.nn.Linear(2, 2), sys.argv[1] + "/new", encryption=bytes(32)),
               lambda: deserialise(sys.argv[1] + "/m", encryption=bytes(32), skeleton=lambda: torch.nn.Linear(2, 2))):
    try:
        action()
    except Exception as error:
        print(type(error).__name__, error)
"""
    serialise(nn.Linear(2, 2), tmp_path / "m", encryption=bytes(32))
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    for line in lines:
        assert line.startswith("EncryptionError") and "libsodium, which is not installed" in line
    assert not (tmp_path / "new").exists()


def test_damage_is_named_with_the_key_and_found_without(saved):
    path = saved / "model.tensors"
    whole = bytearray(path.read_bytes())
    whole[-5000] ^= 1
    path.write_bytes(whole)
    for check in (load, lambda p: helpers.verify(p, encryption=KEY)):
        with pytest.raises(CorruptFile, match=r"1 of 9 tensors are damaged: 2\.weight"):
            check(saved)
    with pytest.raises(CorruptFile, match="is not what was saved"):
        helpers.verify(saved)


def test_truncation_and_another_models_file_are_noticed_without_a_key(saved, tmp_path):
    path = saved / "model.tensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(CorruptFile, match="is truncated"):
        load(saved)
    serialise(build(), tmp_path / "other", encryption=KEY)
    path.write_bytes((tmp_path / "other" / "model.tensors").read_bytes())
    with pytest.raises(CorruptFile, match="does not belong to the manifest"):
        load(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"encryption": ""},
        {"encryption": "rot13"},
        {"files": {}},
        {"length": 10},
    ],
)
def test_a_manifest_that_lies_about_encryption_is_refused(saved, change):
    path = saved / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CorruptFile):
        load(saved)


@pytest.mark.parametrize("cached", [False, True])
def test_it_is_loaded_over_the_network(saved, tmp_path, cached):
    options = {"cache": tmp_path / "cache"} if cached else {}
    with serving(tmp_path) as server:
        assert_same_module(build(), load(f"{server.url}/m", **options))
        with pytest.raises(EncryptionError, match="is encrypted"):
            load(f"{server.url}/m", encryption=None)
        with pytest.raises(EncryptionError, match="cannot be decrypted") as caught:
            load(f"{server.url}/m", encryption=bytes(32))
        if not cached:
            assert server.url in str(caught.value)
        assert helpers.verify(f"{server.url}/m").tensors == 9
        assert helpers.verify(f"{server.url}/m", encryption=KEY).tensors == 9
    assert not [name for name in os.listdir(tmp_path) if name.startswith("model-")]


@pytest.mark.parametrize("lengths", [True, False])
def test_it_is_verified_where_the_server_sends_no_parts(saved, tmp_path, lengths):
    with serving(tmp_path) as server:
        server.ranges, server.lengths = False, lengths
        assert helpers.verify(f"{server.url}/m").tensors == 9
        path = saved / "model.tensors"
        whole = bytearray(path.read_bytes())
        whole[-1] ^= 1
        path.write_bytes(whole)
        with pytest.raises(CorruptFile, match=r"/m/model\.tensors: is not what was saved"):
            helpers.verify(f"{server.url}/m")


def test_two_tensors_that_were_exchanged_are_noticed_by_whoever_compares_the_file_s_hash(tmp_path):
    """Each of them is what the key's owner encrypted, so decryption alone sees nothing."""
    model = nn.Sequential(nn.Linear(30, 30, bias=False), nn.Linear(30, 30, bias=False))
    exchanged = nn.Sequential(model[1], model[0])
    for name, one in {"m": model, "other": exchanged}.items():
        serialise(one, tmp_path / name, encryption=KEY)
    path, mark = tmp_path / "m" / "model.tensors", slice(layout.MARK_AT, layout.MARK_AT + 8)
    content = bytearray((tmp_path / "other" / "model.tensors").read_bytes())
    content[mark] = path.read_bytes()[mark]  # without it the file does not belong to the manifest
    path.write_bytes(content)
    build = {"skeleton": lambda: nn.Sequential(*(nn.Linear(30, 30, bias=False) for _ in range(2)))}
    assert_same_module(exchanged, load(tmp_path / "m", **build))
    for check in (
        lambda: load(tmp_path / "m", verify=True, **build),
        lambda: helpers.verify(tmp_path / "m"),
        lambda: helpers.verify(tmp_path / "m", encryption=KEY),
    ):
        with pytest.raises(CorruptFile, match="is not what was saved"):
            check()


def test_damage_beside_the_tensors_is_no_wrong_key(saved):
    path = saved / "model.tensors"
    whole = path.read_bytes()
    for at in (30, len(whole) - 3):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CorruptFile, match="is not what was saved|cannot read it"):
            helpers.verify(saved, encryption=KEY)


def test_damage_beside_the_tensors_is_noticed_by_a_load_that_compares_hashes(saved):
    path = saved / "model.tensors"
    whole = bytearray(path.read_bytes())
    whole[-3] ^= 1
    path.write_bytes(whole)
    assert_same_module(build(), load(saved))
    with pytest.raises(CorruptFile, match="is not what was saved"):
        load(saved, verify=True)


def test_an_interrupted_save_writes_nothing_into_files_that_are_opened_afterwards(tmp_path, monkeypatch):
    def late(descriptor, data, offset):
        time.sleep(0.2)
        return os.pwrite(descriptor, data, offset)

    def interrupt(_):
        time.sleep(0.1)  # meanwhile the first tensor is encrypted, and its threads are about to write it
        raise KeyboardInterrupt

    monkeypatch.setattr("tensorizer.TensorSerializer._pwrite_compat", staticmethod(late))
    monkeypatch.setattr("tensorizer.TensorSerializer._synchronize_pools", interrupt)
    with pytest.raises(KeyboardInterrupt):
        serialise(build(), tmp_path / "m", encryption=KEY)
    later = [tmp_path / str(number) for number in range(8)]
    opened = [
        os.open(path, os.O_WRONLY | os.O_CREAT) for path in later
    ]  # the system gives them the numbers that are free again
    for thread in threading.enumerate():
        if thread.name.startswith("Tensorizer"):
            thread.join(1)
    for number in opened:
        os.close(number)
    assert [path.stat().st_size for path in later] == [0] * 8


def test_more_tensors_than_the_index_of_an_encrypted_file_holds_are_refused_before_anything_is_written(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("tensorizer.TensorSerializer.write_tensor", None)
    many = nn.ParameterList([torch.zeros(1) for _ in range(7000)])
    with pytest.raises(
        UnsupportedModel, match=r"it would have 7,000 tensors, and 6,\d\d\d of them fill the index"
    ):
        serialise(many, tmp_path / "m", encryption=KEY)
    assert not list(tmp_path.iterdir())


def test_the_index_takes_as_many_bytes_as_are_counted_beforehand(tmp_path):
    serialise(build().bfloat16(), tmp_path / "m", encryption=KEY)
    entries = [entry for entry in manifest.read(tmp_path / "m").entries if entry.nbytes]
    whole, start = (tmp_path / "m" / "model.tensors").read_bytes(), layout.MARK_AT + 24
    end = start + sum(layout.index_lengths(entries))
    _, offset, length = struct.unpack("<QQQ", whole[end - 24 : end])
    assert (length, offset + length + 8) == (entries[-1].nbytes, len(whole))
    assert not any(whole[end : start + (256 << 10)])


def test_to_verify_with_the_key_keeps_no_tensor_that_was_decrypted(saved, monkeypatch):
    kept = []

    def decrypt(file, name, real=TensorDeserializer.__getitem__):
        kept.append(sum(held is not None for held in file._cache.values()))
        return real(file, name)

    monkeypatch.setattr(TensorDeserializer, "__getitem__", decrypt)
    assert helpers.verify(saved, encryption=KEY).tensors == 9
    assert kept == [0] * 9
