"""Each hybrid method's step against its formula, worked out by hand: the weights move as plain gradient descent on it would.

With rollouts that cannot be scored, at other temperatures than 1, however the batch is cut; what is clipped; the entropy
term; and which tokens count as trained.
"""

import json
import math

import pytest
import torch
from peft import LoraConfig

from cpt.errors import UserError
from cpt.recipe.stages import Hybrid
from helpers import one_hybrid
from helpers.one_hybrid import LIMIT, Expected, change_of, tokens_of

NONE = None
REWARDS = [1.0, 0.0, 0.0, NONE, 0.0, 0.0, 0.0, NONE]  # two groups of four; the fourth of each could not be scored
ALL_WRONG = [0.0] * 8
SCORED = [0, 1, 2, 4, 5, 6]
THIRD = 1 / 3
CENTRED = [1 - THIRD, -THIRD, -THIRD, 0, 0, 0, 0, 0]
DEVIATION = math.sqrt(
    ((2 / 3) ** 2 + 2 * THIRD**2) / 2
)  # of 1, 0, 0: .577, so the first has 1.155 (with .333 for it: 1.414)
EPS = 1e-4  # TRL adds it to a deviation
STANDARD = [a / (DEVIATION + EPS) for a in CENTRED]


def rl(rows, advantages, among, length=None):
    """-(1 / rows) sum of A log pi over the tokens, over a length that is constant or (None) the row's own."""
    return sum(-advantages[i] * rows[i][0].sum() / (length or len(rows[i][0])) for i in among) / len(among)


def token_mean(rows, weights=None):
    """The mean over all tokens of -log pi, each by its weight."""
    logps = torch.cat([each[0] for each in rows])
    return (-logps * (1 if weights is None else weights(logps))).sum() / len(logps)


def hpt(e, t):
    """First group: RL on its scored rollouts. Second: all wrong, SFT."""
    return rl(e.rollouts(t), CENTRED, [0, 1, 2], LIMIT) + token_mean(e.demonstrations()[1:])


def hpt_weighted(e, t):
    return 0.5 * rl(e.rollouts(t), CENTRED, [0, 1, 2], LIMIT) + 0.3 * token_mean(e.demonstrations()[1:])


def hpt_soft(e, t):
    """Of the first group's scored rollouts a third is right."""
    rows, demonstrations, w = e.rollouts(t), e.demonstrations(), 1 - THIRD
    weighed = THIRD * sum(-CENTRED[i] * rows[i][0].sum() / LIMIT for i in (0, 1, 2)) / (3 * THIRD)
    nll = [-each[0].sum() for each in demonstrations]
    lengths = [len(each[0]) for each in demonstrations]
    return weighed + (w * nll[0] + nll[1]) / (w * lengths[0] + lengths[1])


def hpt_by_question(e, t):
    """Algorithm 1: a mean over the two questions of what each has."""
    return (rl(e.rollouts(t), CENTRED, [0, 1, 2], LIMIT) + 0.3 * token_mean(e.demonstrations()[1:])) / 2


def luffy(e, t):
    """The demonstration is right, so the groups' means are (1 + 1) / 4 and 1 / 4."""
    rows, demonstrations = e.rollouts(t), e.demonstrations()
    advantages = [0.5, -0.5, -0.5, None, -0.25, -0.25, -0.25, None]
    total = sum(-advantages[i] * rows[i][0].sum() / LIMIT for i in SCORED)
    for a, (logps, _) in zip((0.5, 0.75), demonstrations, strict=True):
        p = logps.exp()
        total = total - (a * p / (p + 0.1)).sum() / LIMIT
    return total / (6 + 2)


def srft(e, t):
    rows, demonstrations = e.rollouts(t), e.demonstrations()
    first = (-0.1 * rows[0][1].mean().exp().detach() * rows[0][0]).mean()
    wrong = sum(rows[i][0].mean() for i in (1, 2, 4, 5, 6)) / 5
    total = 0
    for a, (logps, entropies) in zip((0.5 / (3**-0.5 + EPS), 0.75 / (0.5 + EPS)), demonstrations, strict=True):
        weight = 0.5 * (-entropies.mean()).exp().detach()
        total = total + (-weight * logps - a * logps.exp()).mean() / 2
    return first + wrong + total


def relift(e, t):
    return rl(e.rollouts(t), CENTRED, SCORED, LIMIT)


def relift_with_grpo(e, t):
    return rl(e.rollouts(t), STANDARD, SCORED)


def chord(e, t):
    rows = e.rollouts(t)
    tokens = sum(len(rows[i][0]) for i in SCORED)
    grpo = sum(-STANDARD[i] * rows[i][0].sum() for i in SCORED) / tokens
    return 0.1 * grpo + 0.9 * token_mean(e.demonstrations())


def chord_phi(e, t):
    rows = e.rollouts(t)
    tokens = sum(len(rows[i][0]) for i in SCORED)
    grpo = sum(-STANDARD[i] * rows[i][0].sum() for i in SCORED) / tokens
    weights = lambda logps: (logps.exp() * (1 - logps.exp())).detach()  # noqa: E731
    return 0.9 * grpo + 0.1 * token_mean(e.demonstrations(), weights)


METHODS = {  # the formula, and the demonstrations that are trained on; of the rollouts: those that could be scored
    "hpt": (hpt, {}, [0, 1, 2], [1]),
    "hpt, weighted": (hpt_weighted, {"alpha": 0.5, "beta": 0.3}, [0, 1, 2], [1]),
    "hpt, soft": (hpt_soft, {"gate": "soft"}, [0, 1, 2], [0, 1]),
    "hpt, by question": (hpt_by_question, {"mixing": "question", "beta": 0.3}, [0, 1, 2], [1]),
    "luffy": (luffy, {}, SCORED, [0, 1]),
    "srft": (srft, {}, SCORED, [0, 1]),
    "relift": (relift, {}, SCORED, []),
    "relift, grpo": (relift_with_grpo, {"rl": "grpo"}, SCORED, []),
    "chord": (chord, {}, SCORED, [0, 1]),
    "chord-phi": (chord_phi, {}, SCORED, [0, 1]),
}
CUTS = {
    "at once": {},
    "in two at 2": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "temperature": 2.0},
}


@pytest.fixture(scope="module")
def expected(tiny_folder):
    return Expected()


def assert_moved(change: dict, expected: dict) -> None:
    size = max(each.abs().max().item() for each in expected.values())
    assert size > 1e-3, "nothing would be shown"
    for name, value in expected.items():
        torch.testing.assert_close(change[name], value, atol=2e-5 * max(1.0, size), rtol=2e-3, msg=name)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", METHODS)
def test_the_step_is_that_of_the_formula(tmp_path, expected, name, cut):
    formula, options, rollouts, demonstrations = METHODS[name]
    made = one_hybrid.trainer(tmp_path, name.split(",")[0], [REWARDS], options=options, **CUTS[cut])
    assert_moved(change_of(made), expected.step(formula(expected, CUTS[cut].get("temperature", 1.0))))
    assert made.train_tokens() == tokens_of(rollouts, demonstrations), "what the loss is computed on"


@pytest.mark.parametrize("adapter", [None, LoraConfig(r=2, target_modules="all-linear")], ids=["all", "lora"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_sft_loss_is_not_divided_by_the_rollouts_temperature(tmp_path, expected, temperature, adapter):
    """SFT alone: its loss is the mean NLL of the demonstrations at temperature 1, from logits of the model alone."""
    made = one_hybrid.trainer(tmp_path, "hpt", [ALL_WRONG], temperature=temperature, adapter=adapter)
    made.train()
    with torch.no_grad():
        wanted = token_mean(expected.demonstrations()).item()
    assert made.state.log_history[0]["hybrid/demonstration_loss"] == pytest.approx(wanted, rel=1e-4)
    assert made.losses == [pytest.approx(wanted, rel=1e-4)]


@pytest.mark.parametrize("name", ["hpt", "luffy", "relift"])
@pytest.mark.parametrize("cut", CUTS)
def test_the_entropy_term(tmp_path, expected, name, cut):
    """TRL's: the coefficient times the mean entropy, of the tokens that are trained on."""
    formula, options, rollouts, demonstrations = METHODS[name]
    temperature = CUTS[cut].get("temperature", 1.0)
    made = one_hybrid.trainer(tmp_path, name, [REWARDS], options=options, entropy_coef=0.7, **CUTS[cut])
    change, e = change_of(made), expected
    rows, taught = e.rollouts(temperature), e.demonstrations()
    entropies = torch.cat([rows[i][1] for i in rollouts] + [taught[i][1] for i in demonstrations])
    assert_moved(change, e.step(formula(e, temperature) - 0.7 * entropies.mean()))


@pytest.mark.parametrize(("options", "clipped"), [({}, False), ({"clip": True}, True)])
@pytest.mark.parametrize("name", ["hpt", "luffy", "relift", "chord"])
def test_what_is_clipped(name, options, clipped):
    """pi / pi_old of 1.5 with an advantage above 0: clipped, the token has no gradient; unclipped it has 1.5 of it."""
    method = one_hybrid.HYBRIDS[name](Hybrid(kind="hybrid", method=name, args={"num_generations": 4}, **options))
    logps = torch.tensor([[math.log(0.3)]], requires_grad=True)
    old, ones = torch.tensor([[math.log(0.2)]]), torch.ones(1, 1)
    bounds = one_hybrid_bounds()
    loss = method.rollout_loss(logps, torch.zeros(1, 1), 2 * ones, ones, old, bounds).sum()
    [gradient] = torch.autograd.grad(loss, logps)
    expected = 0.0 if clipped or name == "chord" else -2 * 1.5
    assert gradient.item() == pytest.approx(expected)


def one_hybrid_bounds():
    from cpt.losses import Bounds

    return Bounds(low=0.2, high=0.2)


def test_two_updates_of_one_generation_count_twice_and_each_its_own(tmp_path, tiny_folder):
    """Every token counts each time that a step trains on it, and when it does."""
    made = one_hybrid.trainer(tmp_path, "hpt", [ALL_WRONG], num_iterations=2, max_steps=2, learning_rate=1e-3)
    made.train()
    assert made.train_tokens() == 2 * tokens_of([], [0, 1])
    part = one_hybrid.trainer(
        tmp_path, "luffy", [REWARDS], per_device_train_batch_size=4, steps_per_generation=2, max_steps=1
    )
    part.train()
    whole = tokens_of(SCORED, [0, 1])
    assert 0 < part.train_tokens() < whole, "the first of two steps trains on a half"
    both = one_hybrid.trainer(
        tmp_path, "luffy", [REWARDS], per_device_train_batch_size=4, steps_per_generation=2, max_steps=2
    )
    both.train()
    assert both.train_tokens() == whole


# -- ReLIFT's buffer ---------------------------------------------------------------------------------------------------------


def ids(entries: list[dict]) -> list[int]:
    return [json.loads(each["row"])["id"] for each in entries]


def taught_of(made) -> list[list[int]]:
    """The rows of each SFT step, in its order."""
    steps, teach = [], made.buffer._teach
    made.buffer._teach = lambda entries: (steps.append(ids(entries)), teach(entries))
    return steps


def test_newest_first_and_one_sft_step_for_each_generation(tmp_path, tiny_folder):
    """Four prompts, two in each generation, all unsolved but the first of the second generation; a buffer of two."""
    prompts = ["reverseabcde=", "sortbca=", "reversebcd=", "sortcba="]
    rewards = [ALL_WRONG, [1.0, 0, 0, 0, 0, 0, 0, 0], ALL_WRONG, ALL_WRONG]
    made = one_hybrid.trainer(
        tmp_path,
        "relift",
        rewards,
        demonstrations=["edcba", "abc", "dcb", "abc"],
        prompts=prompts,
        options={"buffer": 1},
        max_steps=4,
        learning_rate=0.0,
    )
    steps = taught_of(made)
    made.train()
    # generation 1 keeps 0 and 1, and 0 is taught; 2 keeps 3, which goes before 1 and is taught; 3 keeps 0 and 1 again, ...
    assert steps == [[0], [3], [0], [2]]
    assert ids(made.buffer.entries) == [3, 1, 1], "newest first; one asked again appears twice"
    assert [line["relift/buffer"] for line in made.state.log_history[:4]] == [1, 1, 2, 3]
    assert made.train_tokens() == relift_tokens(prompts, ["edcba", "abc", "dcb", "abc"], [0, 3, 0, 2])


def relift_tokens(prompts, demonstrations, taught) -> int:
    """Of four generations of two prompts each, and these SFT steps."""
    lengths = [len(one_hybrid.ids_of(each, end=False)) for each in prompts]
    rollouts = sum(lengths[i // 4] + lengths[2 + i // 4] + 2 * len(each) for i, each in enumerate(one_hybrid.answers()))
    return 2 * rollouts + sum(lengths[i] + len(one_hybrid.ids_of(demonstrations[i])) for i in taught)


def test_the_sft_step_comes_after_all_updates_of_a_generation(tmp_path, tiny_folder):
    """Two optimiser steps to a generation: one SFT step, after the second."""
    made = one_hybrid.trainer(
        tmp_path,
        "relift",
        [ALL_WRONG],
        options={"buffer": 1},
        per_device_train_batch_size=4,
        steps_per_generation=2,
        max_steps=4,
        learning_rate=0.0,
    )
    steps = taught_of(made)
    made.train()
    assert steps == [[0], [0]]
    assert ["relift/sft_loss" in line for line in made.state.log_history[:4]] == [False, True, False, True]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_sft_step_is_adamw_on_the_mean_nll(tmp_path, expected, temperature):
    """RL stands still. AdamW's first step: theta (1 - lr wd) - lr g / (|g| + 1e-8), g clipped to a norm of 1."""
    rate, decay = 1e-3, 0.01
    options = {"buffer": 2, "sft_learning_rate": rate}
    made = one_hybrid.trainer(
        tmp_path, "relift", [ALL_WRONG], options=options, learning_rate=0.0, temperature=temperature, entropy_coef=0.1
    )
    made.train()
    e = expected
    taught = e.demonstrations()
    loss = token_mean(taught) - 0.1 * torch.cat([each[1] for each in taught]).mean()
    assert made.state.log_history[0]["relift/sft_loss"] == pytest.approx(loss.item(), rel=1e-4)
    gradients = {name: -change for name, change in e.step(loss).items()}
    norm = math.sqrt(sum((g**2).sum().item() for g in gradients.values()))
    for name, start in e.policy.named_parameters():
        g = gradients[name] / max(1.0, norm)
        wanted = start.detach() * (1 - rate * decay) - rate * g / (g.abs() + 1e-8)
        clear = g.abs() > 1e-5
        found = dict(made.model.named_parameters())[name].detach()
        torch.testing.assert_close(found[clear], wanted[clear], atol=rate * 0.02, rtol=0)
    assert made.train_tokens() == tokens_of(list(range(8)), [0, 1])


def test_asked_again_they_are_not_trained_on(tmp_path, expected):
    """`recheck`: the second prompt's answer is right by now (abc is its demonstration), so the first alone is taught."""
    given = one_hybrid.answers()
    given[6] = one_hybrid.ids_of("abc")
    made = one_hybrid.trainer(
        tmp_path, "relift", [ALL_WRONG], given=given, options={"buffer": 2, "recheck": True}, learning_rate=0.0
    )
    made.train()
    line = made.state.log_history[0]
    assert line["relift/still_unsolved"] == 0.5
    with torch.no_grad():
        wanted = token_mean(expected.demonstrations()[:1]).item()
    assert line["relift/sft_loss"] == pytest.approx(wanted, rel=1e-4)
    generated = sum(len(each) for each in given)
    prompts = 4 * sum(len(one_hybrid.ids_of(prompt, end=False)) for prompt in one_hybrid.PROMPTS)
    assert made.train_tokens() == generated + prompts + tokens_of([], [0])
    assert line["completions/mean_length"] == pytest.approx(generated / 8), "those asked again are in no log"


# -- mistakes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (
            {"method": "hpt", "args": {"epsilon": 0.1}},
            "args.epsilon belongs to clipping, and hpt does not clip: set `clip: true`",
        ),
        (
            {"method": "srft", "args": {"epsilon_high": 0.3}},
            "args.epsilon_high belongs to clipping, and srft does not clip: remove it",
        ),
        ({"method": "srft", "clip": True}, "clip is an option of hpt and luffy and relift and chord and chord-phi"),
        ({"method": "hpt", "recheck": True}, "recheck is an option of relift"),
        ({"method": "luffy", "mixing": "question"}, "mixing is an option of hpt"),
    ],
)
def test_an_option_of_another_method(stage, said):
    with pytest.raises((ValueError, UserError), match=said.replace("(", r"\(")):
        Hybrid(kind="hybrid", **stage)


def test_where_it_is_clipped_a_bound_is_taken():
    assert Hybrid(kind="hybrid", method="chord", args={"epsilon": 0.1}).clips
    assert Hybrid(kind="hybrid", method="luffy", clip=True, args={"epsilon": 0.1}).clips
    assert Hybrid(kind="hybrid", method="relift", rl="grpo", args={"epsilon": 0.1}).clips


def test_the_plan_says_what_is_set():
    stage = Hybrid(kind="hybrid", method="hpt", gamma=2, mixing="question", clip=True)
    assert stage.titles() == ["hpt (gamma 2, mixing question, clip true)"]
    assert Hybrid(kind="hybrid", method="srft").titles() == ["srft"]
