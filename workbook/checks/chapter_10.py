"""Checks of notebook 10."""

import hashlib

from workbook.checks import A_NUMBER, about, respond


def seconds_of_hashing(answer, *, speed):
    """The time that 200 starts a day spend on hashing 14 GB each.

    Examples
    --------
    >>> seconds_of_hashing(1400, speed=2e9)
    'Right. One check where the bytes arrive would do, as long as nobody else writes to that disk.'
    >>> seconds_of_hashing(7, speed=2e9)
    'Not yet. That is one start; a day has 200.'
    """
    return respond(
        answer,
        "One check where the bytes arrive would do, as long as nobody else writes to that disk.",
        A_NUMBER,
        (lambda a: about(a, 14e9 / speed), "That is one start; a day has 200."),
        (
            lambda a: about(a, 200 * 14 / speed),
            "Mind the units: 14 GB are 14e9 bytes, and speed is in bytes per second.",
        ),
        (
            lambda a: about(a, speed / 14e9 * 200),
            "Bytes divided by bytes per second are seconds; that is upside down.",
        ),
        (
            lambda a: not about(a, 200 * 14e9 / speed),
            "Divide the bytes of a start by the speed, then multiply.",
        ),
    )


def who_notices(answer):
    """Which calls notice a changed digit in config.json.

    Examples
    --------
    >>> who_notices({"verify", "deserialise(verify=True)"})
    'Right. A manifest holds the hash of every file, and it is compared when hashes are compared.'
    >>> who_notices({"verify"})
    'Not yet. verify=True promises to compare every tensor and every file.'
    """
    return respond(
        answer,
        "A manifest holds the hash of every file, and it is compared when hashes are compared.",
        (
            lambda a: not set(a) <= {"deserialise", "deserialise(verify=True)", "verify"},
            'A set of some of the three names, such as {"verify"}.',
        ),
        (
            lambda a: "deserialise" in a,
            "Without verify=True, what is compared belongs to the weights. Is config.json a part of them?",
        ),
        (
            lambda a: "deserialise(verify=True)" not in a,
            "verify=True promises to compare every tensor and every file.",
        ),
        (lambda a: "verify" not in a, "verify checks in place what the load with verify=True checks."),
    )


def fingerprint(answer, *, tensors):
    """The first eight bytes of the SHA-256 over the tensors' own.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> tensors = [SimpleNamespace(sha256=hashlib.sha256(data).hexdigest()) for data in (b"a", b"b")]
    >>> fingerprint("e5a01fee14e0ed5c", tensors=tensors)
    'Right. Two models of one architecture differ in it, so a swap shows in the first hundred bytes.'
    >>> fingerprint("62af5c3cb8da3e4f", tensors=tensors)
    'Not yet. That hashes the digits as text: bytes.fromhex makes the 32 bytes of each.'
    """
    raw = [bytes.fromhex(tensor.sha256) for tensor in tensors]
    whole = hashlib.sha256(b"".join(raw)).hexdigest()
    as_text = hashlib.sha256("".join(tensor.sha256 for tensor in tensors).encode()).hexdigest()
    in_order = hashlib.sha256(b"".join(sorted(raw))).hexdigest()
    return respond(
        answer,
        "Two models of one architecture differ in it, so a swap shows in the first hundred bytes.",
        (
            lambda a: a == as_text[:16],
            "That hashes the digits as text: bytes.fromhex makes the 32 bytes of each.",
        ),
        (
            lambda a: a == whole,
            "That is the whole hash; the fingerprint is its first eight bytes, 16 digits.",
        ),
        (lambda a: a == whole[:8], "A byte is two hexadecimal digits."),
        (
            lambda a: len(raw) > 1 and a == in_order[:16] and in_order != whole,
            "In the order of the file, not sorted.",
        ),
        (
            lambda a: a != whole[:16],
            "Hash all values, joined to one run of bytes. 16 digits of it, as text.",
        ),
    )
