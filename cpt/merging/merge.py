"""Merge folders of safetensors into a new folder: `merge`. For `cpt merge`, and for strategies between two stages."""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from cpt import __version__
from cpt.disk import writing
from cpt.errors import UserError
from cpt.files import DONE, sync_file, sync_folder, write_json
from cpt.merging.heads import HEAD, is_embedding, ties_its_head
from cpt.merging.plan import BESIDE_WEIGHTS, Plan, make_plan, partial
from cpt.merging.reading import INDEX, read_config
from cpt.merging.stream import Pass
from cpt.merging.writing import Writer
from cpt.stop import current

if TYPE_CHECKING:  # pydantic comes with it, which `cpt merge` does without
    from cpt.records import MergeFile

RECORD = "merge.json"


def merge(
    method: str,
    models: Sequence[Path],
    base: Path | None = None,
    weights: Sequence[float] = (),
    out: Path | None = None,
    *,
    progress=None,
    stop=None,
    **options: Any,
) -> "MergeFile":
    """Write the merge of the folders `models` to the folder `out`, and return what is in its merge.json.

    `out` appears whole or not at all. `options`: density, scale, gamma, epsilon, trim, seed (those of the method), fishers,
    into, dtype, threads, shard_bytes. Raises UserError for whatever cannot be merged (docs/merging.md).
    """
    return carry_out(make_plan(method, models, base, weights, out, **options), progress, stop)


def carry_out(plan: Plan, progress=None, stop=None) -> "MergeFile":
    """Do what was planned. Killed on the way, it leaves `.NAME.partial` beside `out`, which the next merge removes."""
    growing = partial(plan.out)
    with ExitStack() as stack:
        stack.enter_context(writing(growing, plan.written))
        growing.mkdir(parents=True, exist_ok=True)
        try:
            stack.enter_context(FileLock(growing / ".lock").acquire(timeout=0))
        except Timeout:
            raise UserError(
                f"--out: {plan.out}: another process is writing it; wait for it, or give another folder"
            ) from None
        stack.enter_context(current().removing(lambda: shutil.rmtree(growing)))
        for left in growing.iterdir():
            if left.name != ".lock":
                left.unlink()
        try:
            fill(plan, growing, progress, stop)
        except BaseException:
            shutil.rmtree(growing, ignore_errors=True)
            raise
        (growing / ".lock").unlink()
        if plan.out.is_dir():
            plan.out.rmdir()
        growing.rename(plan.out)
        sync_folder(plan.out.parent)
    return plan.record()


def fill(plan: Plan, folder: Path, progress, stop) -> None:
    """The weights, then what stands beside them."""
    shapes = {name: tensor.shape for name, tensor in plan.tensors.items()}
    with ExitStack() as stack:
        for source in plan.sources:
            stack.enter_context(source)
        stem = "adapter_model" if plan.is_adapter else "model"
        limit = plan.written if plan.is_adapter else plan.shard_bytes
        writer = Writer(folder, shapes, max(1, limit), stem)
        try:
            Pass(plan, writer).run(progress, stop)
            writer.close()
        finally:
            writer.abandon()
    copy_beside(plan, folder)
    write_json(folder / RECORD, plan.record() | {"cpt": __version__})
    sync_folder(folder)


def copy_beside(plan: Plan, folder: Path) -> None:
    """Config, tokenizer, generation config and chat template of `plan.first`; the config says what was written."""
    for file in sorted(plan.first.iterdir()):
        if file.is_file() and file.suffix in BESIDE_WEIGHTS and file.name not in (INDEX, RECORD, DONE):
            shutil.copyfile(file, folder / file.name)
            sync_file(folder / file.name)
    if not plan.is_adapter:
        config = read_config(folder / "config.json")
        changes = {} if plan.dtype is None else {"torch_dtype" if "torch_dtype" in config else "dtype": plan.dtype}
        if HEAD in plan.tensors and any(map(is_embedding, plan.tensors)) and ties_its_head(plan.first):
            changes["tie_word_embeddings"] = False
        if changes:
            write_json(folder / "config.json", config | changes)
