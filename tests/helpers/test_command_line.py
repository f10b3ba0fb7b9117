"""`python -m helpers`: checkpoints of every kind become saved models, and a shell learns what happened."""

import json
import os
import re
import shutil
import subprocess
import sys

import diffusers
import pipelines
import pytest
import torch
import transformers
from architectures import build
from equality import assert_same_module
from faulty import serving
from tensorizer import TensorSerializer

from helpers import deserialise, inspect, serialise
from helpers.__main__ import main
from helpers.checkpoint import open_checkpoint
from helpers.errors import CorruptFile, NotAModel, SkeletonMismatch, UnsupportedModel
from workbook.samples import tiny_stable_diffusion

NAMES = [
    "LlamaForCausalLM",
    "MixtralForCausalLM",
    "BertForSequenceClassification",
    "T5ForConditionalGeneration",
]


def fingerprint(path):
    return json.loads((path / "model.json").read_text())["fingerprint"]


def checkpoint(folder, name, **options):
    """A model's directory as its library writes it."""
    build(name).save_pretrained(folder, **options)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_in_shards_becomes_what_serialise_makes_of_the_loaded_model(tmp_path, name):
    path = checkpoint(tmp_path / "c", name, max_shard_size="20KB")
    assert len(list(path.glob("*.safetensors"))) >= 3
    assert main(["serialise", str(path), str(tmp_path / "m")]) == 0
    theirs = getattr(transformers, name).from_pretrained(path, dtype="auto")
    serialise(theirs, tmp_path / "by hand", progress=False)
    assert fingerprint(tmp_path / "m") == fingerprint(tmp_path / "by hand")
    assert_same_module(theirs, deserialise(tmp_path / "m", device="cpu"))


PRIVATE = """
import sys
import threading

from helpers.__main__ import main


def private():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


def watch():
    while not done.wait(0.002):
        seen.append(private())


small, large, target = sys.argv[1:]
assert main(["serialise", small, target + "/small"]) == 0  # what is imported at the first time is no part of it
before, seen, done = private(), [], threading.Event()
watching = threading.Thread(target=watch)
watching.start()
assert main(["serialise", large, target + "/large"]) == 0
done.set()
watching.join()
print(max(seen) - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_plain_checkpoint_is_never_in_private_memory_as_a_whole(tmp_path):
    checkpoint(tmp_path / "small", "LlamaForCausalLM")
    (tmp_path / "saved").mkdir()
    config = build("LlamaForCausalLM").config
    config.vocab_size, config.hidden_size, config.intermediate_size = 20_000, 1024, 4096
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "large", max_shard_size="50MB")
    assert len(list((tmp_path / "large").glob("*.safetensors"))) >= 3
    command = [sys.executable, "-c", PRIVATE, *(str(tmp_path / name) for name in ("small", "large", "saved"))]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    size = (tmp_path / "saved" / "large" / "model.tensors").stat().st_size
    assert size > 100e6
    assert int(said.splitlines()[-1]) < 0.15 * size


def test_types_of_the_files_are_kept_and_the_tokenizer_comes_along(tmp_path):
    from tokenizers import Tokenizer, models

    path = checkpoint(tmp_path / "c", "LlamaForCausalLM")
    transformers.LlamaForCausalLM.from_pretrained(path).half().save_pretrained(path)
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(path)
    assert main(["serialise", str(path), str(tmp_path / "m")]) == 0
    loaded = deserialise(tmp_path / "m", device="cpu")
    assert loaded.dtype == torch.float16
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "m")("b").input_ids == [1]


def test_missing_tensors_are_refused_all_by_name_and_nothing_is_written(tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    path = checkpoint(tmp_path / "c", "LlamaForCausalLM")
    weights = load_file(path / "model.safetensors")
    gone = [name for name in weights if "layers.1.self_attn" in name]
    save_file(
        {k: v for k, v in weights.items() if k not in gone}, path / "model.safetensors", {"format": "pt"}
    )
    assert main(["serialise", str(path), str(tmp_path / "m")]) == 1
    said = capsys.readouterr()
    assert said.out == "" and all(name in said.err for name in gone)
    assert not (tmp_path / "m").exists()


def test_a_diffusers_directory_keeps_its_type(tmp_path):
    pipelines.build("UNet2DModel").bfloat16().save_pretrained(tmp_path / "c")
    assert main(["serialise", str(tmp_path / "c"), str(tmp_path / "m")]) == 0
    loaded = deserialise(tmp_path / "m", device="cpu")
    assert type(loaded) is diffusers.UNet2DModel and loaded.dtype == torch.bfloat16


def test_a_pipelines_directory_keeps_the_type_of_each_part(tmp_path):
    pipeline = tiny_stable_diffusion()
    pipeline.unet.bfloat16()
    pipeline.save_pretrained(tmp_path / "c")
    assert main(["serialise", str(tmp_path / "c"), str(tmp_path / "m")]) == 0
    loaded = deserialise(tmp_path / "m", device="cpu")
    assert type(loaded) is type(pipeline)
    assert_same_module(pipeline.unet, loaded.unet)
    assert loaded.vae.dtype == torch.float32


def stock_file(folder, model):
    """A file of stock tensorizer with the model's configuration beside it."""
    model.save_pretrained(folder)
    stock = TensorSerializer(str(folder / "stock.tensors"))
    stock.write_module(model)
    stock.close()
    return folder / "stock.tensors"


def leave_out(path, *keys):
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in keys}))


@pytest.mark.parametrize("name", ["BertModel", "UNet2DModel"])
def test_a_file_of_stock_tensorizer_becomes_a_model_with_the_configuration_beside_it(tmp_path, name):
    kind = pipelines if name.startswith("UNet") else sys.modules["architectures"]
    model = kind.build(name).eval()
    file = stock_file(tmp_path / "c", model)
    assert main(["serialise", str(file), str(tmp_path / "m")]) == 0
    assert_same_module(model, deserialise(tmp_path / "m", device="cpu"))
    (tmp_path / "c" / "config.json").unlink()
    with pytest.raises(NotAModel, match="does not say which model it holds"):
        open_checkpoint(file)


def test_a_stock_file_whose_configuration_names_no_class_is_the_plain_model_of_its_type(tmp_path):
    model = build("LlamaForCausalLM").model.eval()
    file = stock_file(tmp_path / "c", model)
    leave_out(tmp_path / "c" / "config.json", "architectures")
    assert main(["serialise", str(file), str(tmp_path / "m")]) == 0
    loaded = deserialise(tmp_path / "m", device="cpu")
    assert type(loaded) is transformers.LlamaModel
    assert_same_module(model, loaded)


@pytest.mark.parametrize(
    ("left_out", "error", "said"),
    [
        (["architectures"], SkeletonMismatch, "is not the plain model of the type 'llama'.*Add the class to"),
        (["architectures", "model_type"], CorruptFile, "cannot be loaded"),
    ],
)
def test_a_stock_file_that_does_not_say_its_class_is_refused_in_a_sentence(
    tmp_path, capsys, left_out, error, said
):
    file = stock_file(tmp_path / "c", build("LlamaForCausalLM"))
    leave_out(tmp_path / "c" / "config.json", *left_out)
    with pytest.raises(error, match=said):
        open_checkpoint(file)
    assert main(["serialise", str(file), str(tmp_path / "m")]) == 1
    told = capsys.readouterr()
    assert told.out == "" and str(tmp_path / "c") in told.err and "Traceback" not in told.err
    assert not (tmp_path / "m").exists()


def test_a_name_is_looked_up_as_its_library_does(tmp_path):
    """In the hub's own cache, since a test has no network."""
    folder = tmp_path / "hub" / "models--someone--tiny"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    checkpoint(folder / "snapshots" / "abc", "LlamaForCausalLM")
    command = [sys.executable, "-m", "helpers", "serialise", "someone/tiny", str(tmp_path / "m"), "--json"]
    where = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub"), "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=where)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["family"] == "transformers"
    assert inspect(tmp_path / "m").class_name == "transformers.LlamaForCausalLM"


def _cut(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def _foreign(path):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"architectures": ["NoSuchModel"]}))


def _own_code(path):
    config = json.loads((path / "config.json").read_text())
    more = {"architectures": ["NoSuchModel"], "auto_map": {"AutoModel": "code.NoSuchModel"}}
    (path / "config.json").write_text(json.dumps(config | more))


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (_cut, CorruptFile, "cannot be loaded"),
        (_foreign, UnsupportedModel, "NoSuchModel, which the installed transformers does not have"),
        (_own_code, UnsupportedModel, "brings the code of NoSuchModel with it, which is not run"),
        (lambda path: (path / "config.json").write_text("{"), CorruptFile, "cannot be loaded"),
        (lambda path: (path / "config.json").unlink(), NotAModel, "holds no config.json"),
        (shutil.rmtree, NotAModel, "there is no such directory"),
    ],
)
def test_what_is_no_good_checkpoint_is_refused_in_a_sentence(tmp_path, capsys, damage, error, said):
    path = checkpoint(tmp_path / "c", "LlamaForCausalLM")
    damage(path)
    with pytest.raises(error, match=said):
        open_checkpoint(path)
    assert main(["serialise", str(path), str(tmp_path / "m")]) == 1
    told = capsys.readouterr()
    assert told.out == "" and said in told.err and "Traceback" not in told.err
    assert not (tmp_path / "m").exists()


@pytest.fixture
def saved(tmp_path):
    serialise(torch.nn.Linear(3, 2), tmp_path / "m", progress=False)
    return tmp_path / "m"


def test_a_machine_reads_what_inspect_and_verify_have_found(saved, capsys):
    assert main(["inspect", str(saved), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["class_name"] == "torch.nn.modules.linear.Linear"
    assert found["needs_skeleton"] is True
    assert [tensor["shape"] for tensor in found["tensors"]] == [[2], [2, 3]] or len(found["tensors"]) == 2
    assert main(["verify", "--json", str(saved)]) == 0
    assert json.loads(capsys.readouterr().out)["tensors"] == 2
    assert main(["inspect", str(saved)]) == 0
    told = capsys.readouterr().out
    assert "weight" in told and "load it with skeleton=" in told


def test_damage_is_exit_status_1_and_a_sentence(saved, capsys):
    data = bytearray((saved / "model.tensors").read_bytes())
    weight = deserialise(saved, skeleton=lambda: torch.nn.Linear(3, 2), mapped=False, device="cpu").weight
    data[data.find(weight.detach().numpy().tobytes())] ^= 1
    (saved / "model.tensors").write_bytes(data)
    assert main(["verify", str(saved)]) == 1
    told = capsys.readouterr()
    assert told.out == "" and str(saved) in told.err


def test_a_destination_that_exists_is_kept_unless_it_shall_be_replaced(tmp_path, saved, capsys):
    path = checkpoint(tmp_path / "c", "LlamaForCausalLM")
    before = fingerprint(saved)
    assert main(["serialise", str(path), str(saved)]) == 1
    assert fingerprint(saved) == before and "overwrite" in capsys.readouterr().err
    assert main(["serialise", str(path), str(saved), "--overwrite"]) == 0
    assert fingerprint(saved) != before


@pytest.mark.parametrize(
    "arguments", [[], ["serialise", "one"], ["no-such-command"], ["verify", "--no-such"]]
)
def test_a_wrong_call_is_exit_status_2(arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert "python -m helpers serialise" in said and "``" not in said


@pytest.fixture
def unloaded(monkeypatch):
    """A test that fails if a checkpoint is loaded in it."""
    monkeypatch.setattr("helpers.checkpoint.open_checkpoint", lambda path: pytest.fail("it is loaded"))


def test_a_destination_that_will_be_refused_is_refused_before_the_checkpoint_is_loaded(
    tmp_path, saved, capsys, unloaded
):
    (tmp_path / "file").write_text("")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "notes.txt").write_text("")
    for given, said in [
        (["m"], "m: exists already. Pass --overwrite to replace it"),
        (["own", "--overwrite"], "own: holds what no save has written: notes.txt.*; --overwrite replaces"),
        (["file"], "file: exists and is a file"),
        (["file/x"], "file: is a file, so nothing can be saved below it"),
        (["file/x/y"], "file: is a file, so nothing can be saved below it"),
    ]:
        assert main(["serialise", "c", f"{tmp_path}/{given[0]}", *given[1:]]) == 1
        assert re.match(f"{tmp_path}/{said}", capsys.readouterr().err)
    assert main(["serialise", "c", "http://user:geheim@127.0.0.1:9/m"]) == 1
    assert capsys.readouterr().err.startswith("127.0.0.1:9/m: cannot be written to")


@pytest.mark.parametrize("command", ["inspect", "verify", "record"])
def test_advice_is_given_in_the_words_of_the_command(tmp_path, capsys, command):
    (tmp_path / "c").mkdir()
    assert main([command, str(tmp_path / "c")]) == 1
    assert capsys.readouterr().err.endswith("Save one with python -m helpers serialise.\n")
    (tmp_path / "c" / "config.json").write_text("{}")
    assert main([command, str(tmp_path / "c")]) == 1
    said = "It looks like a Hugging Face directory: save it with python -m helpers serialise.\n"
    assert capsys.readouterr().err.endswith(said)


def test_what_is_no_checkpoint_but_a_saved_model_or_another_file_is_called_that(tmp_path, saved, capsys):
    assert main(["serialise", str(saved), str(tmp_path / "new")]) == 1
    assert capsys.readouterr().err == f"{saved}: is a saved model already. Copy the directory.\n"
    (tmp_path / "m.pkl").write_text("")
    assert main(["serialise", str(tmp_path / "m.pkl"), str(tmp_path / "new")]) == 1
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'm.pkl'}: is a file, but no .tensors file.")


@pytest.mark.parametrize(
    "arguments",
    [["inspect", ""], ["verify", ""], ["record", ""], ["serialise", "", "m"], ["serialise", "c", ""]],
)
def test_an_empty_path_does_not_mean_the_working_directory(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith("'': is the empty path, which names nothing.")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("options", [[], ["--json"]])  # less than a buffer holds, and more
def test_a_reader_that_has_seen_enough_ends_it_quietly(tmp_path, options):
    many = torch.nn.ParameterList([torch.zeros(1) for _ in range(200)])
    serialise(many, tmp_path / "m", progress=False)
    reading, writing = os.pipe()
    os.close(reading)  # as `head -1` does in the end
    command = [sys.executable, "-m", "helpers", "inspect", str(tmp_path / "m"), *options]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 1 and done.stderr == ""


RECORD = """
import sys
from helpers.__main__ import main
plain, own = sys.argv[1:]
assert [main(["record", *given]) for given in ([plain], ["--json", plain], [own])] == [0, 0, 1]
"""


@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [
        (">&-", 0, ""),
        (
            "> /dev/full",
            1,
            r"standard output: takes no result \(No space left on device\)\. What inspect does .*\n",
        ),
        ("| cat", 0, ""),
    ],
)
def test_an_output_that_cannot_be_written_ends_in_no_traceback(tmp_path, redirection, status, said):
    serialise(torch.nn.Linear(2, 2), tmp_path / "μοντέλο")
    command = f"set -o pipefail; {sys.executable} -m helpers inspect {tmp_path}/μοντέλο {redirection}"
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
    )
    assert done.returncode == status and re.fullmatch(said, done.stderr)
    assert ("\\u03bc" in done.stdout) == (redirection == "| cat")


def test_a_recording_says_no_secret_of_an_address_and_an_error_is_one_sentence(tmp_path):
    from sklearn.preprocessing import StandardScaler

    serialise(StandardScaler().fit([[1.0], [2.0]]), tmp_path / "www" / "plain", progress=False)
    serialise(torch.nn.Linear(3, 2), tmp_path / "www" / "own", progress=False)  # needs skeleton=
    with serving(tmp_path / "www") as server:
        host = server.url.removeprefix("http://")
        sources = [f"http://user:geheim@{host}/{name}?signature=geheim" for name in ("plain", "own")]
        environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        command = [sys.executable, "-c", RECORD, *sources]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "geheim" not in done.stdout + done.stderr
    sentence, found = done.stdout.splitlines()
    assert f"at a start of {server.url}/plain: " in sentence
    assert json.loads(found)["source"] == f"{server.url}/plain"
    assert done.stderr.startswith(f"{server.url}/own: cannot be loaded by this command")
    assert done.stderr.count("\n") == 1


RECORD_AGAIN = """
import sys
from helpers import __main__ as command
from helpers.errors import extra
from helpers.storage import recording
import helpers.deserialise
path, _ = command.record(sys.argv[1])
before = open(path).read()
def fail(*_, **__):
    with extra("m", "hf"):
        import a_library_that_is_not_there
sys.modules["helpers.deserialise"].deserialise = fail
try:
    command.record(sys.argv[1])
except Exception as error:
    print(error)
assert open(path).read() == before
import os
assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]
"""


def test_a_load_that_fails_leaves_the_old_recording_and_says_what_to_install(tmp_path):
    from sklearn.preprocessing import StandardScaler

    serialise(StandardScaler().fit([[1.0], [2.0]]), tmp_path / "m", progress=False)
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", RECORD_AGAIN, str(tmp_path / "m")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    said = "m: needs a_library_that_is_not_there, which is not installed. Install it: pip install "
    assert done.stdout.startswith(said)
