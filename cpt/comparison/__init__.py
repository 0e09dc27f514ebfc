"""Comparing runs: what is comparable, paired differences with intervals and tests, verdicts, and the report of them.

Reads the JSON of run directories, and lm-eval's sample logs; no weights, no network, no torch.
"""
