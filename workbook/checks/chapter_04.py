"""Notebook 04: names and tensors of a state dict, modes that a load keeps, and memory that a wider type takes."""

from workbook.checks import A_NUMBER, about, respond


def tensors_behind_names(answer, *, names, tensors):
    """How many different tensors stand behind the names of a state dict.

    Examples
    --------
    >>> tensors_behind_names(14, names=17, tensors=14)
    'Right. A file that stores each tensor once needs a list of the other names, or they come back as copies.'
    >>> tensors_behind_names(17, names=17, tensors=14)
    'Not yet. That is the number of names. Some tensors have two.'
    """
    return respond(
        answer,
        "A file that stores each tensor once needs a list of the other names, or they come back as copies.",
        A_NUMBER,
        (lambda a: a == names, "That is the number of names. Some tensors have two."),
        (lambda a: a == names - 1, "You have found the tie. Which submodule has two names, and how many tensors does "
         "it hold?"),
        (lambda a: a == names - 2, "You have found the block with two names. Which weight is tied besides?"),
        (lambda a: a < tensors, "Buffers count too: running statistics and a counter are in the state dict."),
        (lambda a: a != tensors, "state_dict(keep_vars=True) hands out the tensors themselves: compare them by id()."),
    )  # fmt: skip


def modes(answer, *, evaluated):
    """Which submodules are in eval mode after the load of a model in mixed modes.

    Examples
    --------
    >>> modes({"norm"}, evaluated={"norm"})
    'Right. Every submodule has a mode of its own, and each of them is kept.'
    >>> modes(set(), evaluated={"norm"})
    'Not yet. A fresh module is in train mode as a whole, but the loaded one is as it was saved.'
    """
    return respond(
        answer,
        "Every submodule has a mode of its own, and each of them is kept.",
        (lambda a: not isinstance(a, (set, frozenset, list, tuple)), "A set of names is wanted, in curly brackets."),
        (lambda a: len(set(a)) == 0, "A fresh module is in train mode as a whole, but the loaded one is as it was "
         "saved."),
        (lambda a: "" in set(a), "The module itself is in train mode: after .train() only one part was changed."),
        (lambda a: set(a) != set(evaluated), "train() switches the module and all its parts. What is switched back?"),
    )  # fmt: skip


def peak_memory(answer, *, parameters, stored, computed):
    """GB at the peak of a load in which the checkpoint and a wider model are in memory at the same time.

    Examples
    --------
    >>> peak_memory(42, parameters=7, stored=2, computed=4)
    'Right. Three times the file, at a moment when the service has not answered anything yet.'
    >>> peak_memory(14, parameters=7, stored=2, computed=4)
    'Not yet. That is the file alone. The model that its numbers are copied into takes memory too.'
    """
    file, model = parameters * stored, parameters * computed
    return respond(
        answer,
        "Three times the file, at a moment when the service has not answered anything yet.",
        A_NUMBER,
        (lambda a: about(a, file), "That is the file alone. The model that its numbers are copied into takes memory "
         "too."),
        (lambda a: about(a, model), "That is what the model takes in the end. What else is alive while it is filled?"),
        (lambda a: about(a, 2 * model), "The file is narrower than the model: two bytes for each number in it."),
        (lambda a: not about(a, file + model), "Parameters times bytes, for the checkpoint and for the model, added."),
    )  # fmt: skip
