"""Random numbers that depend on the seed, the tensor's name and the model's place alone: not on threads, chunks or order.

Each element of each tensor of each model has a number of its own, found by advancing a counted generator (PCG64 DXSM) to it.
"""

from hashlib import sha256

import numpy as np

RANGE = 2.0**32


def uniform_bits(seed: int, name: str, model: int, start: int, count: int) -> np.ndarray:
    """uint32 (count,): the numbers of the elements `start` and on of the tensor `name` of model number `model`."""
    name_digest = np.frombuffer(sha256(name.encode()).digest(), np.uint32)
    source = np.random.PCG64DXSM(np.random.SeedSequence([seed, model, *name_digest.tolist()]))
    source.advance(start // 2)  # one step gives the numbers of two elements
    odd = start % 2
    return source.random_raw((count + odd + 1) // 2).view(np.uint32)[odd : odd + count]


def chance(seed: int, name: str, model: int, start: int, share) -> np.ndarray:
    """uint8: 1 with probability `share` (an array, one an element, flat), else 0. To 2**-32."""
    return (uniform_bits(seed, name, model, start, share.size) < share * RANGE).view(np.uint8)
