"""Numbers as words: bytes in powers of 1000, and counted things."""


def size(count: float) -> str:
    """`1.46 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def many(number: int, thing: str) -> str:
    """`1 thread`, `2 threads`, `3 processes`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}{'es' if thing.endswith('s') else 's'}"
