"""Seeds that follow from others."""

import numpy as np


def derived(*numbers: int) -> int:
    """A seed for these numbers, independent of that for others (numpy's SeedSequence; 31 bits, as transformers wants)."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)
