"""Checks of notebook 09."""

import torch

from workbook.checks import A_NUMBER, about, are_two_numbers, respond


def least_seconds(answer):
    """The time that 35 GB take over 40 Gbit/s.

    Examples
    --------
    >>> least_seconds(7)
    'Right. No loader can be faster than the bytes arrive. With a warm cache none of them has to.'
    >>> least_seconds(0.875)
    'Not yet. Networks are measured in bits, and a byte has eight.'
    """
    return respond(
        answer,
        "No loader can be faster than the bytes arrive. With a warm cache none of them has to.",
        A_NUMBER,
        (lambda a: about(a, 0.875), "Networks are measured in bits, and a byte has eight."),
        (
            lambda a: about(a, 35 / 320),
            "Bits become bytes by dividing by eight, and that makes the network slower.",
        ),
        (lambda a: not about(a, 7), "Bytes divided by bytes a second are seconds."),
    )


def connections(answer):
    """The connections of 80 MB/s that fill 25 Gbit/s, and where the rule of `pace.wanted` stays.

    Examples
    --------
    >>> connections((40, 64))
    'Right. The rule takes large steps, so it ends at or above what is needed, as long as the gain is clear.'
    >>> connections((39, 64))
    'Not yet. With that many the network is not quite full.'
    """
    return respond(
        answer,
        "The rule takes large steps, so it ends at or above what is needed, as long as the gain is clear.",
        (lambda a: not are_two_numbers(a), "A pair of numbers, such as (8, 16)."),
        (lambda a: about(a[0], 312.5), "25 Gbit/s are gigabits; divide by eight first."),
        (lambda a: a[0] < 40, "With that many the network is not quite full."),
        (lambda a: a[0] != 40, "Fewer would fill it."),
        (
            lambda a: a[1] != 64,
            "Call history with the smaller of 80e6 * n and the bytes of the network.",
        ),
    )


def loaded_from_a_bare_file(answer, *, expected):
    """Whether a model has the weights of another.

    Examples
    --------
    >>> model = torch.nn.Linear(2, 3)
    >>> loaded_from_a_bare_file(model, expected=model)
    'Right. A bare file is enough if you know what it belongs to; the manifest is what knows it for you.'
    >>> loaded_from_a_bare_file(torch.nn.Linear(2, 3), expected=model)
    'Not yet. Some weights differ.'
    """

    def differs(model):
        state = model.state_dict()
        return any(not torch.equal(tensor, state[name]) for name, tensor in expected.state_dict().items())

    return respond(
        answer,
        "A bare file is enough if you know what it belongs to; the manifest is what knows it for you.",
        (lambda a: not isinstance(a, torch.nn.Module), "The answer is the model that deserialise returns."),
        (lambda a: any(p.is_meta for p in a.parameters()), "That is the empty model; deserialise fills it."),
        (differs, "Some weights differ."),
    )
