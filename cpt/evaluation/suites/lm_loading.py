"""lm-eval's task objects of a suite of the recipe, and what is wrong with them, in a line each."""

import contextlib
import difflib
import os
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from cpt.errors import UserError, did_you_mean, listed
from cpt.evaluation.suites.lm_eval import LmEvalSuite, quiet
from cpt.evaluation.suites.lm_metrics import OUTPUT_TYPES, chosen_metric
from cpt.recipe.suites import LmEval

LOCAL = ("json", "csv", "parquet", "arrow", "text", "pandas", "xml")  # readers of `datasets` for files
SAMPLING = ("until", "do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")
SAMPLING += ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


def load(spec: LmEval, fetch: bool) -> LmEvalSuite | None:
    """The suite; None where its data may be on the hub and nothing is to be fetched.

    Raises:
        UserError: an unknown task, a file that is no task, data that cannot be loaded, a metric that is no score.
    """
    manager = manager_of(spec)
    check_names(spec, manager)
    if not fetch and not all(is_local(each, manager) for each in spec.lm_eval):
        return None
    tasks: dict[str, Any] = {}
    for each in spec.lm_eval:
        for name, task in loaded(each, manager).items():
            if name in tasks:
                raise UserError(f"{name} is asked twice: remove one of them")
            tasks[name] = task
    with quiet():
        for name, task in tasks.items():
            prepare(name, task, spec)
    return LmEvalSuite(spec, tasks, metrics_of(spec, tasks))


def manager_of(spec: LmEval) -> TaskManager:
    """lm-eval's index of tasks: all of lm-eval's own (a few seconds) where any is named, those of `include_path`."""
    if spec.include_path is not None and not spec.include_path.is_dir():
        raise UserError(f"include_path: no folder {spec.include_path}")
    named = any(not is_file(each) for each in spec.lm_eval)
    with quiet():
        return TaskManager(include_path=spec.include_path, include_defaults=named)


def is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def check_names(spec: LmEval, manager: TaskManager) -> None:
    """Raises UserError for a task that there is not, with the names that are most like it."""
    for each in spec.lm_eval:
        if is_file(each):
            if not Path(each).is_file():
                raise UserError(f"no file {each}")
        elif each not in manager.task_index:
            near = difflib.get_close_matches(each, manager.all_tasks, n=3, cutoff=0.7)
            hint = did_you_mean(" or ".join(near)) if near else "; `lm-eval ls tasks` lists all"
            raise UserError(f"lm-eval has no task {each}{hint}")


def is_local(name: str, manager: TaskManager) -> bool:
    """Whether a task's data are files of this machine, as far as its YAML file says."""
    path = Path(name) if is_file(name) else manager.task_index[name].yaml_path
    try:
        config = load_yaml(path, resolve_func=False) if path else {}
    except Exception:  # whatever is wrong with it is said where it is loaded
        return True
    data = config.get("dataset_path")
    return "custom_dataset" in config or data in LOCAL or (isinstance(data, str) and os.path.isdir(data))


def loaded(name: str, manager: TaskManager) -> dict[str, Any]:
    """The task objects of a task, a group or a tag, with their data. Raises UserError."""
    try:
        with quiet(), contextlib.chdir(data_folder(name)):
            tasks = manager.load([name])["tasks"]
    except Exception as error:  # of yaml, jinja2, datasets, the hub, or the task's own code
        raise UserError(f"{name}: {why(error)}") from error
    if not tasks:
        raise UserError(f"{name}: has no tasks")
    return tasks


def data_folder(name: str) -> Path:
    """From where a task's relative `data_files` are looked for: the folder of its file, if they are there."""
    folder = Path(name).parent if is_file(name) else Path()
    try:
        config = load_yaml(Path(name), resolve_func=False) if is_file(name) else {}
    except Exception:  # whatever is wrong with it is said where it is loaded
        return Path()
    files = (config.get("dataset_kwargs") or {}).get("data_files") or []
    files = list(files.values()) if isinstance(files, dict) else files
    flat = [
        each
        for part in ([files] if isinstance(files, str) else files)
        for each in ([part] if isinstance(part, str) else part)
    ]
    return folder if any((folder / each).is_file() for each in flat) else Path()


def why(error: BaseException) -> str:
    """What went wrong, in one line; of data that are on the hub also what to do."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    names = {type(each).__name__ for each in chain}
    if isinstance(error, ModuleNotFoundError):
        return f"it needs the package {error.name}, which is not installed: pip install {error.name}"
    text = " ".join(str(error).split()) or type(error).__name__
    if names & {"ConnectError", "ConnectionError", "OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectTimeout"}:
        return (
            f"its data are on the hub, which cannot be reached ({text[:200]}): download them where there is a network (the "
            "cache of Hugging Face is HF_HOME), or give a task with local data (`dataset_path: json`)"
        )
    return f"{type(error).__name__}: {text[:300]}"


def prepare(name: str, task: Any, spec: LmEval) -> None:
    """Set what the recipe says of a task. Raises UserError for what cpt cannot ask."""
    kind = task.OUTPUT_TYPE
    if kind not in OUTPUT_TYPES:
        raise UserError(f"{name}: its output_type {kind} is not one of {', '.join(OUTPUT_TYPES)}: leave it out")
    if getattr(task, "UNSAFE_CODE", False):
        raise UserError(f"{name} runs code that the model wrote on this machine, which cpt does not do: leave it out")
    if getattr(task, "MULTIMODAL", False):
        raise UserError(f"{name} asks about images or sounds, and cpt's models read text: leave it out")
    if len(task.eval_docs) == 0:
        raise UserError(f"{name} has no questions")
    if kind == "generate_until":
        if spec.gen_kwargs:
            task.set_config(key="generation_kwargs", value=dict(spec.gen_kwargs), update=True)
        unknown = [key for key in task.config.generation_kwargs or {} if key not in SAMPLING]
        if unknown:
            raise UserError(f"{name}: generation_kwargs.{unknown[0]} cannot be used; there are: {', '.join(SAMPLING)}")
    if spec.num_fewshot is not None and task.get_config("num_fewshot") != 0:  # lm-eval keeps a 0 of the task's
        task.set_config(key="num_fewshot", value=spec.num_fewshot)
    elif task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    try_prompt(name, task, spec)


def try_prompt(name: str, task: Any, spec: LmEval) -> None:
    """Make the first question's prompt, with its examples. Raises UserError where that cannot be made."""
    task.set_fewshot_seed(spec.fewshot_seed)
    try:
        task.build_all_requests(limit=1, rank=0, world_size=1, system_instruction=spec.system_instruction)
    except Exception as error:  # of the task's own templates and code, or of lm-eval's sampling of examples
        examples = task.get_config("num_fewshot")
        with_examples = f" with {examples} examples" if examples else ""
        raise UserError(f"{name}: its first prompt{with_examples} cannot be made: {why(error)}") from error


def metrics_of(spec: LmEval, tasks: dict[str, Any]) -> dict[str, Any]:
    """{task: the metric that is its questions' score}.

    Raises:
        UserError: a metric that is none, or texts and questions in one suite, whose scores have no common mean.
    """
    asked = spec.metric if isinstance(spec.metric, dict) else dict.fromkeys(tasks, spec.metric)
    unknown = [name for name in asked if name not in tasks]
    if unknown:
        raise UserError(f"metric: no task {unknown[0]} in this suite; there are: {listed(tasks)}")
    metrics = {name: chosen_metric(task, name, asked.get(name)) for name, task in tasks.items()}
    texts = [name for name, each in metrics.items() if each.is_likelihood]
    if texts and len(texts) < len(metrics):
        raise UserError(
            f"the score of {texts[0]} is a likelihood and that of {next(n for n in metrics if n not in texts)} is not, so "
            "they have no common mean: give each its own suite, with a `name`"
        )
    return metrics
