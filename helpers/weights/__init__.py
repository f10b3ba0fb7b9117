"""How the bytes of tensors come into memory, and how they are written.

Three kinds of object stand for the weights of an opened model, and whoever loads one need not know
which it has: `helpers.weights.mapped.Mapped`, `helpers.weights.private.Private` (and
`helpers.weights.encrypted.Encrypted`), `helpers.weights.streamed.Streamed`; a fourth,
`helpers.weights.arriving.Arriving`, waits for the first two while another process fetches. Each has

- ``begin(part)``: open the file and check what costs no weights read; start to stream;
- ``tensors(device)``: kind and tensor by name;
- ``close()``: end what is no longer needed;
- ``check(encryption, progress)``: compare everything with its hashes.
"""
