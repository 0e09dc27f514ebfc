"""STUB (lead's, temporary: helper A replaces this file)."""
from pathlib import Path
from typing import Any, Literal
from pydantic import BaseModel, ConfigDict
class F(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
class Model(F):
    path: str; seed: int = 0; revision: str | None = None; dtype: str = "float32"; attn_implementation: str | None = None; trust_remote_code: bool = False; chat_template: Path | None = None
class Adapter(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")
    kind: str
class Rollouts(F):
    engine: str = "transformers"; batch_size: int = 256
class DataSettings(F):
    seed: int = 0
class Source(F):
    source: str; name: str; length: int = 5; demonstration: str = "restate"; train: int = 4000; validation: int = 0; eval: int = 200
class Reward(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")
    kind: str
class Pairs(F):
    prompts: int = 512; samples: int = 8; temperature: float = 1.0; per_prompt: int = 1
class Stage(F):
    kind: str; args: dict = {}; reference: str = "stage-start"; pairs: Pairs = Pairs()
class Task(F):
    task: str; data: Source; reward: Reward | None = None; metric: Reward | None = None; max_completion_length: int | None = None; stages: tuple[Stage, ...] = ()
    @property
    def verifier(self): return self.metric or self.reward
class Evaluation(F):
    suites: tuple[str, ...] = (); batch_size: int | None = None; max_completion_length: int = 256; sampled: Any = None; gates: dict = {}
class Recipe(F):
    name: str; description: str = ""; seed: int = 0; model: Model; adapter: Adapter | None = None; data: DataSettings = DataSettings(); rollouts: Rollouts = Rollouts(); stream: tuple[Task, ...]; strategies: tuple = (); evaluation: Evaluation = Evaluation()
class Suite(F):
    name: str; description: str = ""; tasks: tuple[Task, ...]
def dump(r): return r.model_dump(mode="json")
def load(name, overrides=()):
    from ruamel.yaml import YAML
    d = YAML(typ="safe", pure=True).load(Path(name).read_text())
    for t in d["stream"]:
        if isinstance(t["reward"], str): t["reward"] = {"kind": t["reward"]}
    for o in overrides:
        k, v = o.split("="); d[k] = int(v)
    return Recipe(**d)
def identity(r): return "abc"
def schema(): return {}
def load_suite(name):
    g = [Task(task=s, data=Source(source="procedural", name=s, eval=100), reward=Reward(kind="exact"), max_completion_length=16) for s in ("copy","last","max","succ","swap")]
    return Suite(name=name, tasks=tuple(g))
