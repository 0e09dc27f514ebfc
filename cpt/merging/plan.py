"""What a merge will read and write, checked before anything is written. The rules are in docs/merging.md."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cpt.adapters import is_adapter
from cpt.disk import existing, room
from cpt.errors import UserError
from cpt.merge_methods import METHODS
from cpt.merging.adapters import Adapted, check_adapters
from cpt.merging.heads import HEAD, is_embedding, names_of, tied_to
from cpt.merging.method import Method
from cpt.merging.methods import make_method
from cpt.merging.reading import DTYPES, Entry, Weights, by, read_config
from cpt.merging.survey import COUNTS, Survey
from cpt.merging.writing import Shape, shards
from cpt.sizes import many, size

if TYPE_CHECKING:  # pydantic comes with it, which `cpt merge` does without
    from cpt.records import MergeFile

BESIDE_WEIGHTS = (".json", ".jinja", ".model", ".txt", ".py")  # config, tokenizer, generation config, template, code
SMALL_FILES = 1 << 16  # bytes for headers, the index and the record
CHUNK = (
    1 << 20
)  # bytes of a tensor, in the dtype computed in, that a thread has in hand at once: they stay in its cache
SHARD_BYTES = 5_000_000_000
OUT_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}


@dataclass(frozen=True)
class Tensors:
    """A tensor of the output, and the name that each source has it by (a tied head is read from the embedding)."""

    shape: Shape
    names: tuple[str, ...]  # in each of Plan.sources; a copied tensor is not looked for in the Fishers
    merged: bool  # else (integers, booleans) it is the same in all models and is copied

    @property
    def size(self) -> int:
        return prod(self.shape.shape)


@dataclass
class Plan:
    """Everything `carry_out` needs. `sources` are the models, then the base, then the Fishers."""

    method: Method
    name: str
    models: list[Path]
    base: Path | None
    fishers: list[Path]
    out: Path
    sources: list[Weights]
    tensors: dict[str, Tensors]
    threads: int
    shard_bytes: int
    dtype: str | None
    into: Path | None = None  # the model under whose weights adapters are read
    warnings: list[str] = field(default_factory=list)

    @property
    def is_adapter(self) -> bool:
        return self.into is None and is_adapter(self.models[0])

    @property
    def first(self) -> Path:
        """Whose config, tokenizer and code the output has."""
        return self.into or self.models[0]

    def places(self, tensor: Tensors) -> list[tuple[Weights, str, Entry]]:
        """Every source of the tensor, its name there, and where it lies."""
        return [(s, name, s.entries[name]) for s, name in zip(self.sources, tensor.names, strict=False)]

    @property
    def written(self) -> int:
        return sum(tensor.shape.bytes for tensor in self.tensors.values())

    @property
    def read(self) -> int:
        """Bytes read, once for each pass over a merged tensor."""
        survey = survey_of(self)
        passes = 1 + sum(1 / stride for stride in self.method.strides) + (0 if survey is None else survey.passes)
        return sum(
            int(entry.bytes * (passes if tensor.merged else 1))
            for tensor in self.tensors.values()
            for _, _, entry in self.places(tensor)
        )

    @property
    def buffers(self) -> int:
        """Bytes that all threads have in hand at once: pieces as read, in the dtype computed in, and intermediate ones."""
        row = max((t.shape.shape[-1] for t in self.tensors.values() if t.shape.shape), default=1)
        item = max((compute_dtype(self, t).itemsize for t in self.tensors.values()), default=4)
        chunk = max(CHUNK, row * item) if self.method.whole_rows else CHUNK
        counts = 0 if survey_of(self) is None else len(self.models) * COUNTS
        return self.threads * (chunk * (4 * len(self.sources) + 4) + 2 * counts)

    def record(self) -> "MergeFile":
        """What was merged and how, for `merge.json`, which says nothing of where on this machine the sources lie."""
        sources = [*self.models, *self.fishers, *(each for each in (self.base, self.into) if each is not None)]
        named = short_names(sources)
        settings = {key: value for key, value in vars(self.method).items() if key != "weights"}
        weights = {} if METHODS[self.name].weight is None else {"weights": list(self.method.weights)}
        return {
            "method": self.name,
            "models": [named[place] for place in self.models],
            "base": None if self.base is None else named[self.base],
            "into": None if self.into is None else named[self.into],
            "fishers": [named[place] for place in self.fishers],
            **weights,
            **settings,
            "dtype": self.dtype,
        }


def make_plan(
    name: str,
    models: Sequence[Path],
    base: Path | None,
    weights: Sequence[float],
    out: Path,
    *,
    fishers: Sequence[Path] = (),
    into: Path | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    **options: float | str | None,
) -> Plan:
    """Check the sources and the place of the output. Raises UserError for whatever cannot be merged.

    With `into` adapters among the models are read as the weights of that model under them; where no base is named it is that.
    """
    method = make_method(name, len(models), weights, alone=into is not None, **options)
    facts = METHODS[name]
    models, fishers = list(models), list(fishers)
    base = into if base is None and facts.needs_base else base
    if facts.needs_base != (base is not None):
        has = (
            "merges the changes that the models made to a base: name it with --base"
            if base is None
            else "uses no base: leave --base out"
        )
        raise UserError(f"{name} {has}")
    if len(fishers) != (len(models) if facts.needs_fisher else 0):
        raise UserError(
            f"{name}: {len(fishers)} --fisher for {len(models)} models: "
            + (
                "give one for each, in their order"
                if facts.needs_fisher
                else "it uses no Fisher information; leave --fisher out"
            )
        )
    if dtype is not None and dtype not in OUT_DTYPES:
        raise UserError(f"--dtype: no {dtype}; there are {', '.join(OUT_DTYPES)}")
    if threads is not None and threads < 1:
        raise UserError(f"--threads: {threads}: must be at least 1")
    if shard_bytes < 1:
        raise UserError(f"--shard-size: {shard_bytes}: must be at least 1 byte")
    folders = [*models, *([] if base is None else [base])]
    check_out(out, [*folders, *fishers, *([] if into is None else [into])])
    warnings = check_configs(folders) if into is None else check_into(folders, into)
    sources = [Adapted(f, into) if into is not None and is_adapter(f) else Weights(f) for f in folders]
    sources += [Weights(file) for file in fishers]
    tensors = match(sources[: len(folders)], sources[len(folders) :], dtype)
    threads = threads or len(os.sched_getaffinity(0))
    plan = Plan(method, name, models, base, fishers, out, sources, tensors, threads, shard_bytes, dtype, into, warnings)
    check_disk(plan)
    return plan


def compute_dtype(plan: Plan, tensor: Tensors) -> torch.dtype:
    """The dtype that chunks have: float32, or float64 where a source is that; bfloat16 where the method needs no more."""
    dtypes = {entry.dtype for _, _, entry in plan.places(tensor)}
    if plan.method.bfloat16_pairs and len(plan.models) == 2 and dtypes | {tensor.shape.dtype} == {torch.bfloat16}:
        return torch.bfloat16
    return torch.float64 if torch.float64 in dtypes else torch.float32


def survey_of(plan: Plan) -> Survey | None:
    """What must be known of all tensors that are merged together before the first is; None: nothing."""
    merged = [tensor for tensor in plan.tensors.values() if tensor.merged]
    dtypes = {compute_dtype(plan, tensor) for tensor in merged}
    dtype = torch.float64 if torch.float64 in dtypes else torch.float32
    return plan.method.survey(sum(tensor.size for tensor in merged), dtype) if merged else None


# -- the place of the output -------------------------------------------------------------------------------------------


def partial(out: Path) -> Path:
    """Where the output grows before it has its name."""
    return out.with_name(f".{out.name}.partial")


def check_out(out: Path, sources: Sequence[Path]) -> None:
    """Raise UserError where the output would be in the way of something."""
    if not out.name:
        raise UserError(f"--out: {out}: give a new folder")
    place = out.resolve()
    for source in sources:
        inner = source.resolve()
        if place == inner or inner in place.parents or place in inner.parents:
            raise UserError(f"--out: {out} and {source}: one is inside the other; give a separate folder")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: {out} is a file; give a new folder")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"--out: {out} is not empty; give a new folder, or remove it")
    above = existing(place.parent)
    if not above.is_dir():
        raise UserError(f"--out: {above} is a file; give a folder beside it")
    if not os.access(above, os.W_OK):
        raise UserError(f"--out: {above} cannot be written; give another folder")


def check_disk(plan: Plan) -> None:
    """Raise UserError where the output does not fit beside what is there."""
    beside = sum(file.stat().st_size for file in plan.first.iterdir() if file.suffix in BESIDE_WEIGHTS)
    left, needed = partial(plan.out), plan.written + beside + SMALL_FILES
    freed = sum(file.stat().st_blocks * 512 for file in left.glob("*")) if left.is_dir() else 0
    place = existing(plan.out.resolve().parent)
    if (free := room(place) + freed) < needed:
        raise UserError(
            f"--out: {size(needed)} will be written, and {place} has {size(free)} free: make room, or choose another"
        )


# -- the sources -------------------------------------------------------------------------------------------------------


def check_configs(folders: Sequence[Path]) -> list[str]:
    """Raise UserError where the folders are not of one kind; return what deserves a warning."""
    kinds = {is_adapter(folder) for folder in folders}
    if kinds == {True, False}:
        one, other = (next(f for f in folders if is_adapter(f) is kind) for kind in (True, False))
        raise UserError(
            f"{one} is an adapter, {other} is not: merge adapters with adapters, models with models, or read adapters as "
            "models (--into)"
        )
    if kinds == {True}:
        check_adapters(folders)
        return []
    configs = [read_config(folder / "config.json") for folder in folders]
    for folder, config in zip(folders, configs, strict=True):
        if config.get("quantization_config"):
            raise UserError(
                f"{folder}: is quantised (config.json): its numbers mean nothing without their scales; dequantise it"
            )
        if config.get("model_type") != configs[0].get("model_type"):
            raise UserError(
                f"{folders[0]} is a {configs[0].get('model_type')}, {folder} a {config.get('model_type')} "
                "(config.json: model_type): only models of the same architecture can be merged"
            )
    tokenizers = {folder: folder / "tokenizer.json" for folder in folders}
    first = tokenizers[folders[0]]
    return [
        f"{folder}: its tokenizer.json is not that of {folders[0]}, which the merge keeps: do equal ids mean equal tokens?"
        for folder, file in tokenizers.items()
        if first.is_file() and file.is_file() and file.read_bytes() != first.read_bytes()
    ]


def check_into(folders: Sequence[Path], into: Path) -> list[str]:
    """`check_configs` where adapters are read under `into`: of the models that are there whole."""
    if is_adapter(into):
        raise UserError(f"--into: {into} is an adapter: name the model that the adapters were trained on")
    if not any(map(is_adapter, folders)):
        raise UserError("--into: none of the models is an adapter: leave it out")
    return check_configs([into, *(folder for folder in folders if not is_adapter(folder))])


def match(sources: Sequence[Weights], fishers: Sequence[Weights], dtype: str | None) -> dict[str, Tensors]:
    """The tensors of the output: those of the first model, each found in every source. Raises UserError."""
    named = [names_of(source) for source in sources]
    first = named[0]
    for source, theirs in zip(sources[1:], named[1:], strict=True):
        if HEAD in first and HEAD not in theirs:
            theirs |= {HEAD: tied_to(source)}
        if HEAD in theirs and HEAD not in first:
            raise UserError(
                f"{source.place} has a head of its own ({HEAD}), {sources[0].place} ties it to the embedding: the merge "
                "would lose it; name the one with the head first, or save the other with tie_word_embeddings false"
            )
        compare_names(sources[0], first, source, theirs)
    tensors = {}
    for name in first:
        entries = [source.entries[theirs[name]] for source, theirs in zip(sources, named, strict=True)]
        floats = {entry.dtype.is_floating_point for entry in entries}
        shapes = [entry.shape for entry in entries]
        for source, shape in zip(sources, shapes, strict=True):
            if shape != shapes[0]:
                raise UserError(unlike(name, sources[0], shapes[0], source, shape))
        if floats == {True, False}:
            raise UserError(f"{name}: floats in one model, integers in another: these are different kinds of models")
        merged = floats == {True}
        out = DTYPES[OUT_DTYPES[dtype]] if dtype and merged else sources[0].written(name)
        names = [theirs[name] for theirs in named]
        for fisher in fishers if merged else ():
            if name not in fisher.entries or fisher.entries[name].shape != shapes[0]:
                raise UserError(
                    f"{fisher.place}: no {name} of shape {by(shapes[0])}: a Fisher diagonal has one value for each "
                    "parameter"
                )
        names += [name] * len(fishers) if merged else []
        tensors[name] = Tensors(Shape(out, shapes[0]), tuple(names), merged)
    return tensors


def compare_names(one: Weights, mine: dict, other: Weights, theirs: dict) -> None:
    for place, lacks in ((other.place, mine.keys() - theirs.keys()), (one.place, theirs.keys() - mine.keys())):
        if lacks:
            shown = ", ".join(sorted(lacks)[:3]) + (f" and {len(lacks) - 3} more" if len(lacks) > 3 else "")
            raise UserError(f"{place}: lacks {shown}: only models with the same tensors can be merged")


def unlike(name: str, one: Weights, mine: tuple, other: Weights, theirs: tuple) -> str:
    shapes = f"{name}: {by(mine)} in {one.place}, {by(theirs)} in {other.place}"
    if (name == HEAD or is_embedding(name)) and mine[1:] == theirs[1:]:
        return (
            f"{shapes}: the vocabularies differ; bring them to one size first (resize_token_embeddings of transformers)"
        )
    return f"{shapes}: only models of the same shapes can be merged"


def short_names(places: Sequence[Path]) -> dict[Path, str]:
    """Each source's last name (`01-reverse` of a point), with as much before it as tells it from the others."""
    parts = {place: place.absolute().parts for place in places}
    parts = {place: each[:-1] if each[-1] in ("model", "served") else each for place, each in parts.items()}
    length, most = 1, max(map(len, parts.values()))
    while length < most and len({each[-length:] for each in parts.values()}) < len(set(parts.values())):
        length += 1
    return {place: "/".join(each[-length:]) for place, each in parts.items()}


# -- words -------------------------------------------------------------------------------------------------------------


def describe(plan: Plan) -> str:
    """The plan, for people."""
    merged = [tensor for tensor in plan.tensors.values() if tensor.merged]
    record = plan.record()
    values = [f"{key} {record[key]}" for key in vars(plan.method) if key in record and key != "weights"]
    weights = ["weights " + " ".join(f"{w:g}" for w in plan.method.weights)] if "weights" in record else []
    dtypes = sorted({str(tensor.shape.dtype).removeprefix("torch.") for tensor in plan.tensors.values()})
    files = len(shards({name: tensor.shape for name, tensor in plan.tensors.items()}, plan.shard_bytes))
    lines = [
        f"{plan.name} ({METHODS[plan.name].paper}): {', '.join([*weights, *values]) or 'no settings'}",
        *(f"  model {number}: {place}" for number, place in enumerate(plan.models, start=1)),
        *([] if plan.base is None else [f"  base: {plan.base}"]),
        *([] if plan.into is None else [f"  adapters are applied to: {plan.into}"]),
        *(f"  fisher {number}: {place}" for number, place in enumerate(plan.fishers, start=1)),
        f"  tensors: {len(merged)} merged ({sum(tensor.size for tensor in merged):,} parameters), "
        f"{len(plan.tensors) - len(merged)} copied",
        f"  read: {size(plan.read)} in {1 + len(plan.method.strides)} pass{'es' if plan.method.strides else ''}",
        f"  written: {size(plan.written)} in {many(files, 'file')} ({', '.join(dtypes)}) to {plan.out}",
        f"  memory: about {size(plan.buffers)} of buffers in {many(plan.threads, 'thread')}, besides Python and torch",
    ]
    return "\n".join(lines)
