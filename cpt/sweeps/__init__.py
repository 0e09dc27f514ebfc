"""Sweeps: many runs from one file, each a run directory of its own, resumed cell by cell, and a comparison at the end."""
