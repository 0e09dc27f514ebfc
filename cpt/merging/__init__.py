"""Merging models in weight space: pure functions over tensors (one family a file), and one streaming pass over safetensors.

The functions take tensors of one shape and give the merge in the first tensor's dtype; they compute in float32, or in
float64 where an input is that. `merge` (cpt/merging/merge.py) applies one of them to folders of any size: docs/merging.md.
"""
