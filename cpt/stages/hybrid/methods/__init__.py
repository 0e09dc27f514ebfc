"""How each hybrid method mixes rollouts and demonstrations: one method a file; HYBRIDS maps the recipe's `method` to it."""

from cpt.stages.hybrid.methods.base import Groups, HybridMethod, Mix
from cpt.stages.hybrid.methods.chord import Chord, ChordPhi
from cpt.stages.hybrid.methods.hpt import Hpt
from cpt.stages.hybrid.methods.luffy import Luffy
from cpt.stages.hybrid.methods.relift import Relift
from cpt.stages.hybrid.methods.srft import Srft

__all__ = ["HYBRIDS", "Groups", "HybridMethod", "Mix"]

HYBRIDS = {"hpt": Hpt, "luffy": Luffy, "srft": Srft, "relift": Relift, "chord": Chord, "chord-phi": ChordPhi}
