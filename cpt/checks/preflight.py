"""What rows must hold before the first step is taken: what their stages train on and what their verifier compares with.

A mistake found here costs seconds; found in task 7 it costs a night. No check stops the others.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cpt.checks.findings import Findings
from cpt.checks.plan import NO_VALIDATION, searches
from cpt.data.rows import Row, called, sft_row
from cpt.data.stream import Stream, TaskData, form_problems
from cpt.recipe import Recipe
from cpt.recipe.stages import StageSpec
from cpt.rewards.answers import unreadable
from cpt.rewards.verifiers import compares, kinds
from cpt.sharding import is_sharded


def check_processes(recipe: Recipe, processes: int, findings: Findings) -> None:
    """Every stage can run in that many processes."""
    for key, stage in stages_of(recipe):
        if stage.dynamic_sampling is not None and processes > 1:
            findings.add(
                f"{key}.dynamic_sampling",
                f"works in one process, not in {processes}: remove it (filter works in several), or start without a "
                "launcher",
            )
        if stage.snr_step is not None and stage.value("gradient_accumulation_steps") * processes < 2:
            findings.add(
                f"{key}.snr_step",
                "the variance of a step's gradient needs two micro-batches, and there is one: set "
                "args.gradient_accumulation_steps to 2 or more (and halve per_device_train_batch_size to keep the "
                "batch), or start more processes",
            )
        if stage.method == "relift" and stage.buffer % processes:
            findings.add(f"{key}.buffer", f"({stage.buffer}) must be a multiple of the {processes} processes")


def stages_of(recipe: Recipe) -> Iterator[tuple[str, StageSpec]]:
    """(key, stage) of all stages."""
    for task in recipe.stream:
        yield from ((f"stream.{task.task}.stages.{index}", stage) for index, stage in enumerate(task.stages))


def check_sharding(recipe: Recipe, findings: Findings) -> None:
    """Nothing needs whole weights or gradients on each process where the launcher shares them out."""
    if not is_sharded():
        return
    for key, what in whole_weights(recipe):
        message = (
            f"{what} on each process, which DeepSpeed and FSDP do not keep (launch with recipes/accelerate/ddp.yaml)"
        )
        findings.add(key, message)


def whole_weights(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(key, what it needs) of all that works on whole weights or gradients."""
    strategies = ((f"strategies.{number}", spec) for number, spec in enumerate(recipe.strategies))
    for key, spec in (*stages_of(recipe), *strategies):
        yield from ((f"{key}.{name}", what) for name, what in spec.whole_weights())
    if recipe.evaluation.during is not None:
        yield "evaluation.during", "evaluation within a stage needs whole weights"


def check_teachers(recipe: Recipe, base: Path, findings: Findings) -> int | None:
    """The fewest positions that a stage's teacher was made for (None: no stage has one, or none says).

    A teacher must be there, and speak the tokens of the student in `base`.
    """
    from cpt.stages import teacher

    known = []
    for key, stage in stages_of(recipe):
        if stage.teacher is not None:
            with findings.collecting():
                known.append(teacher.check(recipe, stage, base, key))
    return min((each for each in known if each is not None), default=None)


def check_top_k(recipe: Recipe, vocabulary: int, findings: Findings) -> None:
    """No stage learns more of the student's tokens than there are."""
    for key, stage in stages_of(recipe):
        if (stage.top_k or 0) > vocabulary:
            findings.add(f"{key}.top_k", f"({stage.top_k}) is more than the model's vocabulary ({vocabulary})")


def check_forms(recipe: Recipe, stream: Stream, findings: Findings) -> None:
    """Every row has what its stages train on and what its verifier compares with. Needs no tokenizer."""
    for task in stream.tasks:
        check_stages(task, findings)
    check_validation(recipe, stream, findings)
    for key, task in evaluated(stream):
        check_evaluated(f"{key}.eval" if key.endswith("data") else key, task.eval, task.spec, findings)


def evaluated(stream: Stream) -> Iterator[tuple[str, TaskData]]:
    """(how messages name its rows, task) for the tasks of the stream and of the suites."""
    yield from ((f"stream.{task.name}.data", task) for task in stream.tasks)
    for name, tasks in stream.suites.items():
        yield from ((f"suite {name}, task {task.name}", task) for task in tasks)


def check_validation(recipe: Recipe, stream: Stream, findings: Findings) -> None:
    """Where a strategy searches on validation rows: every task has some, and they can be scored."""
    searching = searches(recipe)
    for task in stream.tasks if searching else ():
        key = f"stream.{task.name}.data.validation"
        if len(task.validation) == 0 and not findings.about(key):
            findings.add(key, NO_VALIDATION.format(searching[0]))
        check_evaluated(f"stream.{task.name}.data.validation", task.validation, task.spec, findings)


# -- what stages and verifiers need ----------------------------------------------------------------------------------------


def check_stages(task: TaskData, findings: Findings) -> None:
    """Every stage can take every training row; one that trains on rewards has what the reward compares with."""
    for kind, stages in by_kind(task).items():
        for row, what, message in form_problems(task.train, stages[0]):
            findings.add(f"stream.{task.name}", message, f"{kind} {what}", row)
        judging = next((stage for stage in stages if stage.needs_reward and stage.ttrl is None), None)
        if judging is not None:
            scored_rows = task.train.at([place for place, row in enumerate(task.train) if judging.scores_answers(row)])
            verifier = task.spec.reward or task.spec.verifier
            check_judged(f"stream.{task.name}.data.train", scored_rows, verifier, findings)


def by_kind(task: TaskData) -> dict[str, list[StageSpec]]:
    """{kind: the task's stages of that kind}."""
    stages: dict[str, list[StageSpec]] = {}
    for stage in task.spec.stages:
        stages.setdefault(stage.kind, []).append(stage)
    return stages


def check_evaluated(key: str, rows: Sequence[Row], spec: Any, findings: Findings) -> None:
    """Every row has what evaluation needs: what the verifier of the task `spec` does, or something to measure."""
    if not spec.by_likelihood:
        check_judged(key, rows, spec.verifier, findings)
        return
    texts = [row.get("raw_text") is not None for row in rows]
    if any(texts) and not all(texts):
        mixed = [called(rows[texts.index(each)]) for each in (True, False)]
        findings.add(key, f"{mixed[0]} has raw_text and {mixed[1]} has not: give texts a task of their own")
    for row in rows:
        if row.get("raw_text") is None and sft_row(row) is None:
            fields = ", ".join(name for name in row if name != "id")
            message = (
                f"{called(row)} has no demonstration (it has {fields}); `metric: likelihood` measures one, or messages, or "
                "a raw_text: name the column with `columns`, e.g. {demonstration: solution}"
            )
            findings.add(key, message, "lacking demonstration", row)


def check_judged(key: str, rows: Sequence[Row], verifier: Any, findings: Findings) -> None:
    """Every row has a prompt to ask and what the verifier needs: the answer, or the entry of reasoning-gym."""
    spec = verifier.model_dump()
    used = kinds(spec)
    wanted = ["prompt", *(["answer"] if compares(spec) else [])]
    answers: dict[str, None] = {}
    for row in rows:
        lacking = [name for name in wanted if row.get(name) is None]
        fields = ", ".join(name for name in row if name != "id")
        if lacking:
            findings.add(
                key,
                f"{called(row)} has no {' and no '.join(lacking)} (it has {fields}); the verifier {verifier.kind} "
                "needs it: name the column with `columns`, e.g. {answer: solution}",
                f"lacking {' '.join(lacking)}",
                row,
            )
        if row.get("answer") is not None:
            answers[row["answer"]] = None
        if "reasoning_gym" in used and not {"reasoning_gym", "entry"} <= set(row.get("metadata") or {}):
            findings.add(
                key,
                f"{called(row)} has no entry of reasoning-gym's in its metadata (it has {fields}); the verifier "
                "reasoning_gym needs it: use `source: reasoning_gym`, or another verifier",
                "entry",
                row,
            )
    wrong = dict(unreadable(spec, answers))
    for row in rows if wrong else ():
        answer = row.get("answer")
        if answer in wrong:
            message = f"{called(row)}: no completion could match its answer {answer[:60]!r}: {wrong[answer]}"
            findings.add(key, message, "unreadable answer", row)
