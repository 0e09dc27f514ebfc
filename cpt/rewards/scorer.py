"""Scores a batch of completions: a verifier that raises, hangs, dies, or returns no number costs that completion its score,
is counted, and never stops the run."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cpt import user_code
from cpt.rewards.verifiers import build, may_hang, reader, single, time_limit
from cpt.rewards.worker import call_one, read_one
from cpt.rewards.workers import Pool


@dataclass(frozen=True)
class Score:
    """`value` (of `Scorer.read` an answer), or None with the `error` ("timeout: took more than 5 s")."""

    value: float | str | None
    error: str | None = None


@dataclass(frozen=True)
class Failure:
    """How often a verifier failed in one way, and one example. `spec` is the verifier's, as JSON."""

    spec: str
    way: str
    times: int
    example: str


def kind_of(error: str) -> str:
    """`timeout: took more than 5 s` -> `timeout`."""
    return error.split(":")[0]


def failure_lines(failures: Sequence[Failure]) -> list[str]:
    """One line for each way in which a verifier failed, over all processes: how often, and one example."""
    times: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    for failure in failures:
        times[failure.spec, failure.way] += failure.times
        examples.setdefault((failure.spec, failure.way), failure.example)
    return [
        f"verifier {json.loads(spec)['kind']}: {number} x {way}, for example: {examples[spec, way]}"
        for (spec, way), number in times.items()
    ]


class Scorer:
    """One verifier, given as the recipe's plain data. `scored` counts calls over its life, `errors` failures by kind."""

    def __init__(self, spec: dict, workers: int = 2):
        self.spec = spec
        self.scored = 0
        self.errors: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.functions = [
            (each, user_code.read(each["path"], each.get("folder")))
            for each in single(spec)
            if each["kind"] == "function"
        ]
        files = {module: file for _, code in self.functions for module, file in code.items()}
        self._pool = Pool(spec, workers, time_limit(spec), files) if may_hang(spec) else None
        self._verifier = None if self._pool else build(spec)

    def score(self, completions: list[str], rows: list[dict], finished: list[bool] | None = None) -> list[Score]:
        """A Score for each completion, in order. Verifiers see `row["finished"]`: exact, choice and f1 want an end."""
        jobs = self._jobs(completions, rows, finished)
        answers = self._pool.call(jobs) if self._pool else [call_one(self._verifier, *job) for job in jobs]
        return self._told(answers, rows)

    def read(self, completions: list[str], rows: list[dict], finished: list[bool] | None = None) -> list[Score]:
        """The answer that each completion gives as a Score's `value` (None: none), in order. The verifier has a `reader`."""
        jobs = self._jobs(completions, rows, finished)
        if self._pool:
            return self._told(self._pool.call(jobs, "read"), rows)
        read = reader(self.spec)
        return self._told([read_one(read, *job) for job in jobs], rows)

    def _jobs(self, completions: list[str], rows: list[dict], finished: list[bool] | None) -> list[tuple[str, dict]]:
        ends = finished or [True] * len(rows)
        seen = [row | {"finished": end} for row, end in zip(rows, ends, strict=True)]
        return list(zip(completions, seen, strict=True))

    def _told(self, answers: list[dict], rows: list[dict]) -> list[Score]:
        """The answers as scores; failures are counted."""
        scores = []
        self.scored += len(answers)
        for i, answer in enumerate(answers):
            if "error" in answer:
                scores.append(Score(None, f"{answer['error']}: {answer['message']}"))
                self.errors[answer["error"]] += 1
                self.examples.setdefault(answer["error"], f"{answer['message']} (row {rows[i].get('id')})")
            else:
                scores.append(Score(answer["value"]))
        return scores

    def close(self) -> None:
        if self._pool:
            self._pool.close()

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class TaskScorers:
    """Scores rows of several tasks in one batch, each by the verifier of its own task: `row["task"]` says which.

    `scorer_of(task)` is the scorer of a task by its name. `errors` counts how verifiers failed: {kind: times}.
    """

    def __init__(self, scorer_of: Callable[[str], Scorer]):
        self.scorer_of = scorer_of
        self.errors: Counter[str] = Counter()

    def score(self, completions: list[str], rows: list[dict], finished: list[bool]) -> list[float | None]:
        """The reward of each completion, in order; None where it could not be scored."""
        return self._of_each_task("score", completions, rows, finished)

    def read(self, completions: list[str], rows: list[dict], finished: list[bool]) -> list[str | None]:
        """The answer that each completion gives, in order; None where it gives none, or none could be read."""
        return self._of_each_task("read", completions, rows, finished)

    def _of_each_task(self, what: str, completions: list[str], rows: list[dict], finished: list[bool]) -> list:
        places: dict[str, list[int]] = {}
        for place, row in enumerate(rows):
            places.setdefault(row["task"], []).append(place)
        values: list = [None] * len(rows)
        for task, mine in places.items():
            ask = getattr(self.scorer_of(task), what)
            scores = ask([completions[i] for i in mine], [rows[i] for i in mine], [finished[i] for i in mine])
            self.errors.update(kind_of(score.error) for score in scores if score.error)
            for place, score in zip(mine, scores, strict=True):
                values[place] = score.value
        return values


class Scorers:
    """The scorers of a run, one for each different spec, so that their workers stay warm."""

    def __init__(self, workers: int = 2):
        self.workers = workers
        self._made: dict[str, Scorer] = {}
        self._named: set[str] = set()

    def get(self, spec: dict) -> Scorer:
        key = json.dumps(spec, sort_keys=True, default=str)
        if key not in self._made:
            self._made[key] = Scorer(spec, self.workers)
        return self._made[key]

    def keep(self, specs: Iterable[dict]) -> dict[str, dict[str, str]]:
        """Make the scorers of all specs now, so that users' functions stay those of now: {function: {file: SHA-256}}."""
        kept: dict[str, dict[str, str]] = {}
        for spec in specs:
            for each, files in self.get(spec).functions:
                kept.setdefault(each["path"], {}).update(user_code.digests(each.get("folder"), files))
        return kept

    def newly_changed(self, others: Iterable[user_code.Files] = ()) -> list[str]:
        """The files of users' functions, and `others`, that have changed on the disk since they were kept; each once."""
        own = (code for made in self._made.values() for _, code in made.functions)
        files = [each for code in (*own, *others) for each in code.values()]
        changed = {file for file, content in files if user_code.content_of(file) != content} - self._named
        self._named |= changed
        return sorted(changed)

    def failures(self) -> list[Failure]:
        """How the verifiers failed so far in this process."""
        return [
            Failure(key, way, times, scorer.examples[way])
            for key, scorer in self._made.items()
            for way, times in scorer.errors.items()
        ]

    def close(self) -> None:
        for scorer in self._made.values():
            scorer.close()

    def __enter__(self) -> "Scorers":
        return self

    def __exit__(self, *_) -> None:
        self.close()
