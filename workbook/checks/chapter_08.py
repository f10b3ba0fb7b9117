"""Checks of 08_models_as_they_come: many voices, fewer bits, a damaged base."""

from math import prod

from workbook.checks import A_NUMBER, about, respond


def forty_voices(answer, *, base, voice):
    """Bytes of forty adapters on one base.

    Parameters
    ----------
    answer : float
    base, voice : int
        Bytes of the weights of the base, and of one adapter.

    Examples
    --------
    >>> print(forty_voices(1400, base=1000, voice=10))
    Right. The base is paid for once, so a further voice costs only its adapter.
    >>> forty_voices(1400, base=1000, voice=10)[:7], forty_voices(40_000, base=1000, voice=10)[:9]
    ('Right. ', 'Not yet. ')
    """
    return respond(
        answer,
        "The base is paid for once, so a further voice costs only its adapter.",
        A_NUMBER,
        (lambda a: about(a, 40 * (base + voice), 0.001), "How often does the base have to be there?"),
        (lambda a: about(a, 40 * base), "That is what forty merged models take."),
        (lambda a: about(a, 40 * voice, 0.01), "Adapters alone answer nothing: what do they stand on?"),
        (
            lambda a: not about(a, base + 40 * voice, 0.001),
            "Add up what is there once and what is there forty times.",
        ),
    )


def int8_bytes(answer, *, shapes):
    """Bytes of a model whose layers are quantised to int8, with a scale of two bytes for each row.

    Parameters
    ----------
    answer : float
    shapes : dict of str to sequence of int
        Of every tensor, by its name.

    Examples
    --------
    >>> shapes = {"embed.weight": (100, 4), "model.layers.0.q.weight": (8, 4), "model.layers.0.norm.weight": (4,)}
    >>> int8_bytes(856, shapes=shapes)[:7], int8_bytes(840, shapes=shapes)[:9]
    ('Right. ', 'Not yet. ')
    """
    layers = {name: shape for name, shape in shapes.items() if ".layers." in name and len(shape) == 2}
    numbers, rows = sum(map(prod, layers.values())), sum(shape[0] for shape in layers.values())
    everything = sum(map(prod, shapes.values()))
    return respond(
        answer,
        "What is not quantised counts: here it is the embedding that keeps the file above the half.",
        A_NUMBER,
        (
            lambda a: about(a, everything, 0.001),
            "You have quantised everything; which tensors stay as they are?",
        ),
        (
            lambda a: about(a, 2 * everything - numbers, 1e-6),
            "Each row of a matrix has a scale besides, of two bytes.",
        ),
        (lambda a: about(a, numbers + 2 * rows, 0.001), "What stays in bfloat16 is in the file too."),
        (
            lambda a: not about(a, 2 * everything - numbers + 2 * rows, 1e-6),
            "One byte for each number of those matrices, two for each of their rows, two for every number of the rest.",
        ),
    )


def who_refuses(answer, *, read_the_base=("deserialise(voice, verify=True)", "verify(base)")):
    """Which calls notice a bit that has flipped in the weights of the base.

    Parameters
    ----------
    answer : set of str
        Names of calls.
    read_the_base : sequence of str
        Those that compare the base's weights with their hashes.

    Examples
    --------
    >>> who_refuses({"one", "two"}, read_the_base=("one", "two"))[:7], who_refuses({"verify(voice)"})[:9]
    ('Right. ', 'Not yet. ')
    """
    wanted, form = set(read_the_base), "Answer with a set of the four names, written as in the question."
    return respond(
        answer,
        "A fingerprint tells one base from another; whether the bytes are whole only a hash of them can tell.",
        (lambda a: not isinstance(a, (set, frozenset, list, tuple)), form),
        (
            lambda a: "deserialise(voice)" in a,
            "A load that maps a file compares what the manifests state; it does not read the weights.",
        ),
        (
            lambda a: "verify(voice)" in a,
            "A saved voice holds the adapter; the base is a saved model of its own.",
        ),
        (lambda a: len(set(a) & wanted) < len(wanted), "One more call reads all bytes of the base."),
        (lambda a: set(a) != wanted, form),
    )
