"""The moving average of a policy's weights that a stage takes for its teacher: how it is updated, saved and resumed.

After every `every` steps: average <- average + rate * (policy - average), elementwise, in the weights' own dtype (in
bfloat16 a small rate is rounded away where the two are close). TRL's own callbacks do not serve: they are in no
checkpoint, and that of an adapter starts from zeros, so that in the second task the teacher would be the base.
"""

import shutil
from pathlib import Path

import torch
from transformers import TrainerCallback

from cpt import ranks

FILE = "average.safetensors"


class MovingAverage(TrainerCallback):
    """Moves the tensors of `average` towards those of `policy` (both {name: tensor}); is in every in-stage checkpoint."""

    def __init__(self, policy: dict[str, torch.Tensor], average: dict[str, torch.Tensor], rate: float, every: int):
        assert policy.keys() == average.keys()
        self.policy, self.average, self.rate, self.every = policy, average, rate, every

    @torch.no_grad()
    def on_step_end(self, args, state, control, **_):
        if state.global_step % self.every == 0:
            for name, average in self.average.items():
                average.lerp_(self.policy[name].detach(), self.rate)

    def on_save(self, args, state, control, **_):
        if ranks.is_main():
            from safetensors.torch import save_file

            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            # PEFT's own copy. Were it here, transformers would load it alone on resume and leave the policy's as it was.
            shutil.rmtree(folder / ADAPTER, ignore_errors=True)
            save_file({name: each.detach().contiguous() for name, each in self.average.items()}, folder / FILE)

    @torch.no_grad()
    def on_train_begin(self, args, state, control, **_):
        if state.global_step:
            from safetensors.torch import load_file

            saved = load_file(Path(args.output_dir) / f"checkpoint-{state.global_step}" / FILE)
            assert saved.keys() == self.average.keys(), "the checkpoint's average is of another model"
            for name, average in self.average.items():
                average.copy_(saved[name])


ADAPTER = "teacher"  # the name of the average of an adapter


def add_average_adapter(model) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Lay a second adapter, equal to the policy's, over a PEFT model: ({name: the policy's}, {name: the average's})."""
    model.add_adapter(ADAPTER, model.peft_config["default"])
    model.set_adapter("default")  # PEFT leaves the new one to be trained
    named = dict(model.named_parameters())
    policy = {name: each for name, each in named.items() if ".default" in name}
    average = {name: named[name.replace(".default", f".{ADAPTER}")] for name in policy}
    with torch.no_grad():
        for name, each in average.items():
            each.copy_(policy[name])
            each.requires_grad_(False)
    return policy, average
