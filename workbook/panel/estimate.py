"""What a run will take, said before it starts: from what earlier runs of this sitting took."""

from helpers.storage import memory
from workbook.panel import sources, table
from workbook.panel.request import problem_with


def seconds(request, results):
    """About how long a run will take, and how that is known.

    Parameters
    ----------
    request : workbook.panel.request.Request
    results : list of workbook.panel.runs.Result
        Of this sitting.

    Returns
    -------
    (float, str) or (None, str)
    """
    done = table.grouped(table.good(results))
    if request in done:
        count = len(done[request])
        return table.middle(done[request]), f"as its last run{'s' if count > 1 else ''} took"
    alike = [group for other, group in done.items() if _is_alike(request, other)]
    size = sources.size_and_share(request.source)[0]
    if not alike or not size or not alike[-1][-1].bytes:
        return None, "no run yet to judge by"
    last = alike[-1]
    moved = sum(table.middle(last, name) or 0 for name in ("load", "serialise", "verify"))
    whole = table.middle(last) + moved * (size / last[-1].bytes - 1)
    return (
        whole,
        f"judged by {sources.labels([last[-1].request.source]).popitem()[1]}, in proportion to the size",
    )


def _is_alike(request, other):
    same = ("action", "way", "device", "cold", "cold_start")
    return all(getattr(request, name) == getattr(other, name) for name in same)


def in_words(request, rounds, results):
    """What is known before a start: size, state of the page cache, time, memory.

    Returns
    -------
    str
        Why it cannot be started, where it cannot.
    """
    if problem := problem_with(request):
        return problem
    size, share = sources.size_and_share(request.source)
    said = []
    if size:
        where = "will be emptied of them" if request.cold else f"has {share:.0%} of them"
        said.append(f"{size / 1e6:,.0f} MB of weights; the page cache {where}.")
    about, why = seconds(request, results)
    if about is None:
        said.append(f"How long it takes is not known: {why}.")
    else:
        each = f" for each of {rounds} rounds" if rounds > 1 else ""
        said.append(f"About {about:.1f} s{each}, {why}.")
    if size > (free := memory.available_bytes()):
        said.append(f"That is more than the {free / 1e9:.1f} GB of memory that are available.")
    return " ".join(said)
