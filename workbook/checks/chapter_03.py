"""Notebook 03: the parameters of one part of a pipeline, what a save records, where a large UNet's bytes are."""

from workbook.checks import A_NUMBER, about, respond


def vae_parameters(answer, *, parameters, tensors):
    """How many parameters the pipeline's autoencoder has.

    Examples
    --------
    >>> vae_parameters(43711, parameters=43711, tensors=100)
    'Right. The directory of a component is a complete saved model, and nothing else had to be loaded.'
    >>> vae_parameters(100, parameters=43711, tensors=100)
    'Not yet. That is the number of tensors. How many numbers do they hold together?'
    """
    return respond(
        answer,
        "The directory of a component is a complete saved model, and nothing else had to be loaded.",
        A_NUMBER,
        (lambda a: a == tensors, "That is the number of tensors. How many numbers do they hold together?"),
        (lambda a: a == 4 * parameters, "That is their size in bytes. Each number takes four of them."),
        (lambda a: a > parameters, "That is too many. Is it the VAE alone that you have counted?"),
        (lambda a: a != parameters, "Load `pipeline/vae` and add up `numel()` over its parameters."),
    )


def recorded(answer, *, choices):
    """Which of several things a saved pipeline records.

    Examples
    --------
    >>> choices = {"weights", "seed", "classes of the parts"}
    >>> recorded({"weights", "classes of the parts"}, choices=choices)
    'Right. The rest are arguments of the call, so they belong in the configuration of the service.'
    >>> recorded({"weights", "seed"}, choices=choices)
    'Not yet. One of these is given to the pipeline anew with every call.'
    """
    saved = choices - {"seed", "number of steps"}
    return respond(
        answer,
        "The rest are arguments of the call, so they belong in the configuration of the service.",
        (lambda a: isinstance(a, str) or not set(a) <= choices, "A set of words, written as in the question."),
        (lambda a: set(a) - saved, "One of these is given to the pipeline anew with every call."),
        (lambda a: set(a) != saved, "Something is missing. Look into the files of the directory once more."),
    )  # fmt: skip


def share_of_the_way_up(answer, *, up, middle, total):
    """The share of a UNet's bytes that belongs to its way up.

    Examples
    --------
    >>> share_of_the_way_up(0.6, up=60, middle=10, total=100)
    'Right. The large UNet is heavier on its way up as well, for the same reason.'
    >>> share_of_the_way_up(0.7, up=60, middle=10, total=100)
    'Not yet. The middle belongs to neither way.'
    """
    return respond(
        answer,
        "The large UNet is heavier on its way up as well, for the same reason.",
        A_NUMBER,
        (lambda a: a > 1, "A share is a number between 0 and 1."),
        (lambda a: about(a, (up + middle) / total, 0.02), "The middle belongs to neither way."),
        (lambda a: about(a, middle / total, 0.02), "That is the share of the middle."),
        (lambda a: not about(a, up / total, 0.03), "Add up the parameters whose names begin with `up_blocks`, and "
         "divide by the number of all parameters."),
    )  # fmt: skip
