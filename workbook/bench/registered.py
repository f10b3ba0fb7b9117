"""A mapped file registered with CUDA, so that the GPU fetches from the page cache without a processor's copy."""

import contextlib
import mmap
import warnings

_READ_ONLY = 8  # cudaHostRegisterReadOnly: the GPU will not write, which a map of a file does not allow


@contextlib.contextmanager
def registered(path, device, shared):
    """The bytes of a file as a tensor, registered with the driver while the block runs; on the CPU only mapped.

    Parameters
    ----------
    path : path-like
    device : str
    shared : bool
        Map the file's own pages, read-only. Otherwise copy-on-write: more drivers register that, but
        the kernel makes a private copy of each page first.

    Yields
    ------
    torch.Tensor

    Raises
    ------
    torch.cuda.CudaError
        The driver does not register such a map.
    """
    import torch

    flags, prot = (mmap.MAP_SHARED, mmap.PROT_READ) if shared else (mmap.MAP_PRIVATE, 3)
    with open(path, "rb", buffering=0) as file:
        raw = mmap.mmap(file.fileno(), 0, flags=flags, prot=prot)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it is read-only
        data = torch.frombuffer(raw, dtype=torch.uint8)
    if device == "cpu":
        yield data
        return
    driver = torch.cuda.cudart()
    torch.cuda.check_error(
        driver.cudaHostRegister(data.data_ptr(), data.numel(), _READ_ONLY if shared else 0)
    )
    try:
        yield data
    finally:
        torch.cuda.check_error(driver.cudaHostUnregister(data.data_ptr()))


def tensors(model, device, shared):
    """The tensors of a model in this package's format, by name, fetched from its registered file.

    Parameters
    ----------
    model : workbook.bench.models.Model
    device : str
    shared : bool
        See `registered`.

    Returns
    -------
    dict of str to torch.Tensor

    Raises
    ------
    torch.cuda.CudaError
        The driver does not register such a map.
    """
    import torch

    from helpers.format import manifest

    found = {}
    with registered(model.file("helpers"), device, shared) as data:
        for entry in manifest.read(model.file("helpers").parent).entries:
            part = data[entry.offset : entry.offset + entry.nbytes].to(device, non_blocking=True, copy=True)
            found[entry.name] = part.view(getattr(torch, entry.dtype)).view(entry.shape)
        if device != "cpu":
            torch.cuda.synchronize()
    return found
