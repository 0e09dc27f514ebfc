"""What can be known of a recipe without training: the same checks for `cpt check` and `cpt run`, all problems at once.

`cpt run` adds only what needs weights. What is not on this machine (a model, a data set of the hub) is downloaded by a run
and by `cpt check --full`; a plain `cpt check` says that it was not looked at.
"""

import contextlib
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from cpt import manifest, models, ranks
from cpt.checks.adapter import check_adapter
from cpt.checks.benchmarks import check_context, check_leaks, key_in, load_benchmarks
from cpt.checks.findings import Findings
from cpt.checks.known import CHATS, letters_samples, needs_model, rows_are_known
from cpt.checks.plan import too_little_room
from cpt.checks.preflight import check_forms, check_processes, check_sharding, check_teachers, check_top_k
from cpt.checks.samples import form_text, samples
from cpt.checks.steps import world
from cpt.checks.surroundings import check_surroundings, warn_of_during, warn_of_kinds
from cpt.checks.tokens import TokenChecks
from cpt.data import encoding
from cpt.data.stream import Stream, read_stream
from cpt.errors import UserError
from cpt.recipe import Hub, Recipe, Suite, SuiteTask, Task, benchmarks_of, suites_of
from cpt.recipe.suites import LmEval
from cpt.recipe.user_kinds import code_hashes
from cpt.rewards.verifiers import function_files
from cpt.rundir import Point, RunDir
from cpt.screen import hush_libraries, no_log


@dataclass
class Fit:
    """How the rows fit the model. `stream` has none that `overlong` leaves out; `counts` say how many those were, and
    `samples` are a rendered prompt and example of each task (a suite's task is SUITE/TASK), `forms` how its strings are sent,
    where that was chosen here."""

    stream: Stream
    counts: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    samples: dict[str, list[str]] = field(default_factory=dict)
    forms: dict[str, str] = field(default_factory=dict)


@dataclass
class CheckResult:
    """What `check` saw that the plan says: what could not be looked at here, warnings, each task's samples, and how rows
    were read."""

    unseen: list[str]
    warnings: list[str]
    samples: dict[str, list[str]]
    notes: list[str]


def check(recipe: Recipe, out: Path, full: bool = False) -> CheckResult:
    """Look at all that `cpt run` would refuse.

    `full` downloads what is not on this machine, and also checks what is known to hold.

    Raises:
        RecipeErrors: every problem that was found.
    """
    findings = Findings()
    suites = load_suites(recipe, findings)
    check_world(recipe, suites, out, findings)
    if warning := too_little_room(recipe, out):
        findings.warn("--out", warning)
    warn_of_kinds(recipe, findings)
    warn_of_during(recipe, findings)
    benchmarks, unseen = load_benchmarks(benchmarks_in(recipe), findings, full, partial(key_in, recipe))
    stream, shown = Stream((), {}, benchmarks), {}
    with_model = full or bool(benchmarks) or needs_model(recipe, suites)
    goes_on = RunDir(out).begun()
    with no_log():
        if with_model or goes_on or not rows_are_known(recipe, suites):
            stream, lacking = check_rows(recipe, suites, findings, fetch=full)
            stream, unseen = replace(stream, benchmarks=benchmarks), [*unseen, *lacking]
            check_leaks(stream, findings)
        if goes_on and not unseen and not findings.problems:
            with findings.collecting():
                code = {"verifiers": function_files(stream.verifiers()), "user_code": code_hashes(recipe)}
                manifest.check(RunDir(out), recipe, stream.manifest(), code, world())
        if with_model:
            folder = models.resolve(recipe) if full and not findings.problems else model_here(recipe, out)
            if folder is None:
                unseen.append(f"the model {recipe.model.path}, and so the tokens of all rows")
            else:
                shown = check_with_model(recipe, stream, folder, findings).samples
        elif not findings.problems:
            shown = letters_samples(recipe, suites)
    findings.check()
    return CheckResult(unseen, findings.warnings, shown, stream.notes())


def before_run(recipe: Recipe, out: Path) -> Stream:
    """What a run looks at before it writes anything: all but what needs the model. Returns its rows.

    Where the run is refused anyway, it looks at what needs the model too, if that is here.

    Raises:
        RecipeErrors: every problem that was found.
    """
    findings = Findings()
    suites = load_suites(recipe, findings)
    check_world(recipe, suites, out, findings)
    stream, _ = check_rows(recipe, suites, findings, fetch=True)
    stream = replace(
        stream, benchmarks=load_benchmarks(benchmarks_in(recipe), findings, True, partial(key_in, recipe))[0]
    )
    check_leaks(stream, findings)
    if findings.problems and needs_model(recipe, suites) and (folder := model_here(recipe, out)) is not None:
        with no_log():
            check_with_model(recipe, stream, folder, findings)
    findings.check()
    return stream


def check_world(recipe: Recipe, suites: dict[str, Suite], out: Path, findings: Findings) -> None:
    """What the recipe names outside of itself, and how many processes there are."""
    check_surroundings(recipe, suites, out, findings)
    check_processes(recipe, world(), findings)
    check_sharding(recipe, findings)


def load_suites(recipe: Recipe, findings: Findings) -> dict[str, Suite]:
    with findings.collecting():
        return suites_of(recipe)
    return {}


def benchmarks_in(recipe: Recipe) -> dict[str, LmEval]:
    """The recipe's suites of lm-eval's tasks; what is wrong with its suites `load_suites` says."""
    with contextlib.suppress(UserError):
        return benchmarks_of(recipe)
    return {}


def check_rows(recipe: Recipe, suites: dict[str, Suite], findings: Findings, fetch: bool) -> tuple[Stream, list[str]]:
    """Read all rows, prove the splits apart, and look at what stages and verifiers need of each row.

    Returns the tasks whose rows can all be read, and what was not looked at: the hub's data sets, unless `fetch`.
    """
    unseen: list[str] = []

    def is_read(key: str, task: Task | SuiteTask) -> bool:
        if isinstance(task.data, Hub) and not fetch:
            unseen.append(f"the rows of {task.task} ({task.data.path}, on the hub)")
            return False
        return not findings.about(f"{key}.data")

    stream, problems = read_stream(recipe, suites, is_read)
    for problem in problems:
        findings.take(problem)
    check_forms(recipe, stream, findings)
    return stream, unseen


def model_here(recipe: Recipe, out: Path) -> Path | None:
    """The folder of the model, as far as it is on this machine: of a run that was begun, its own copy."""
    base = RunDir(out).model(Point(0, None))
    return base if (base / "config.json").is_file() else models.here(recipe)


def check_with_model(recipe: Recipe, stream: Stream, folder: Path, findings: Findings) -> Fit:
    """What needs the tokenizer and the config in `folder`: each row's tokens, teachers, the adapter; and TRL's configs."""
    from cpt.stages.configs import check_configs

    hush_libraries()
    fit = Fit(stream)
    if not findings.about("model"):
        fit = check_tokens(recipe, stream, folder, findings)
        with findings.collecting():
            check_attention(folder, recipe)
        with findings.collecting():
            check_adapter(folder, recipe)
    check_configs(recipe, findings)
    return fit


def check_attention(folder: Path, recipe: Recipe) -> None:
    """transformers has the attention that the recipe names, for this model and on this machine. Raises UserError."""
    import torch
    from transformers import AutoModelForCausalLM

    name = recipe.model.attn_implementation
    if name is None:
        return
    if name == "flex_attention" and ranks.state().device.type == "cpu":
        raise UserError("model.attn_implementation: flex_attention cannot train on the CPU: use sdpa or eager")
    options = {"attn_implementation": name, "trust_remote_code": recipe.model.trust_remote_code}
    try:
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(models.load_config(folder, recipe), **options)
    except (ValueError, ImportError) as error:
        raise UserError(f"model.attn_implementation: {' '.join(str(error).split())[:200]}") from error


def check_tokens(recipe: Recipe, stream: Stream, folder: Path, findings: Findings) -> Fit:
    """The weights and the tokenizer in `folder` are whole and belong together, and every row fits them."""
    from cpt.merging.heads import names_of
    from cpt.merging.reading import Weights

    with findings.collecting():
        models.check_weights(folder)
        names_of(Weights(folder))  # a lost head is refused
    with findings.collecting():
        model = encoding.load(folder, folder, recipe)
        models.check_vocabulary(folder, model.tokenizer, recipe)
        vocabulary = models.load_config(folder, recipe).get_text_config().vocab_size
        check_top_k(recipe, vocabulary, findings)
        lengths = [models.context_length(folder, recipe), check_teachers(recipe, folder, findings)]
        context = min((each for each in lengths if each is not None), default=None)
        check_context(recipe, stream.benchmarks, lengths[0], findings)
        return fitted(TokenChecks(recipe, model, context, vocabulary, findings), stream)
    return Fit(stream)


def fitted(checks: TokenChecks, stream: Stream) -> Fit:
    """Look at all rows of the stream."""
    kept = checks.check(stream)
    fit = Fit(kept, checks.counts)
    named = [(task.name, task) for task in kept.tasks]
    named += [(f"{suite}/{task.name}", task) for suite, tasks in kept.suites.items() for task in tasks]
    for name, task in named if not checks.findings.problems else ():
        encoder = checks.model.of(task.spec)
        fit.samples[name] = samples(task, encoder)
        first = (task.train if len(task.train) else task.eval)[0]
        if first.get("raw_text") is not None:
            continue
        description = form_text(first, encoder)
        if task.spec.prompt is None and description != CHATS and encoder.tokenizer.chat_template is not None:
            fit.forms[name] = description
    return fit


def check_evaluated(recipe: Recipe, stream: Stream, folder: Path, base: Path) -> tuple[Stream, list[str]]:
    """What verifiers and the tokenizer need of rows that are only evaluated: the rows that fit, and warnings.

    Raises:
        RecipeErrors: what was found.
    """
    findings = Findings()
    check_forms(recipe, stream, findings)
    model = encoding.load(folder, base, recipe)
    models.check_vocabulary(base, model.tokenizer, recipe)
    vocabulary = models.load_config(base, recipe).get_text_config().vocab_size
    context = models.context_length(base, recipe)
    checks = TokenChecks(recipe, model, context, vocabulary, findings)
    check_context(recipe, stream.benchmarks, context, findings)
    stream = checks.check(stream)
    findings.check()
    return stream, findings.warnings
