"""Whether an empty model and a file are of one architecture, told before anything of the model is changed."""

from torch import nn

from helpers.errors import SkeletonMismatch
from helpers.modules.structure import attributes, slots, value

SHOWN = 8  # names in a list, which may be as long as the model


def some(names: list[str]) -> str:
    """The first of some names in one line, and how many there are besides.

    Parameters
    ----------
    names : list of str

    Returns
    -------
    str

    Examples
    --------
    >>> some(["a", "b"]), some([str(number) for number in range(10)])
    ('a, b', '0, 1, 2, 3, 4, 5, 6, 7 … and 2 more')
    """
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" … and {more} more" if more > 0 else "")


def compare(skeleton, modules, tensors, laid, structure, source):
    """Refuse a skeleton that lacks something of the file, has something besides, or has it in another shape."""
    lacking, different, owners = [], [], {}
    known = {*laid, *structure["aliases"], *structure["none"]}
    there = {name for name in structure["attributes"] if name.rpartition(".")[0] in modules}
    if there != {*structure["attributes"]}:  # some are in containers
        there.update(name for name, *_ in attributes(skeleton))
    for name, owner, key, kind in slots(skeleton):
        old = value(owner, key, kind)
        there.add(name)
        if name not in known:
            left = structure["transient"], structure.get("omitted", ())
            if old is not None and old.numel() and not any(name in names for names in left):
                lacking.append(name)
            continue
        first = None if name in structure["none"] else structure["aliases"].get(name, name)
        if owners.setdefault((id(owner), key), first) != first:
            different.append(
                f"{name} (the skeleton shares it with {owners[id(owner), key]}, the file does not)"
            )
        if old is None or first not in laid:
            continue
        stored = tensors[name][0] if name in tensors else kind
        shape = laid[first].shape
        if stored not in (kind, "state_dict"):
            different.append(f"{name} (a {stored} in the file, a {kind} in the skeleton)")
        elif nn.parameter.is_lazy(old):
            different.append(f"{name} (lazy in the skeleton: run it once on an example first)")
        elif old.shape != shape:
            different.append(f"{name} ({list(shape)} in the file, {list(old.shape)} in the skeleton)")
    none = {*structure["none"]}  # of these there is nothing to miss, unless it is all that differs
    excess = sorted(known - there - none) or [f"{name} (None in the file)" for name in sorted(none - there)]
    parts = [("the skeleton lacks", excess), ("the file lacks", lacking), ("they differ in", different)]
    found = "; ".join(f"{what} {some(names)}" for what, names in parts if names)
    if found:
        raise SkeletonMismatch(
            source,
            f"the empty model and the file do not agree: {found}",
            "Build the skeleton with the class and the settings of the saved model.",
        )
