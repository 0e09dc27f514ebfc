"""Judging a stream: asking the questions (`evaluate`), the matrix and its metrics, their intervals, and the gates."""
