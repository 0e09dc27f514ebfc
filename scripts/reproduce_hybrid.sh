#!/usr/bin/env bash
# The table of hybrid methods: 11 methods, 3 seeds, at equal updates and at equal tokens. Some hours of one core; continues
# cell by cell where it was stopped. Words are passed on: --show, --jobs 2, --methods sft rlvr.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-.venv/bin/python}" scripts/reproduce.py hybrid "$@"
