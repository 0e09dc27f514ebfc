"""How long a search for contamination takes: made-up rows against made-up questions, some of which are planted.

python scripts/bench_contamination.py --rows 1000000 --questions 100000
"""

import argparse
import resource
import time

import numpy as np

from cpt.data.ngrams import Questions


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rows", type=int, default=1_000_000)
    asked.add_argument("--questions", type=int, default=100_000)
    asked.add_argument("--words", type=int, default=60)
    asked.add_argument("--planted", type=int, default=1000)
    given = asked.parse_args()
    rng = np.random.default_rng(0)
    vocabulary = np.array(
        ["".join(chr(97 + each) for each in rng.integers(0, 26, size)) for size in 2 + np.arange(30_000) % 8]
    )

    def text() -> str:
        return " ".join(vocabulary[(30_000 * rng.random(given.words) ** 3).astype(int)])

    start = time.monotonic()
    questions = [text() for _ in range(given.questions)]
    planted = set(range(0, given.rows, max(1, given.rows // given.planted)))
    rows = (
        f"{text()} {questions[number % given.questions]}" if number in planted else text()
        for number in range(given.rows)
    )
    rows = list(rows)
    print(f"made up in {time.monotonic() - start:.1f} s")
    start = time.monotonic()
    index = Questions(questions, 13)
    print(f"{given.questions:,} questions of {given.words} words: {time.monotonic() - start:.1f} s")
    start = time.monotonic()
    found = {each.text for each in index.overlaps(rows, 0.5)}
    print(f"{given.rows:,} rows: {time.monotonic() - start:.1f} s")
    print(f"planted {len(planted)}, found {len(found & planted)}, others {len(found - planted)}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
