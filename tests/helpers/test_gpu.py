"""Onto a GPU: everything that `deserialise` does on the CPU, by every way there is; and without room, nothing left."""

import gc

import architectures
import odd_modules
import pytest
import torch
from equality import assert_same_module, assert_same_tensor, bits
from faulty import serving
from normed import build

from helpers import deserialise, serialise
from helpers.errors import CorruptFile, ModelError
from helpers.weights import onto_gpu, ring

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
several = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
KEY = bytes(range(32))


@pytest.fixture(autouse=True, params=["tensorizer", "ring"])
def way(request, monkeypatch):
    monkeypatch.setattr(onto_gpu, "way", request.param)
    monkeypatch.setattr(ring, "_SIZE", 10_000)  # several pieces, the last one not full
    return request.param


@pytest.fixture
def saved(tmp_path):
    serialise(build(), tmp_path / "m")
    return tmp_path / "m"


def load(path, **options):
    return deserialise(path, **{"skeleton": build, "device": "cuda"} | options)


def devices(module):
    return {str(tensor.device) for tensor in [*module.parameters(), *module.buffers()]}


def taken():
    """Bytes of tensors on the device, once what nobody holds any more is gone."""
    gc.collect()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


@pytest.mark.parametrize("mapped", [None, True, False])
def test_a_language_model_is_equal_and_answers_as_on_the_cpu(tmp_path, mapped):
    model = architectures.build("LlamaForCausalLM")
    serialise(model, tmp_path / "m")
    loaded = deserialise(tmp_path / "m", device="cuda", mapped=mapped)
    assert devices(loaded) == {f"cuda:{torch.cuda.current_device()}"}
    tokens = torch.arange(2, 10, device="cuda")[None]
    with torch.inference_mode():
        here, there = model(input_ids=tokens.cpu()).logits, loaded(input_ids=tokens).logits.cpu()
    torch.testing.assert_close(here, there, rtol=1e-2, atol=1e-3)
    assert_same_module(model, loaded)


@pytest.mark.parametrize("name", sorted(odd_modules.ALL))
def test_odd_modules_come_back_equal(tmp_path, name):
    torch.manual_seed(0)
    model = odd_modules.ALL[name]()
    serialise(model, tmp_path / "m")
    # where they are: cpu() gives a buffer anew, and no longer the same one as an attribute
    assert_same_module(model, load(tmp_path / "m", skeleton=odd_modules.ALL[name]))


def test_a_bare_file_that_is_not_aligned_comes_back_equal(tmp_path):
    from tensorizer import TensorSerializer

    writer = TensorSerializer(str(tmp_path / "m.tensors"))
    writer.write_module(build())
    writer.close()
    for mapped in (None, True):
        assert_same_module(build(), load(tmp_path / "m.tensors", mapped=mapped).cpu())


@pytest.mark.parametrize("mapped", [None, True])
def test_a_part_alone_comes_onto_the_device(saved, mapped):
    before = taken()
    part = load(saved, only=lambda name: name.startswith("2."), mapped=mapped)
    assert part[0].weight.is_meta
    assert taken() - before <= 4096 + sum(tensor.nbytes for tensor in part[2].parameters())
    assert_same_tensor("2.weight", build()[2].weight, part[2].weight)


def test_a_cast_is_as_on_the_cpu_and_holds_little_twice(tmp_path):
    model = torch.nn.Sequential(*(torch.nn.Linear(1000, 1000) for _ in range(20)))
    serialise(model, tmp_path / "m")
    before = taken()
    torch.cuda.reset_peak_memory_stats()

    def skeleton():
        return torch.nn.Sequential(*(torch.nn.Linear(1000, 1000) for _ in range(20)))

    loaded = load(tmp_path / "m", skeleton=skeleton, dtype=torch.bfloat16)
    stored = sum(tensor.nbytes for tensor in model.parameters())
    assert torch.cuda.max_memory_allocated() - before < 1.2 * stored
    assert_same_module(model.bfloat16(), loaded.cpu())


def test_verify_finds_a_flipped_bit_and_leaves_nothing(saved):
    before = taken()
    assert_same_module(build(), load(saved, verify=True).cpu())
    path = saved / "model.tensors"
    whole = bytearray(path.read_bytes())
    whole[-5000] ^= 1
    path.write_bytes(whole)
    with pytest.raises(CorruptFile, match=r"1 of 9 tensors are damaged: 2\.weight") as caught:
        load(saved, verify=True)
    assert taken() == before, caught.value


def test_an_encrypted_model_comes_back_equal(tmp_path):
    from helpers.errors import EncryptionError

    try:
        serialise(build(), tmp_path / "m", encryption=KEY)
    except EncryptionError as error:
        pytest.skip(str(error))
    assert_same_module(build(), load(tmp_path / "m", encryption=KEY).cpu())
    with pytest.raises(EncryptionError, match="cannot be decrypted"):
        load(tmp_path / "m", encryption=bytes(32))


@pytest.mark.parametrize("cached", [False, True])
def test_a_remote_model_comes_back_equal(saved, tmp_path, cached):
    options = {"cache": tmp_path / "cache"} if cached else {}
    with serving(tmp_path) as server:
        loaded = load(f"{server.url}/m", **options)
        part = load(f"{server.url}/m", only=lambda name: name == "0.bias")
    assert devices(loaded) == {f"cuda:{torch.cuda.current_device()}"}
    assert_same_module(build(), loaded.cpu())
    assert_same_tensor("0.bias", build()[0].bias, part[0].bias)


def test_without_a_device_said_it_is_the_gpu(saved):
    assert devices(load(saved, device=None)) == devices(load(saved, device=0))


@several
@pytest.mark.parametrize("mapped", [None, True])
def test_the_second_gpu_gets_it_and_the_first_nothing(saved, mapped):
    before = torch.cuda.memory_allocated(0)
    loaded = load(saved, device="cuda:1", mapped=mapped)
    assert devices(loaded) == {"cuda:1"}
    assert torch.cuda.memory_allocated(0) == before
    assert_same_module(build(), loaded.cpu())


@several
def test_cuda_alone_means_the_current_device(saved):
    with torch.cuda.device(1):
        assert devices(load(saved)) == {"cuda:1"}


def test_a_device_that_is_not_there_is_refused(saved):
    name = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(ModelError, match=f"{name}: is not available here"):
        load(saved, device=name)


def test_what_was_asked_of_the_device_before_is_not_disturbed(saved):
    """Memory that is freed while a kernel still uses it may be given to the new tensors at once."""
    expected = {name: bits(tensor) for name, tensor in build().state_dict().items()}
    for _ in range(5):
        large = torch.randn(2000, 2000, device="cuda")
        for _ in range(20):
            large = large @ large  # runs on while the load begins
        del large
        loaded = load(saved).state_dict()
        for name, tensor in loaded.items():
            assert torch.equal(bits(tensor), expected[name]), name


@pytest.fixture
def little_room():
    """Leave this process 64 MB of the device beyond what it has taken."""
    taken()
    torch.cuda.empty_cache()
    whole = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (64 << 20)) / whole)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def large():
    return torch.nn.Sequential(*(torch.nn.Linear(2000, 2000) for _ in range(10)))  # 160 MB


@pytest.mark.parametrize("options", [{}, {"mapped": True}, {"dtype": torch.float64}])
def test_without_room_one_sentence_tells_and_nothing_is_left(tmp_path, little_room, options):
    model = large()
    serialise(model, tmp_path / "m")
    before, reserved = taken(), torch.cuda.memory_reserved()
    with pytest.raises(ModelError) as caught:
        load(tmp_path / "m", skeleton=large, **options)
    needed = sum(tensor.nbytes for tensor in model.parameters()) * (2 if "dtype" in options else 1)
    assert f"does not fit on cuda:{torch.cuda.current_device()}" in str(caught.value)
    assert f"its weights need {needed:,} bytes there" in str(caught.value)
    free = int(caught.value.problem.rpartition("there, ")[2].removesuffix(" are free").replace(",", ""))
    assert 0 < free <= 64 << 20
    assert taken() == before, "something is left while the error is kept"
    assert torch.cuda.memory_reserved() <= reserved
    assert_same_module(build(), _small(tmp_path).cpu())  # and the next load works


def _small(folder):
    serialise(build(), folder / "small")
    return load(folder / "small")


def test_a_remote_model_without_room_leaves_nothing(tmp_path, little_room):
    serialise(large(), tmp_path / "m")
    before = taken()
    with serving(tmp_path) as server, pytest.raises(ModelError, match="does not fit on cuda"):
        load(f"{server.url}/m", skeleton=large)
    assert taken() == before


def test_a_save_within_a_stream_waits_for_what_was_asked_of_it_before(tmp_path):
    weight = torch.nn.Parameter(torch.zeros(1 << 20, device="cuda"))
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(1 << 30)  # clock cycles: half a second
        with torch.no_grad():
            weight += 1
        serialise(torch.nn.ParameterList([weight]), tmp_path / "m")
    empty = lambda: torch.nn.ParameterList([torch.zeros(1 << 20)])  # noqa: E731
    assert deserialise(tmp_path / "m", skeleton=empty, device="cpu")[0].eq(1).all()
