"""cpt: continual post-training of language models, with a measure of what each update kept."""

import os

__version__ = "0.1.0"

# TRL reports every trainer that is made to its hub. Here nothing is reported, unless the user sets this to 0.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# TRL warns whoever imports its experimental part. Its version is pinned and what is used of it is tested here.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
# Bars of datasets would stand between a command's own lines.
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
