"""cpt: continual post-training of language models, with the proof of what each update kept."""

__version__ = "0.1.0"
