"""Checks of notebook 11."""

from workbook.checks import about, respond


def memory_of_ten(answer, *, one, four):
    """The memory of ten mapped replicas, from that of one and of four.

    Examples
    --------
    >>> memory_of_ten(6.5, one=3.8e9, four=4.7e9)
    'Right. The weights are there once, and each replica adds its own process.'
    >>> memory_of_ten(38, one=3.8e9, four=4.7e9)
    'Not yet. That has the weights ten times; mapped replicas share them.'
    """
    each = (four - one) / 3
    right = (one + 9 * each) / 1e9
    return respond(
        answer,
        "The weights are there once, and each replica adds its own process.",
        (lambda a: about(a, 10 * one / 1e9), "That has the weights ten times; mapped replicas share them."),
        (lambda a: about(a, 10 * four / 4e9), "A quarter of the four includes a quarter of the weights."),
        (lambda a: about(a, right * 1e9), "In GB, so divide by 1e9."),
        (
            lambda a: about(a, right + each / 1e9, 0.01),
            "One replica is in the first figure; nine are further ones.",
        ),
        (lambda a: not about(a, right, 0.02), "What do three further replicas add to the first? Then nine?"),
    )


def storage_decides(answer, *, storage, node, per_node):
    """The number of replicas from which the storage's bandwidth is the limit.

    Examples
    --------
    >>> storage_decides(81, storage=12.5, node=1.25, per_node=8)
    'Right. The size of the model cancels out; only the bandwidths and the number on a machine decide.'
    >>> storage_decides(80, storage=12.5, node=1.25, per_node=8)
    'Not yet. There the two limits are equal.'
    """
    equal = per_node * storage / node
    return respond(
        answer,
        "The size of the model cancels out; only the bandwidths and the number on a machine decide.",
        (lambda a: a == equal, "There the two limits are equal."),
        (
            lambda a: about(a, storage / node, 0.11),
            "That many machines the storage serves at their full speed; each has several replicas.",
        ),
        (lambda a: a != int(equal) + 1, "Set the two terms inside max() equal, for machines that are full."),
    )


def in_both_stages(answer, *, names):
    """The tensors that both halves of a pipeline need.

    Examples
    --------
    >>> names = ["model.embed_tokens.weight", "model.layers.0.mlp.weight", "model.rotary_emb.inv_freq"]
    >>> in_both_stages(["model.embed_tokens.weight", "model.rotary_emb.inv_freq"], names=names)
    'Right. What is needed at both ends, or in every layer, is held by every stage.'
    >>> in_both_stages(["model.embed_tokens.weight"], names=names)
    'Not yet. Every layer turns its vectors by their position. Which names in the list belong to that?'
    """
    rotary = [name for name in names if "rotary" in name and "original" not in name]
    return respond(
        answer,
        "What is needed at both ends, or in every layer, is held by every stage.",
        (lambda a: not {*a} <= {*names}, "Names as they stand in the list `names`, in a list."),
        (lambda a: any(".layers." in name for name in a), "Each layer is in one stage alone."),
        (
            lambda a: any(name.endswith("norm.weight") for name in a),
            "The last norm comes behind the last layer, in the second stage alone.",
        ),
        (
            lambda a: not any("embed" in name for name in a),
            "The output matrix is not in the list, since it is tied. To what?",
        ),
        (
            lambda a: (
                not {*rotary} <= {*a}
            ),  # what is kept beside them, the original ones, may be named or not
            "Every layer turns its vectors by their position. Which names in the list belong to that?",
        ),
    )
