"""Train the built-in toy model again (cpt/tiny.py), about a minute of two cores.

    python scripts/make_tiny.py OUT              the model of seed 0, to the new folder OUT
    python scripts/make_tiny.py OUT --seed 3

The package ships what this made of seed 0 (cpt/tiny_model). Floating-point arithmetic differs from processor to processor,
and after 1,400 steps so do the weights: expect the same skills, not the same bytes. tests/test_tiny.py compares the skills.
"""

import argparse
from pathlib import Path

from cpt import tiny
from cpt.files import seal
from cpt.screen import Screen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    parser.add_argument("--seed", type=int, default=0, help="the recipes' model.seed (0)")
    asked = parser.parse_args()
    if asked.out.exists():
        parser.error(f"{asked.out} exists; give a new folder")
    tiny.make(asked.out, asked.seed, Screen(1))
    seal(asked.out)
    print(asked.out)


if __name__ == "__main__":
    main()
