"""One start with an adapter or a quantised model: ``python -m workbook.bench.variant WAY SPAWNED PATH [ADAPTER]``.

It loads, computes a first token and says what took how long; at a line on its input it says what memory it
takes; at the next line, or when its input is closed, it ends.
"""

import json
import sys
import time

from workbook.bench.child import first_token
from workbook.bench.replica import memory


def main(way, spawned, path, adapter=""):
    """Be one start until told to end."""
    import peft
    import torch
    from transformers.models.llama import modeling_llama

    from helpers import deserialise

    begun = time.perf_counter()
    if way == "helpers":
        model = deserialise(path, device="cpu", progress=False)
    else:
        model = modeling_llama.LlamaForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
        model = peft.PeftModel.from_pretrained(model, adapter)
    filled = time.perf_counter()
    token, _ = first_token(model)
    ended = time.perf_counter()
    times = {"load": filled - begun, "first token": ended - filled, "total": ended - float(spawned)}
    print(json.dumps(times | {"token": token}), flush=True)
    if sys.stdin.readline():
        print(json.dumps(memory()), flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main(*sys.argv[1:])
