"""Averages of the weights: `ema` and `mcl`."""
