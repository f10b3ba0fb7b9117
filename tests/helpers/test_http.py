"""Loading over HTTP: right, or a StorageError that says why; never half a model, never a hang."""

import base64
import contextlib
import logging
import shutil
import ssl
import subprocess
import tempfile
import time
from urllib.parse import unquote

import pytest
import torch
from equality import assert_same_module
from faulty import serving
from torch import nn

import helpers
from helpers import deserialise, serialise
from helpers.errors import CorruptFile, ModelError, NotAModel, SkeletonMismatch, StorageError
from helpers.storage import ahead, fetch
from helpers.storage import http as store
from helpers.storage.address import open_store
from workbook.samples.servers import nginx, web_server


def build(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(200, 300), nn.BatchNorm1d(300), nn.Linear(300, 100))


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_PIECES", (64 << 10, 64 << 10))  # several requests for a small model
    monkeypatch.setattr(fetch, "_PAUSE", 0.01)
    serialise(build(), tmp_path / "www" / "m")
    with serving(tmp_path / "www") as state:
        yield state


def load(state, **options):
    return deserialise(f"{state.url}/m", **{"skeleton": build, "device": "cpu"} | options)


def weights_requests(state):
    return [wanted for path, wanted in state.seen if path.endswith(".tensors")]


def test_it_comes_in_parts_by_several_readers(server):
    assert_same_module(build(), load(server, verify=True))
    assert len(weights_requests(server)) > 4


@pytest.mark.parametrize("fault", ["cut", "short", "500", "503", "429"])
def test_a_passing_fault_is_overcome(server, fault):
    server.faults = [None, fault, None, fault]
    assert_same_module(build(), load(server, verify=True))
    assert server.faults == []


def test_after_a_cut_only_the_rest_is_asked_for_again(server):
    server.faults = [None, "cut"]
    load(server, readers=1)
    starts = [int(wanted[6:].partition("-")[0]) for wanted in weights_requests(server)]
    assert 32 << 10 in starts, "half of the first piece had come"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("cut", r"failed 5 times; the last error was: the body ended \d+ bytes early"),
        ("500", "failed 5 times; the last error was: the server answers 500"),
        ("403", "the server answers 403 .*Check credentials"),
        ("401", "the server answers 401"),
        ("400", "the server answers 400 Bad Request. Check the address"),
        ("400 ExpiredToken", "the server answers 400 ExpiredToken. Check credentials"),
        ("400 InvalidToken", "the server answers 400 InvalidToken. Check credentials"),
        ("400 TokenRefreshRequired", "the server answers 400 TokenRefreshRequired. Check credentials"),
        ("other range", "answers another range than asked for"),
        ("gzip", "is sent compressed"),
    ],
)
def test_a_lasting_fault_is_said(server, fault, said):
    server.faults = [None]  # the first look at it is good
    server.faults += [fault] * 200
    with pytest.raises(StorageError, match=said) as caught:
        load(server)
    assert f"{server.url}/m/model.tensors" in str(caught.value)
    assert caught.value.remedy


def test_a_refusal_is_not_asked_twice(server):
    server.always = "403"
    with pytest.raises(StorageError):
        load(server)
    assert len(weights_requests(server)) == 1


def test_a_server_that_stalls_ends_in_an_error_in_time(server, monkeypatch):
    monkeypatch.setattr(store, "TIMEOUT", 0.2)
    server.faults = [None, "stall"]
    assert_same_module(build(), load(server))
    server.always = "stall"
    start = time.monotonic()
    with pytest.raises(StorageError, match=r"5 times; the last error was: nothing arrived for 0\.2 seconds"):
        load(server)
    assert time.monotonic() - start < 10, "the server itself takes three seconds each time"


def test_a_server_that_crawls_ends_in_an_error_in_time(server, monkeypatch):
    monkeypatch.setattr(fetch, "_CRAWL", (0.3, 1000))
    server.faults = [None] + ["crawl"] * 100
    with pytest.raises(StorageError, match=r"the last error was: only \d+ bytes came in 0\.3 seconds"):
        load(server)


def test_a_server_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_PAUSE", 0.01)
    with serving(tmp_path) as state:
        url = state.url
    with pytest.raises(StorageError, match="failed 5 times; the last error was: Connection refused"):
        deserialise(f"{url}/m")


@pytest.mark.parametrize("faults", [[], [None, "cut", "cut"]])
def test_a_server_without_ranges_is_read_in_one_go(server, faults):
    server.ranges, server.faults = False, list(faults)
    assert_same_module(build(), load(server))
    assert len(weights_requests(server)) == 2 + len(faults[1:])


def test_a_server_that_forgets_ranges_in_the_middle_is_read_in_one_go(server):
    server.faults = [None] + ["no ranges"] * 100
    assert_same_module(build(), load(server, verify=True))
    assert weights_requests(server)[-1] is None


def test_what_is_missing_is_named(server):
    with pytest.raises(NotAModel, match=r"holds no saved model \(no model.json\)"):
        deserialise(f"{server.url}/nowhere")
    (server.root / "m" / "model.tensors").unlink()
    with pytest.raises(CorruptFile, match=r"/m/model\.tensors: is missing"):
        load(server)


@pytest.mark.parametrize(("change", "state"), [(-100, "truncated"), (100, "extended")])
def test_a_wrong_length_is_noticed_before_anything_is_read(server, change, state):
    path = server.root / "m" / "model.tensors"
    whole = path.read_bytes() + bytes(100)
    path.write_bytes(whole[: len(whole) - 100 + change])
    with pytest.raises(CorruptFile, match=f"is {state}"):
        load(server)
    assert len(weights_requests(server)) == 1


@pytest.mark.parametrize("etags", [True, False])
def test_an_object_replaced_while_it_is_read_gives_one_model_whole(server, tmp_path, etags):
    """Without ETags the parts cannot be told apart, so every hash is checked."""
    server.etags = etags
    serialise(build(1), tmp_path / "other")
    turns = []

    def replace(path):
        if path.endswith(".tensors"):
            turns.append(path)
            if len(turns) == 4:
                shutil.rmtree(server.root / "m")
                shutil.copytree(tmp_path / "other", server.root / "m")

    server.on_request = replace
    assert_same_module(build(1), load(server))


def test_a_model_that_changes_all_the_time_is_given_up(server, tmp_path):
    turns = []

    def replace(path):
        if path.endswith(".tensors"):
            turns.append(path)
            if len(turns) % 4 == 0:
                serialise(build(len(turns)), server.root / "m", overwrite=True)

    server.on_request = replace
    with pytest.raises(StorageError, match="was replaced 3 times while it was read"):
        load(server, readers=1)


def test_a_flipped_bit_is_found_by_verify_over_the_network(server):
    path = server.root / "m" / "model.tensors"
    whole = bytearray(path.read_bytes())
    whole[-5000] ^= 1
    path.write_bytes(whole)
    for check in (lambda: load(server, verify=True), lambda: helpers.verify(f"{server.url}/m")):
        with pytest.raises(CorruptFile, match=r"model\.tensors: 1 of 9 tensors are damaged: 2\.weight"):
            check()


def test_a_changed_small_file_is_always_found(server):
    serialise(build(), server.root / "e", companions=[_Companion()])
    (server.root / "e" / "notes.txt").write_text("others")
    with pytest.raises(CorruptFile, match=r"/e/notes\.txt: is not what was saved"):
        deserialise(f"{server.url}/e", skeleton=build)


class _Companion:
    def save_pretrained(self, folder):
        from pathlib import Path

        Path(folder).mkdir(parents=True)
        (Path(folder) / "notes.txt").write_text("notes")


def test_inspect_reads_the_manifest_alone(server):
    found = helpers.inspect(f"{server.url}/m")
    assert len(found.tensors) == 9 and found.bytes > 300_000
    assert found.tensors == helpers.inspect(server.root / "m").tensors
    assert "0.weight" in repr(found)
    assert weights_requests(server) == []


def test_a_bare_file_is_loaded_by_its_address(server):
    url = f"{server.url}/m/model.tensors?signature=geheim"
    assert_same_module(build(), deserialise(url, skeleton=build, device="cpu"))
    with pytest.raises(SkeletonMismatch, match="Pass skeleton="):
        deserialise(url)
    with pytest.raises(NotAModel, match="does not exist"):
        deserialise(f"{server.url}/other.tensors", skeleton=build)


def test_a_query_goes_along_and_a_password_into_a_header(server):
    host = server.url.removeprefix("http://")
    url = f"http://us%40er:geheim@{host}/m?signature=ganzgeheim"
    assert_same_module(build(), deserialise(url, skeleton=build, device="cpu"))
    wanted = "Basic " + base64.b64encode(b"us@er:geheim").decode()
    assert {headers.get("Authorization") for headers in server.headers} == {wanted}


def test_no_secret_reaches_an_error_a_log_or_a_repr(server, caplog):
    host = server.url.removeprefix("http://")
    caplog.set_level(logging.DEBUG)
    said = []
    for path in ("m", "nowhere", "m/model.tensors"):
        url = f"http://user:geheim@{host}/{path}?signature=ganzgeheim"
        for action in (
            lambda u: repr(open_store(u)),
            lambda u: repr(helpers.inspect(u)),
            lambda u: repr(helpers.verify(u)),
            lambda u: deserialise(u, mapped=True),
            lambda u: deserialise(u, skeleton=lambda: nn.Linear(1, 1)),
            lambda u: serialise(build(), u),
        ):
            try:
                said.append(str(action(url)))
            except ModelError as error:
                said.append(repr(error) + str(error) + repr(error.__context__) + repr(error.__cause__))
    assert len(said) == 18 and "nowhere" in "".join(said)
    assert "geheim" not in "".join(said) + caplog.text


@pytest.mark.parametrize("ahead_of_it", [False, True])
def test_that_there_is_no_temporary_directory_is_said(server, ahead_of_it, monkeypatch, tmp_path):
    with contextlib.ExitStack() as stack:
        if ahead_of_it:
            stack.callback(ahead.begin(f"{server.url}/m").end)
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "absent")])
        with pytest.raises(StorageError, match="no temporary directory.*Set TMPDIR"):
            load(server)


@pytest.mark.parametrize("name", ["modèles", "my models", "my%20models"])
def test_an_address_is_written_as_a_reader_would(server, name):
    shutil.copytree(server.root / "m", server.root / unquote(name) / "m")
    url = f"{server.url}/{name}/m"
    assert_same_module(build(), deserialise(url, skeleton=build, device="cpu"))
    assert helpers.verify(f"{url}?signed=ü 1").source == url


@pytest.mark.parametrize("host", ["[::1", "127.0.0.1:port", "127.0.0.1:99999", "a b"])
def test_a_malformed_address_is_said_at_once_and_without_its_secrets(host, monkeypatch):
    monkeypatch.setattr(fetch, "_PAUSE", 60)  # no second try
    with pytest.raises(StorageError, match="is malformed|Check the host") as error:
        deserialise(f"http://user:geheim@{host}/m?signature=geheim")
    assert "geheim" not in str(error.value)


def test_certificates_that_are_not_there_are_said_at_once(server, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "absent.pem"))
    monkeypatch.setattr(fetch, "_PAUSE", 60)
    with pytest.raises(
        StorageError, match=r"absent\.pem: certificates cannot be read \(No such file or directory\)"
    ):
        load(server)


def certificate(place):
    """A certificate for localhost, signed by itself, with its key."""
    path = place.with_suffix(".pem")
    command = (
        f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {place.with_suffix('.key')} -out {path}".split()
    )
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    subprocess.run(command, check=True, capture_output=True)
    return str(path)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_certificates_are_those_of_either_variable_whenever_it_is_set(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_PAUSE", 60)  # no second try
    for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE", *store._PROXIES):
        monkeypatch.delenv(name, raising=False)
    ours, others = certificate(tmp_path / "ours"), certificate(tmp_path / "others")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ours, tmp_path / "ours.key")
    serialise(build(), tmp_path / "www" / "m")
    with serving(tmp_path / "www", context) as server:
        for settings, is_trusted in (
            ({"AWS_CA_BUNDLE": others}, False),
            ({"AWS_CA_BUNDLE": others, "SSL_CERT_FILE": ours}, True),
            ({"AWS_CA_BUNDLE": ours, "SSL_CERT_FILE": others}, True),
            ({"SSL_CERT_FILE": others}, False),
            ({"SSL_CERT_FILE": ours}, True),
        ):
            with monkeypatch.context() as patch:
                for name, value in settings.items():
                    patch.setenv(name, value)
                if is_trusted:
                    assert helpers.verify(f"{server.url}/m").tensors == 9
                else:
                    with pytest.raises(StorageError, match="is not trusted .*Set SSL_CERT_FILE"):
                        helpers.verify(f"{server.url}/m")


def test_a_proxy_that_is_named_later_is_used(server, monkeypatch):
    for name in (*store._PROXIES, "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert helpers.inspect(f"{server.url}/m").tensors
    with serving(server.root) as proxy:  # it is asked for whole addresses, of which it knows nothing
        monkeypatch.setenv("http_proxy", proxy.url)
        with pytest.raises(NotAModel):
            helpers.inspect(f"{server.url}/m")
        assert proxy.seen == [(f"{server.url}/m/model.json", None)]


def test_http_cannot_be_written_to(server):
    with pytest.raises(StorageError, match="cannot be written to"):
        serialise(build(), f"{server.url}/new")


def test_a_remote_model_is_not_mapped_without_a_copy(server):
    with pytest.raises(StorageError, match="Pass cache="):
        load(server, mapped=True)


@pytest.mark.skipif(nginx() is None, reason="nginx is not installed")
def test_nginx_serves_a_model(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_PIECES", (64 << 10, 64 << 10))
    serialise(build(), tmp_path / "m")
    with web_server(tmp_path) as url:
        assert_same_module(build(), deserialise(f"{url}/m", skeleton=build, device="cpu"))
        assert helpers.verify(f"{url}/m").tensors == 9
        with pytest.raises(NotAModel):
            deserialise(f"{url}/other")
    monkeypatch.setattr(fetch, "_PAUSE", 0.01)
    with pytest.raises(StorageError, match="Connection refused"):
        deserialise(f"{url}/m")


class TestCache:
    def test_the_copy_is_mapped_and_used_again(self, server, tmp_path):
        first = load(server, cache=tmp_path / "cache")
        count = len(weights_requests(server))
        again = load(server, cache=tmp_path / "cache", mapped=True)
        assert_same_module(build(), first)
        assert_same_module(build(), again)
        assert len(weights_requests(server)) == count

    def test_a_changed_model_is_fetched_again(self, server, tmp_path):
        load(server, cache=tmp_path / "cache")
        serialise(build(1), server.root / "m", overwrite=True)
        assert_same_module(build(1), load(server, cache=tmp_path / "cache"))

    @pytest.mark.parametrize("damage", ["truncate", "remove", "manifest"])
    def test_a_damaged_copy_is_fetched_again(self, server, tmp_path, damage):
        load(server, cache=tmp_path / "cache")
        (copy,) = (tmp_path / "cache").glob("*/model.tensors")
        if damage == "truncate":
            copy.write_bytes(copy.read_bytes()[:5000])
        else:
            (copy if damage == "remove" else copy.with_name("model.json")).unlink()
        assert_same_module(build(), load(server, cache=tmp_path / "cache"))

    def test_a_damaged_original_is_never_kept(self, server, tmp_path):
        path = server.root / "m" / "model.tensors"
        whole = bytearray(path.read_bytes())
        whole[-5000] ^= 1
        path.write_bytes(whole)
        with pytest.raises(CorruptFile, match=r"127.*/m/model\.tensors: 1 of 9 tensors are damaged"):
            load(server, cache=tmp_path / "cache")
        assert list((tmp_path / "cache").glob("[!.]*")) == []

    @pytest.mark.slow
    def test_several_processes_may_fill_it_at_once(self, server, tmp_path):
        import subprocess
        import sys

        code = """
import sys, torch
from torch import nn
from helpers import deserialise
build = lambda: nn.Sequential(nn.Linear(200, 300), nn.BatchNorm1d(300), nn.Linear(300, 100))
model = deserialise(sys.argv[1], skeleton=build, cache=sys.argv[2], device="cpu", verify=True)
print(model[0].weight.sum().item())
"""
        command = [sys.executable, "-c", code, f"{server.url}/m", str(tmp_path / "cache")]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running = [subprocess.Popen(command, **pipes) for _ in range(3)]
        results = [process.communicate() for process in running]
        assert [process.returncode for process in running] == [0, 0, 0], results
        assert {out for out, _ in results} == {f"{build()[0].weight.sum().item()}\n"}
        assert len(list((tmp_path / "cache").glob("[!.]*"))) == 1
