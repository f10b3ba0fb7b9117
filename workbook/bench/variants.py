"""Many variants of one model: what adapters on a shared base, and quantised weights, cost to start and to hold.

    python -m workbook.bench.variants MODEL [FILE.json] [ROUNDS]

MODEL is a language model of the benchmark (1.7b), of the Llama architecture.
"""

import contextlib
import json
import multiprocessing
import statistics
import sys
import time
from pathlib import Path

from workbook.bench import memory, pagecache, scratch, states

VOICES = 4


def make(model, place):
    """Write four adapters in PEFT's form and in ours, and the model quantised to 8 and 4 bits; in this process.

    Parameters
    ----------
    model : workbook.bench.models.Model
        With its files in the formats ``hf`` and ``helpers``.
    place : pathlib.Path
        Gets ``peft-0``, ``voice-0`` and so on, ``int8`` and ``int4``.
    """
    import peft
    import torch
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    from helpers import deserialise, serialise

    saved = model.file("helpers").parent
    for number in range(VOICES):
        torch.manual_seed(number)
        how = peft.LoraConfig(r=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        voice = peft.get_peft_model(deserialise(saved, device="cpu", progress=False), how)
        for name, parameter in voice.named_parameters():
            if "lora_B" in name:  # it begins as zeros, which would change nothing
                torch.nn.init.normal_(parameter, std=0.02)
        voice.save_pretrained(place / f"peft-{number}")
        serialise(voice, place / f"voice-{number}", progress=False)
    for name, kind in (
        ("int8", Int8WeightOnlyConfig()),
        ("int4", PrototypeInt4WeightOnlyConfig(group_size=32)),
    ):
        whole = deserialise(saved, device="cpu", progress=False)
        quantize_(whole, kind)
        serialise(whole, place / name, progress=False)


def measure(model, place, rounds):
    """Seconds to load an adapter both ways, the memory of four of them, and starts in three precisions.

    Parameters
    ----------
    model : workbook.bench.models.Model
    place : pathlib.Path
        As `make` left it.
    rounds : int

    Returns
    -------
    dict
        ``adapters``: for each round, what both ways said. ``memory``: proportional bytes of ``one`` process and
        of ``four`` with different adapters. ``precisions``: for each, ``bytes`` and for each state what its starts
        said.

    Raises
    ------
    RuntimeError
        The two ways gave different first tokens.
    ModelError
        A start failed, or weights did not become cold.
    """
    saved, hf = model.file("helpers").parent, model.file("hf").parent
    for file in (saved / "model.tensors", *hf.glob("*.safetensors")):
        pagecache.read_through(file)
    found = {"adapters": [], "precisions": {}}
    for _ in range(rounds):
        ours, theirs = _start("helpers", place / "voice-0"), _start("peft", hf, place / "peft-0")
        if ours["token"] != theirs["token"]:
            raise RuntimeError(f"the two ways gave different first tokens: {ours}, {theirs}")
        found["adapters"].append({"helpers": ours, "peft": theirs})
    counts = {"one": 1, "four": VOICES}
    found["memory"] = {
        name: _together([place / f"voice-{n}" for n in range(count)]) for name, count in counts.items()
    }
    for name, folder in (("bf16", saved), ("int8", place / "int8"), ("int4", place / "int4")):
        file = folder / "model.tensors"
        said = {"bytes": file.stat().st_size, "warm": [], "weights cold": []}
        for _ in range(rounds):
            states.make_cold(file)
            said["weights cold"].append(_start("helpers", folder))
            said["warm"].append(_start("helpers", folder))
        found["precisions"][name] = said
    return found


def _process(way, *places):
    return memory.process("variant", way, time.perf_counter(), *places)


def _start(way, *places):
    with _process(way, *places) as process:
        return memory.answer(process, way)


def _together(folders):
    """The proportional memory of processes that are all there at once, each with a model of its own."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(_process("helpers", folder)) for folder in folders]
        for process in processes:
            memory.answer(process, "helpers")
        return sum(said["Pss"] for said in memory.counted(processes, "helpers"))


def main(name, target=None, rounds=5):
    with scratch.prepared(name, {"hf", "helpers"}) as (model, place):
        # in a process of its own: maps of this one would share pages with the processes measured
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pool.apply(make, (model, place))
        result = {"model": name} | measure(model, place, int(rounds))
    from workbook.machine import facts

    result["machine"] = facts()
    _print(result)
    if target:
        Path(target).write_text(json.dumps(result, indent=1) + "\n")


def _print(result):
    """The medians."""
    for way in ("helpers", "peft"):
        load = statistics.median(row[way]["load"] for row in result["adapters"])
        total = statistics.median(row[way]["total"] for row in result["adapters"])
        print(f"{way:<8} loads base and adapter in {load:5.2f} s, start to first token {total:5.2f} s")
    print(f"four adapters take {result['memory']['four'] / result['memory']['one']:.2f} x the memory of one")
    for name, said in result["precisions"].items():
        load, warm, cold = (statistics.median(row[key] for row in said[state]) for state, key in
                            (("warm", "load"), ("warm", "total"), ("weights cold", "total")))  # fmt: skip
        print(
            f"{name}: {said['bytes'] / 1e9:.2f} GB, load {load:.2f} s, start {warm:.2f} s warm, {cold:.2f} s cold"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
