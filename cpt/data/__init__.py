"""Rows: where they come from (sources, procedural), what they look like (rows), and how a stream holds them (stream)."""
