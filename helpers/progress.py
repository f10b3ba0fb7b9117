"""A bar for what takes long."""


def progress_bar(total, title, progress):
    """A bar that counts bytes and appears only if the work takes longer than 1.5 s."""
    from tqdm.auto import tqdm  # 50 ms: not at import, since a mapped load shows no bar

    return tqdm(
        total=total, desc=title, unit="B", unit_scale=True, delay=1.5, leave=False, disable=not progress
    )
