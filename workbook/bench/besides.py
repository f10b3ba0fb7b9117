"""What was recorded besides the table of loaders: object storage, Standby, Ray, variants. As rows of its table.

python -m workbook.bench.remote --model 1.7b --rounds 5 --json data/results/1.7b-remote.json
python -m workbook.bench.standby 1.7b data/results/1.7b-standby.json
python -m workbook.bench.scaling 1.7b data/results/1.7b-ray.json
python -m workbook.bench.variants 1.7b data/results/1.7b-variants.json
"""

import json
import statistics

from workbook.bench.report import compared, turn_ratios

_START = "whole start"


def lines(path):
    """The findings of the recordings beside a recorded run, as rows of its Markdown table, and what else to say.

    Parameters
    ----------
    path : pathlib.Path
        Of the recorded run, such as ``data/results/1.7b-cpu.json``.

    Returns
    -------
    rows, sentences : list of str
        None of a recording that is not there.
    """
    model = path.name.partition("-")[0]
    rows, sentences, where = [], [], {}
    for name, findings in _FINDINGS.items():
        beside = path.with_name(f"{model}-{name}.json")
        if beside.exists():
            recorded = json.loads(beside.read_text())
            found = findings(recorded)
            if "machine" in recorded:
                where.setdefault(recorded["machine"]["processor"], []).append(beside.name)
            rows += [f"| {cells} | {compared(ratios)} |" for cells, ratios in found[0]]
            sentences += found[1]
    sentences += [
        f"Recorded apart, on {processor}: {', '.join(names)}." for processor, names in where.items()
    ]
    return rows, sentences


def _remote(result):
    starts, transfers = result["starts"], result["transfers"]
    rows = [
        (
            f"S3 | {_START} | helpers + cold_start | `deserialise` alone",
            turn_ratios(starts, "cold_start", "deserialise"),
        ),
        (
            f"S3 | {_START} | helpers + cold_start | `TensorDeserializer`",
            turn_ratios(starts, "cold_start", "tensorizer"),
        ),
        (
            f"HTTP, {result['limit']} a connection | the transfer | as cold_start fetches | 32 × curl",
            turn_ratios(transfers, "helpers", "curl"),
        ),
    ]
    busy = {way: statistics.median(shares) for way, shares in result["busy"].items()}
    said = (
        f"During a start from S3 the machine's processors, which the store shares, are busy for "
        f"{busy['cold_start']:.0%} of the time with `cold_start`, {busy['deserialise']:.0%} with `deserialise` alone."
    )
    return rows, [said]


def _standby(result):
    shares = [turn["standby"] / turn["from_pretrained"] for turn in result["rounds"]]
    ready = statistics.median(turn["ready"] for turn in result["rounds"])
    last = result["memory"][-1]
    each = statistics.mean(one["pss"] for one in last["each"]) / 1e9
    said = (
        f"A `Standby` is ready after {ready:.1f} s and holds {result['memory'][0]['server']['pss'] / 1e9:.2f} GB "
        f"(proportional set size, beside one replica); of {last['replicas']} replicas each takes {each:.2f} GB, its "
        "share of the weights included."
    )
    return [("warm | request to first token | `Standby` | from_pretrained, fresh process", shares)], [said]


def _ray(result):
    runs = result["scaling"]
    rows = []
    for state, where in (
        ("warm", "warm"),
        ("cold", "weights cold"),
        ("none idle", "warm, no worker idle"),
    ):
        times = {
            way: [run["states"][state]["seconds"] for run in runs if run["way"] == way]
            for way in ("today", "preloaded")
        }
        shares = turn_ratios(times, "preloaded", "today")
        rows.append((f"{where} | one more Ray replica | preloaded workers | Ray as it comes", shares))
    held = {
        way: statistics.median(size for run in runs if run["way"] == way for size in run["idle"]) / 1e9
        for way in ("today", "preloaded")
        if any(run["idle"] for run in runs if run["way"] == way)
    }
    said = (
        f"An idle Ray worker that has preloaded holds {held['preloaded']:.2f} GB"
        if "preloaded" in held
        else ""
    )
    if "today" in held:
        said += f", one that has not {held['today']:.2f} GB"
    return rows, [f"{said}."] if said else []


def _variants(result):
    loads = {way: [turn[way]["load"] for turn in result["adapters"]] for way in ("helpers", "peft")}
    memory = result["memory"]["four"] / result["memory"]["one"]
    rows = [
        (
            "warm | load of a base and an adapter | `deserialise` | `PeftModel.from_pretrained`",
            turn_ratios(loads, "helpers", "peft"),
        ),
        ("warm | memory of 4 processes, each with its adapter | one base | one process", [memory]),
    ]
    said = []
    for name, of in result["precisions"].items():
        warm, cold = (
            statistics.median(row["total"] for row in of[state]) for state in ("warm", "weights cold")
        )
        said.append(f"{name} {of['bytes'] / 1e9:.2f} GB, {warm:.1f} s and {cold:.1f} s")
    listed = "; ".join(said)
    return rows, [f"The model in three precisions, with a start warm and with its weights cold: {listed}."]


_FINDINGS = {"remote": _remote, "standby": _standby, "ray": _ray, "variants": _variants}
