"""Load and save the policy, its tokenizer and its adapters. A policy is always a folder that `from_pretrained` loads.

The base of a run (`points/00-base/model`) is a copy of the model that the recipe names. With an adapter, the later
points hold the adapter alone, on that base.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpt.adapters import CONFIG, is_adapter
from cpt.disk import writing
from cpt.errors import UserError
from cpt.files import apply_umask, copy_file
from cpt.lora import takes_from_base

if TYPE_CHECKING:
    from cpt.recipe import Model, Recipe


BASE_FILES = (".safetensors", ".json", ".jinja", ".model", ".txt", ".py")


@contextmanager
def loading(what: str, whose: str | Path) -> Iterator[None]:
    """A library reads the user's files in this block: whatever it finds wrong with them becomes one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # transformers, huggingface_hub, safetensors and tokenizers share no class of errors
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{whose}: the {what} cannot be loaded ({type(error).__name__}: {reason}): restore the file, or use another model"
        ) from error


def resolve(recipe: "Recipe", screen=None, stop=None) -> Path:
    """The folder of the recipe's model: made (tiny), local, or downloaded from the hub.

    Raises:
        Interrupted: `stop` heard a signal while the model was made.
        UserError: no such folder and no such repository on the hub (or no network).
    """
    return find(recipe.model, screen, stop)


def find(spec: "Model", screen=None, stop=None) -> Path:
    """`resolve` for a model by itself."""
    if spec.path == "tiny":
        from cpt import tiny

        return tiny.path(spec.seed, screen, stop)
    folder = Path(os.path.expanduser(spec.path))
    if os.path.isdir(folder):
        return folder.resolve()
    if len(folder.parts) != 2 or folder.is_absolute() or spec.path.startswith("."):
        raise UserError(f"model.path: no folder {spec.path}; give a model folder, a hub id (owner/name), or `tiny`")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    if screen is not None:
        disable_progress_bars()  # which would draw over ours
    try:
        with screen.progress(f"downloading {spec.path}") if screen is not None else nullcontext():
            folder = snapshot_download(
                spec.path,
                revision=spec.revision,
                allow_patterns=[f"*{suffix}" for suffix in BASE_FILES],
                ignore_patterns=["*/*", "consolidated*"],  # the same weights in other forms
            )
        return Path(folder)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"model.path: {spec.path} is neither a local folder nor available from the hub: {first}"
        ) from error


def here(recipe: "Recipe") -> Path | None:
    """The folder of the recipe's model where it is on this machine already; nothing is made or downloaded."""
    spec = recipe.model
    if spec.path == "tiny":
        from cpt import tiny

        return tiny.SHIPPED  # toy models of all seeds have one tokenizer and one config
    folder = Path(os.path.expanduser(spec.path))
    if os.path.isdir(folder):
        return folder.resolve()
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(spec.path, "config.json", revision=spec.revision)
    except HFValidationError:
        return None
    return Path(config).parent if isinstance(config, str) else None


def write_base(recipe: "Recipe", source: Path, target: Path) -> None:
    """Copy the model of `source` to `target`, with the recipe's chat template: the run stays whole if a cache is cleaned.

    With `model.copy: false` the weights are links to those of `source`. Only weights that the model is loaded from count.

    Raises:
        UserError: no safetensors weights, or no tokenizer.
    """
    load_config(source, recipe)
    weights = check_weights(source)
    files = [file for file in sorted(source.iterdir()) if file.is_file() and file.suffix in BASE_FILES]
    linked = [file for file in files if file.name in weights and not recipe.model.copy]
    copied = [file for file in files if file.suffix != ".safetensors" or (file.name in weights and file not in linked)]
    with writing(target, sum(file.stat().st_size for file in copied)):
        target.mkdir(parents=True)
        for file in copied:
            copy_file(file, target / file.name)
        for file in linked:
            (target / file.name).symlink_to(file.resolve())
        load_tokenizer(target, recipe).save_pretrained(target)


def check_weights(folder: Path) -> set[str]:
    """The names of the files that transformers loads the weights of `folder` from: there may be the same ones in other forms.

    Raises:
        UserError: `folder` has no safetensors, lacks one that its index names, or holds one that is cut short.
    """
    from safetensors import safe_open

    if is_adapter(folder):
        raise UserError(f"model.path: {adapter_as_model(folder)}")
    index = folder / "model.safetensors.index.json"
    files = {file.name for file in folder.glob("*.safetensors")}
    if not files:
        raise UserError(f"model.path: {folder} has no *.safetensors; convert the weights (pickled .bin is not loaded)")
    with loading("index of the weights (model.safetensors.index.json)", folder):
        named = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else set()
    if named - files:
        raise UserError(f"model.path: {folder} lacks {', '.join(sorted(named - files))}, which its index names")
    used = {"model.safetensors"} if "model.safetensors" in files else named or files
    for name in sorted(used):
        with loading(f"file of weights {name}", folder), safe_open(folder / name, "pt"):
            pass
    return used


def load_config(folder: Path, recipe: "Recipe"):
    """The model's config. Raises UserError where it cannot be read."""
    from transformers import AutoConfig

    with loading("config (config.json)", folder):
        return AutoConfig.from_pretrained(folder, trust_remote_code=recipe.model.trust_remote_code)


def check_vocabulary(folder: Path, tokenizer, recipe: "Recipe") -> None:
    """Raise UserError where the tokenizer writes ids that the model in `folder` has no embedding for."""
    rows = getattr(load_config(folder, recipe).get_text_config(), "vocab_size", None)
    ids = max(tokenizer.vocab_size - 1, tokenizer.eos_token_id, tokenizer.pad_token_id)
    if rows is not None and ids >= rows:
        raise UserError(
            f"model.path: {recipe.model.path}: its tokenizer writes ids up to {ids}, and the model knows {rows} "
            "(vocab_size of config.json): they do not belong together"
        )


def adapter_as_model(folder: Path) -> str:
    """What to do with an adapter that is named where a model belongs."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    base = (config.get("base_model_name_or_path") if isinstance(config, dict) else None) or "BASE"
    return (
        f"{folder} is an adapter, not a model: make a model of it and its base with `cpt merge {folder} --into {base} --out "
        "DIR`, and name that"
    )


def check_start(folder: Path) -> None:
    """Raise UserError where the adapter of `folder` was trained over a changed base that its files do not hold."""
    how = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("init_lora_weights")
    if isinstance(how, str) and how.startswith(("pissa_niter", "corda", "lora_ga", "loftq")):
        raise UserError(
            f"{folder}: its LoRA began with a part of the base ({how}), and its files do not say which: save it again with "
            "path_initial_model_for_weight_conversion of PEFT's save_pretrained"
        )


def load_tokenizer(folder: Path, recipe: "Recipe"):
    """The tokenizer of `folder`, padding on the left, with the recipe's chat template where it names one.

    Raises:
        UserError: the folder has no tokenizer, or none that loads.
    """
    from transformers import AutoTokenizer

    files = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json", "vocab.txt")
    if not any((folder / name).is_file() for name in files):
        raise UserError(
            f"model.path: {recipe.model.path} has no tokenizer (tokenizer.json): save it beside the weights"
        )
    with loading("tokenizer", f"model.path: {recipe.model.path}"):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, padding_side="left", trust_remote_code=recipe.model.trust_remote_code
        )
    if tokenizer.eos_token_id is None:
        raise UserError(f"model.path: the tokenizer of {recipe.model.path} has no end-of-sequence token (eos_token)")
    if recipe.model.chat_template is not None:
        with loading("chat template", recipe.model.chat_template):
            tokenizer.chat_template = recipe.model.chat_template.read_text(encoding="utf-8")
    if tokenizer.pad_token_id is None:  # none is named, or "", which has no id
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_full(folder: Path, recipe: "Recipe"):
    """All weights of `folder` in the recipe's dtype, on the CPU (the trainer places them). Raises UserError."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    options = {"attn_implementation": recipe.model.attn_implementation} if recipe.model.attn_implementation else {}
    options |= {"dtype": recipe.model.dtype, "trust_remote_code": recipe.model.trust_remote_code}
    with loading("model", folder):
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **options
        )
    missing = sorted(info["missing_keys"])
    if missing:
        named = ", ".join(missing[:3]) + ", ..." * (len(missing) > 3)
        raise UserError(
            f"{folder}: the weights lack {len(missing)} tensors that the config asks for ({named}), and random "
            "values would replace them"
            ": config.json and weights do not belong together"
        )
    if strange := not_finite(model.named_parameters()):
        raise UserError(f"{folder}: {holds_nan(strange)}: repair the model, or give another")
    own = model.generation_config
    ids = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**ids)  # one that can be saved; the file goes with the weights as it is
    return model


def not_finite(tensors: Iterable[tuple[str, Any]]) -> list[str]:
    """The names of the tensors that hold NaN or infinity. A sum shows it cheaply; only then is each value looked at."""
    import torch

    return [
        name
        for name, tensor in tensors
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all()
    ]


def holds_nan(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more} hold{'s' * (len(names) == 1)} NaN or infinity"


def load_policy(folder: Path, base: Path, recipe: "Recipe", *, trainable: bool, seed: int = 0):
    """The policy in `folder`: all weights, or the adapter on `base`; to train on one, a fresh adapter drawn from `seed`."""
    if recipe.adapter is None or not (trainable or is_adapter(folder)):
        return load_full(folder, recipe)
    from peft import PeftModel
    from transformers import set_seed

    from cpt import pissa

    model = load_full(base, recipe)
    if is_adapter(folder):
        with loading("adapter", folder):
            check_start(folder)
            if trainable and takes_from_base(recipe.adapter.model_dump()):
                return pissa.lay_saved(model, adapter_config(recipe), folder)
            return PeftModel.from_pretrained(model, folder, is_trainable=trainable)
    set_seed(seed)
    return pissa.lay(model, adapter_config(recipe))


def adapter_config(recipe: "Recipe"):
    """The PEFT config of the recipe's `adapter`. Raises UserError where PEFT refuses it."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, TaskType

    options = dict(recipe.adapter.model_dump())
    kind = options.pop("kind").upper()
    try:
        return PEFT_TYPE_TO_CONFIG_MAPPING[kind](**{"task_type": TaskType.CAUSAL_LM, **options})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"adapter: PEFT refuses {recipe.adapter.kind}: {error}") from error


def save_policy(
    model, state_dict: dict, source: Path, target: Path, recipe: "Recipe", base: Path | None = None
) -> None:
    """Write the policy to `target`, which must be new; see `_save_policy`. Raises CannotWrite.

    An adapter's base is the folder `base`, or `source` where that is left out.
    """
    with writing(target, sum(tensor.nbytes for tensor in state_dict.values())):
        _save_policy(model, state_dict, source, target, recipe, base or source)


def _save_policy(model, state_dict: dict, source: Path, target: Path, recipe: "Recipe", base: Path) -> None:
    """Write the policy's weights (rank 0, after a collective gather) and all that is needed to load them to `target`.

    The config is the one the model came with (training sets `use_cache` and the like), and so is the tokenizer.
    """
    target.mkdir(parents=True, exist_ok=True)
    if recipe.adapter is not None:
        save_adapter(model, target, state_dict)
        sets = [name for name, value in vars(model.peft_config["default"]).items() if isinstance(value, set)]
        write_adapter_config(target, recipe, sets, base)
    else:
        model.save_pretrained(target, state_dict=state_dict)
        config = load_config(source, recipe)
        config.dtype = model.dtype
        config.save_pretrained(target)
        if (source / "generation_config.json").is_file():
            shutil.copyfile(source / "generation_config.json", target / "generation_config.json")
    load_tokenizer(source, recipe).save_pretrained(target)
    apply_umask(target)


def save_adapter(model, folder: Path, state_dict: dict | None = None) -> None:
    """Write the policy's own adapter (not those that a trainer laid beside it), as one over the untouched base."""
    from cpt.pissa import make_whole

    model.save_pretrained(folder, state_dict=state_dict, selected_adapters=["default"])
    (folder / "README.md").unlink()  # PEFT's empty model card
    make_whole(model, folder)
    apply_umask(folder)


def write_adapter_config(folder: Path, recipe: "Recipe", sets: list[str], base: Path) -> None:
    """Let PEFT find the base by itself: the hub's id, or the folder `base` of the run.

    The fields `sets` have no order of their own: sorted, two equal runs write equal files.
    """
    file = folder / CONFIG
    config = json.loads(file.read_text())
    local = recipe.model.path == "tiny" or os.path.isdir(os.path.expanduser(recipe.model.path))
    config["base_model_name_or_path"] = str(base.resolve()) if local else recipe.model.path
    config["revision"] = recipe.model.revision
    config |= {name: sorted(config[name]) for name in sets}
    file.write_text(json.dumps(config, indent=2, sort_keys=True))


def stop_ids(model, tokenizer) -> list[int]:
    """Every id that ends a completion: the tokenizer's end of sequence and those the model's generation config names."""
    return together(tokenizer.eos_token_id, model.generation_config.eos_token_id)


def stop_ids_of(folder: Path, tokenizer, recipe: "Recipe") -> list[int]:
    """`stop_ids` of the model in `folder`, by its files. Raises UserError where these cannot be read."""
    from transformers import GenerationConfig

    file = folder / "generation_config.json"
    if file.is_file():
        with loading("generation config (generation_config.json)", folder):
            own = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    else:
        own = GenerationConfig.from_model_config(load_config(folder, recipe)).eos_token_id
    return together(tokenizer.eos_token_id, own)


def together(eos: int, own: int | list[int] | None) -> list[int]:
    """The tokenizer's end of sequence and the model's own, each once."""
    own = [] if own is None else [own] if isinstance(own, int) else list(own)
    return list(dict.fromkeys([eos, *own]))


def answer_stops(tokenizer, spec) -> tuple[int, ...]:
    """The ids of a task's `stop` tokens. Raises UserError for one that is not a single token."""
    stop_ids = []
    for text in spec.stop:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise UserError(
                f"stream.{spec.task}.stop: {text!r} is {len(ids)} tokens of this tokenizer: only a single token can "
                "end an answer"
            )
        stop_ids += ids
    return tuple(stop_ids)


def context_length(folder: Path, recipe: "Recipe") -> int | None:
    """How many positions the model in `folder` was made for, or the engine takes if fewer; None where neither says."""
    own = getattr(load_config(folder, recipe).get_text_config(), "max_position_embeddings", None)
    engine = getattr(recipe.rollouts, "arguments", {}).get("max_model_len")
    return min((each for each in (own, engine) if each is not None), default=None)
