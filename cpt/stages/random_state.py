"""The random state of a process as a value: what a checkpoint that is written later than its step must hold."""

import random

import numpy as np
import torch


def random_state() -> tuple:
    """The states of Python's, numpy's and torch's generators, those of all GPUs among them."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), gpus


def restore(state: tuple) -> None:
    """Put the generators back to what `random_state` gave."""
    python, numpy, cpu, gpus = state
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if gpus:
        torch.cuda.set_rng_state_all(gpus)
