"""How fast memory is copied to a device, which no loader can beat: ``python -m workbook.bench.bus DEVICE``."""

import json
import sys
import time


def measure(device, size=1 << 30, turns=5):
    """Bytes a second of one large copy to a device, the best of some turns.

    Parameters
    ----------
    device : str
    size : int
        Bytes of the copy.
    turns : int

    Returns
    -------
    dict of str to float
        ``pinned``: from memory that the device fetches from by itself; not on the CPU, which has none.
        ``pageable``: from ordinary memory, which the driver copies first.

    Examples
    --------
    >>> sorted(measure("cpu", size=1 << 20))
    ['pageable']
    """
    import torch

    on_gpu = torch.device(device).type == "cuda"
    target = torch.empty(size, dtype=torch.uint8, device=device)
    found = {}
    for kind in ("pinned", "pageable") if on_gpu else ("pageable",):
        source = torch.ones(size, dtype=torch.uint8, pin_memory=kind == "pinned")
        times = []
        for _ in range(turns):
            start = time.perf_counter()
            target.copy_(source, non_blocking=True)
            if on_gpu:
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
        found[kind] = size / min(times)
    return found


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
