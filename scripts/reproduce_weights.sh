#!/usr/bin/env bash
# The table of averages and merges: SFT and RLVR, 15 strategies, 3 seeds. Some hours of one core; continues cell by cell where it
# was stopped. Words are passed on: --show, --jobs 2, --methods rlvr-none rlvr-wise.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-.venv/bin/python}" scripts/reproduce.py weights "$@"
