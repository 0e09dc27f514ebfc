"""Methods that join what the models changed of the untouched model: task arithmetic, TIES, DARE, DELLA, ..."""

from typing import Any

from cpt.strategies.merge.method import Inputs, RunMethod


class Changes(RunMethod):
    """00-base is none of the models: its change of itself is no vector. Random numbers come from the stage's seed."""

    uses_base = False

    def arguments(self, stage, inputs: Inputs, value: float | None) -> dict[str, Any]:
        options = {name: getattr(self.spec, name) for name in self.facts.defaults if name != "seed"}
        options |= {self.spec.option: value} if self.spec.option else {}
        options |= {"seed": stage.seed} if self.facts.is_random else {}
        return {"method": self.spec.method, "base": stage.base, **options}
