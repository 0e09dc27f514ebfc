"""Numbers of bytes as words, in powers of 1000."""


def size(count: float) -> str:
    """`1.46 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
