"""`rollouts.engine` where several files, or the command line, say something about it.

Each engine has settings that the others do not have. Where the engine is switched (`cpt run RECIPE rollouts.engine=vllm`),
those that the files below give to another engine are left unused. Written beside the engine, or above it, they are a mistake.
"""

from cpt.recipe.nodes import Mistakes
from cpt.recipe.vllm_arguments import COLOCATED, OURS, STARTED
from cpt.recipe.yaml_reader import Node

DEFAULT = "transformers"
OF_A_STARTED_SERVER = "a server that the run starts (no `url`)"


def normalize_engine(root: Node, mistakes: Mistakes) -> list[str]:
    """Give `rollouts` an engine, and take away what only others have; a line for each setting that is left unused."""
    rollouts = root.value.get("rollouts")
    if rollouts is None or not isinstance(rollouts.value, dict):
        return []
    lowest = min((node.layer for node in rollouts.value.values()), default=0)  # the default switches nothing
    engine = rollouts.value.setdefault("engine", Node(DEFAULT, rollouts.file, rollouts.line, lowest))
    if engine.value not in list(OURS):
        return []
    url = rollouts.value.get("url") if engine.value == "server" else None
    unused = []
    for name, node in list(rollouts.value.items()):
        owner = goes_with(name, engine.value, url is not None)
        decides = url if owner == OF_A_STARTED_SERVER else engine
        if owner is not None and node.layer < decides.layer:
            unused.append(f"rollouts.{name} ({node.plain()}) is not used: it belongs to {owner}")
            del rollouts.value[name]
        elif owner is not None and any(name in names for names in OURS.values()) and decides is engine:
            mistakes.add(node, f"rollouts.{name}", f"belongs to {owner}: remove it, or switch the engine")
            del rollouts.value[name]
    return unused


def goes_with(name: str, engine: str, running: bool) -> str | None:
    """What has this setting, where the engine does not; None where it does, or where nobody may have it.

    `running`: the server runs already, so nothing can be said to its start. Without vLLM its settings are not known by name:
    instead of transformers' any other name may be one of them.
    """
    owners = [other for other, names in OURS.items() if name in names]
    if engine in owners:
        return OF_A_STARTED_SERVER if running and name in STARTED else None
    if owners:
        return " or ".join(f"`engine: {owner}`" for owner in owners)
    if engine == DEFAULT:
        return "vLLM"
    if engine == "vllm" and name in COLOCATED:
        return "`engine: server`"
    return OF_A_STARTED_SERVER if running else None
