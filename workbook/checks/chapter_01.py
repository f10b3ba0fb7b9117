"""Notebook 01: bytes of a layer, a number read by hand, and what untying costs."""

from workbook.checks import A_NUMBER, about, respond


def layer_bytes(answer, *, entries):
    """How many bytes the second transformer layer takes.

    Examples
    --------
    >>> from helpers.format.layout import Entry
    >>> names = ["model.layers.0.w", "model.layers.1.w", "model.layers.10.w", "model.norm.weight"]
    >>> entries = [Entry(name, "parameter", "bfloat16", (4, 8), 0) for name in names]
    >>> layer_bytes(64, entries=entries)
    'Right. All layers of this model have the same shapes, so each of them takes as much.'
    >>> layer_bytes(192, entries=entries)
    'Not yet. That is all layers together. How much does one take?'
    """
    sizes = {entry.name: entry.nbytes for entry in entries}
    layers = sum(size for name, size in sizes.items() if name.startswith("model.layers."))
    one = sum(size for name, size in sizes.items() if name.startswith("model.layers.1."))
    more = sum(size for name, size in sizes.items() if name.startswith("model.layers.1"))
    return respond(
        answer,
        "All layers of this model have the same shapes, so each of them takes as much.",
        A_NUMBER,
        (lambda a: a == layers, "That is all layers together. How much does one take?"),
        (lambda a: a == one // 2, "Those are numbers. Each of them takes two bytes."),
        (lambda a: a == more, "Layers 10 to 19 have names that begin in the same way."),
        (lambda a: about(a, one / 1e6, 0.01), "Those are megabytes. The answer is wanted in bytes."),
        (lambda a: a != one, "Add up `nbytes` of every entry whose name says that it belongs to this layer."),
    )  # fmt: skip


def number_by_hand(answer, *, expected):
    """The value of two bytes, read as a bfloat16.

    Examples
    --------
    >>> number_by_hand(0.71875, expected=0.71875)
    'Right. It is the number that the model computes with, to the bit.'
    >>> number_by_hand(16184, expected=0.71875)
    'Not yet. That is the integer of the two bytes. Shift it by 16 bits, then read it as a float32.'
    """
    import struct

    (bits,) = struct.unpack("<I", struct.pack("<f", expected))
    swapped = int.from_bytes((bits >> 16).to_bytes(2, "little"), "big") << 16
    (wrong,) = struct.unpack("<f", struct.pack("<I", swapped))
    return respond(
        answer,
        "It is the number that the model computes with, to the bit.",
        A_NUMBER,
        (lambda a: a == bits >> 16, "That is the integer of the two bytes. Shift it by 16 bits, then read it as a "
         "float32."),
        (lambda a: a == bits, "That is the pattern of bits as an integer. Read the same four bytes as a float32."),
        (lambda a: a == wrong and wrong != expected, "The bytes are the wrong way round: the lower one comes first."),
        (lambda a: float(a) != expected, "Take the two bytes at the tensor's offset, and treat them as in the text."),
    )  # fmt: skip


def untied_bytes(answer, *, matrix, grown):
    """How many bytes a file grows by if the output is untied from the embedding.

    Examples
    --------
    >>> untied_bytes(56_623_104, matrix=56_623_104, grown=56_623_432)
    'Right. The second copy costs a whole matrix, and some bytes for its header and its line in the index.'
    >>> untied_bytes(0, matrix=56_623_104, grown=56_623_432)
    'Not yet. After the untying there are two matrices, equal for now. A file cannot know that they will stay so.'
    """
    return respond(
        answer,
        "The second copy costs a whole matrix, and some bytes for its header and its line in the index.",
        A_NUMBER,
        (lambda a: a == 0, "After the untying there are two matrices, equal for now. A file cannot know that "
         "they will stay so."),
        (lambda a: about(a, matrix / 2, 0.01), "Those are numbers, not bytes."),
        (lambda a: about(a, matrix / 1e6, 0.01), "Those are megabytes. The answer is wanted in bytes."),
        (lambda a: about(a, 2 * matrix, 0.01), "By how much does the file grow? One copy was in it before."),
        (lambda a: not about(a, grown, 0.001), "The matrix has 49,152 rows of 576 numbers, two bytes each."),
    )  # fmt: skip
