"""The Python face of `cpt`, and what the command line calls: one module for each thing that it does.

`import cpt` gives the functions by name and imports these modules when they are first used. docs/python.md
"""
