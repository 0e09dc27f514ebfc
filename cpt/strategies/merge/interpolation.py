"""Averages of the new model and earlier ones: `wise`, `slerp`, `soup`."""

from typing import Any

from cpt.strategies.merge.method import Inputs, RunMethod


class Interpolation(RunMethod):
    """The old models share the weight; of more than a method takes, the weighted mean is what it does (`linear`)."""

    def arguments(self, stage, inputs: Inputs, value: float | None) -> dict[str, Any]:
        count = len(inputs.models)
        method = "linear" if self.facts.most is not None and count > self.facts.most else self.spec.method
        if value is None:
            return {"method": method}
        old = count - 1
        return {"method": method, "weights": [1 - value, *[value / old] * old]}
