"""One rendered prompt and one rendered training example of each task, for the plan: what the model is asked and taught."""

from cpt.checks.known import CHATS, OWN_ANSWERS
from cpt.data.encoding import Encoder, TemplateRefuses
from cpt.data.rows import lessons
from cpt.data.stream import TaskData
from cpt.evaluation.suites.likelihood import tokens_of

SHOWN = 400  # characters of a text


def samples(task: TaskData, encoder: Encoder) -> list[str]:
    """The lines of a task of the stream, or (the prompt alone) of a suite."""
    rows = task.train if len(task.train) else task.eval
    try:
        lines = measured(task, encoder) if task.spec.by_likelihood and len(task.eval) else []
        if rows[0].get("raw_text") is not None:
            return lines
        lines.insert(0, f"prompt   {form_text(rows[0], encoder)}: {shown(prompt_of(rows[0], encoder))}")
        stages = {stage.kind: stage for stage in task.spec.stages}
        taught = [each for stage in stages.values() if stage.teaches for each in lessons([rows[0]], stage)]
        for name, form in {name: form for _, name, form in taught}.items():
            [one] = encoder.taught([form])
            context, trained = encoder.shown(one.ids[: one.start]), encoder.shown(one.ids[one.start :])
            lines.append(f"example  {name}: {shown(context) + ' + ' if context else ''}{shown(trained)}")
        if not taught and stages:
            lines.append(OWN_ANSWERS)
        return lines
    except TemplateRefuses:  # the checks name the row
        return []


def measured(task: TaskData, encoder: Encoder) -> list[str]:
    """What the likelihood of the first evaluation row is of, after what."""
    if (tokens := tokens_of(encoder, task.eval[0])) is None:
        return []
    ids, start, _ = tokens
    return [f"measured {shown(encoder.shown(ids[:start]))} + {shown(encoder.shown(ids[start:]))}"]


def prompt_of(row: dict, encoder: Encoder) -> str:
    return encoder.shown(encoder.prompts([row])[0])


def form_text(row: dict, encoder: Encoder) -> str:
    """How the prompt is sent, and why."""
    if not isinstance(row.get("prompt"), str):
        return CHATS
    return f"{encoder.form.name} ({encoder.form.why})"


def shown(text: str) -> str:
    """The text as Python writes it; of a long one the beginning and the end."""
    return repr(text) if len(text) <= SHOWN else f"{text[: SHOWN * 2 // 3]!r} ... {text[-SHOWN // 3 :]!r}"
