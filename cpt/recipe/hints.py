"""What people who come from TRL, verl, axolotl, LLaMA-Factory or OpenRLHF write, and what it is called here.

An entry of a table that is one word is a key of that place; any other is a sentence.
"""

from collections.abc import Iterable

from cpt.errors import did_you_mean, nearest, nearest_or_all
from cpt.merge_methods import RECIPE_METHODS

IN_ARGS = "write it under `args` of a stage, or `defaults: {{sft: {{args: {{{0}: ...}}}}}}`"
DATA = "name it in a task: `stream: [{task: mine, data: {source: file, train: train.jsonl, eval: eval.jsonl}, ...}]`"
ADAPTER = "write `adapter: {kind: lora, r: 16}`"
LAUNCH = "pass it to `accelerate launch --config_file` (docs/recipe.md)"
SEED = "use the recipe's `seed`"

ARGS = {  # of TRL's configs; those that a kind of stage does not have are left out of the hint
    **dict.fromkeys(("lr", "learning_rates", "actor_learning_rate", "lr_rate"), "learning_rate"),
    **dict.fromkeys(
        (
            *("batch_size", "train_batch_size", "per_gpu_train_batch_size", "micro_batch_size", "bs"),
            *("micro_train_batch_size", "micro_batch_size_per_gpu", "mini_batch_size", "per_device_batch_size"),
            *("rollout_batch_size", "ppo_mini_batch_size"),
        ),
        "per_device_train_batch_size",
    ),
    **dict.fromkeys(
        (
            "grad_accum",
            "gradient_accumulation",
            "accumulate_grad_batches",
            "grad_accumulation_steps",
            "accumulation_steps",
        ),
        "gradient_accumulation_steps",
    ),
    **dict.fromkeys(
        ("epochs", "num_epochs", "n_epochs", "max_epochs", "total_epochs", "train_epochs"), "num_train_epochs"
    ),
    **dict.fromkeys(("steps", "num_steps", "train_steps", "max_train_steps", "total_training_steps"), "max_steps"),
    **dict.fromkeys(
        ("warmup", "warmup_ratio", "num_warmup_steps", "lr_warmup_steps", "lr_warmup_ratio"), "warmup_steps"
    ),
    **dict.fromkeys(("scheduler", "lr_scheduler", "lr_schedule", "scheduler_type"), "lr_scheduler_type"),
    **dict.fromkeys(("optimizer", "optimiser", "optimizer_type"), "optim"),
    **dict.fromkeys(
        ("max_seq_length", "max_seq_len", "cutoff_len", "sequence_len", "seq_length", "max_len", "model_max_length"),
        "max_length",
    ),
    **dict.fromkeys(
        ("max_new_tokens", "max_response_length", "response_length", "max_tokens", "generate_max_len", "max_gen_len"),
        "max_completion_length",
    ),
    **dict.fromkeys(
        ("n", "rollout_n", "group_size", "num_samples", "n_samples_per_prompt", "rollouts", "num_return_sequences"),
        "num_generations",
    ),
    **dict.fromkeys(
        ("kl_coef", "kl_coeff", "kl_loss_coef", "kl_penalty", "init_kl_coef", "kl_beta", "pref_beta", "dpo_beta"),
        "beta",
    ),
    **dict.fromkeys(("clip_ratio", "cliprange", "clip_range", "clip_eps", "clip_ratio_low", "eps_clip"), "epsilon"),
    **dict.fromkeys(("clip_ratio_high", "clip_high", "eps_clip_high"), "epsilon_high"),
    **dict.fromkeys(("grad_clip", "clip_grad", "gradient_clip_val", "gradient_clipping", "max_norm"), "max_grad_norm"),
    **dict.fromkeys(("wd", "l2"), "weight_decay"),
    **dict.fromkeys(("entropy_coeff", "ent_coef", "entropy_loss_coef"), "entropy_coef"),
    **dict.fromkeys(("grad_checkpointing", "activation_checkpointing"), "gradient_checkpointing"),
    **dict.fromkeys(("save_every", "checkpoint_every", "save_freq", "saves_per_epoch"), "save_steps"),
    **dict.fromkeys(("log_every", "logging_freq", "log_interval", "print_every"), "logging_steps"),
    **dict.fromkeys(("sample_packing", "neat_packing"), "packing"),
    **dict.fromkeys(("train_on_prompt", "train_on_inputs", "mask_prompt"), "completion_only_loss"),
    "ppo_epochs": "num_iterations",
    "mu": "num_iterations",
    "betas": "write `adam_beta1` and `adam_beta2`",
    "pref_loss": "loss_type",
    "simpo_gamma": "TRL's DPOConfig has no SimPO; take another `loss_type`",
    "max_prompt_length": "no prompt is cut: shorten or drop long rows",
    "lora_r": ADAPTER,
    "lora_alpha": ADAPTER,
    "lora_target": ADAPTER,
    "peft_config": ADAPTER,
    "use_peft": ADAPTER,
    "reward_funcs": "write `reward` beside `stages`, for the whole task",
    "dataset_name": DATA,
    "num_processes": LAUNCH,
    "eval_dataset": "every point is evaluated on the task's `data.eval`",
}
KINDS = {
    **dict.fromkeys(
        (
            *("grpo", "ppo", "rl", "rlhf", "rlvr-grpo", "dapo", "dr-grpo", "dr_grpo", "gspo", "cispo", "reinforce"),
            *("reinforce++", "online-rl", "policy-gradient", "gfpo", "rloo", "opo"),
        ),
        "rlvr",
    ),
    **dict.fromkeys(
        ("finetune", "finetuning", "fine-tuning", "supervised", "instruct", "lora", "full", "pt", "pretrain", "cpt"),
        "sft",
    ),
    **dict.fromkeys(("orpo", "kto", "ipo", "simpo", "cpo", "preference", "preferences", "online-dpo"), "dpo"),
    **dict.fromkeys(
        ("gkd", "opd", "kd", "distillation", "on-policy-distillation", "on_policy_distillation", "minillm"), "distill"
    ),
    **dict.fromkeys(
        ("sdft", "opsd", "sdpo", "self_distillation", "selfdistillation", "self-distill"), "self-distillation"
    ),
    **dict.fromkeys(
        ("rft", "raft", "star", "best-of-n", "rejection-sampling", "rejection_sampling", "expert-iteration", "reject"),
        "rejection",
    ),
    **{
        name: f"write `kind: hybrid, method: {name}`"
        for name in ("luffy", "srft", "hpt", "relift", "chord", "chord-phi")
    },
    "ttrl": "write `kind: rlvr, ttrl: {}`",
    "eval": "every point is evaluated by itself: see `evaluation`",
    "merge": "write it under `strategies`",
    "ema": "write it under `strategies`",
}
STAGE = {
    **dict.fromkeys(("type", "name", "algorithm", "trainer", "stage", "algo"), "kind"),
    **dict.fromkeys(("arguments", "config", "training_args", "trainer_args", "hyperparameters", "params"), "args"),
    **dict.fromkeys(
        ("reward", "reward_funcs", "metric", "verifier"), "write `reward` beside `stages`, for the whole task"
    ),
    **dict.fromkeys(("teacher_model", "teacher_model_name_or_path", "teacher_path"), "teacher"),
    **dict.fromkeys(("ref_model", "reference_model", "ref"), "reference"),
    "data": "rows are the task's: write `data` beside `stages`",
    "adapter": "the whole run trains one adapter: write it at the top",
}
RECIPE = {
    **dict.fromkeys(
        ("model_name_or_path", "model_name", "base_model", "model_id", "model_path", "pretrained", "tokenizer"),
        "write `model: {path: ...}`",
    ),
    **dict.fromkeys(("torch_dtype", "dtype", "precision"), "write `model: {dtype: bfloat16}`"),
    **dict.fromkeys(
        (
            *("dataset", "datasets", "dataset_name", "train_file", "train_files", "data_files", "train_dataset"),
            *("dataset_path", "train", "train_data"),
        ),
        DATA,
    ),
    **dict.fromkeys(("tasks", "streams", "curriculum", "experiences"), "stream"),
    **dict.fromkeys(
        ("output_dir", "out", "output", "run_dir", "out_dir", "save_dir"), "give it on the command line: --out"
    ),
    **dict.fromkeys(
        (
            *("peft", "lora", "peft_config", "lora_config", "lora_r", "lora_rank", "lora_alpha", "lora_target"),
            *("lora_target_modules", "lora_dropout", "finetuning_type", "use_peft", "adapters"),
        ),
        ADAPTER,
    ),
    **dict.fromkeys(
        ("load_in_4bit", "load_in_8bit", "quantization"), "the trained weights have the dtype `model.dtype`"
    ),
    **dict.fromkeys(("template", "chat_template"), "write `model: {chat_template: FILE.jinja}`"),
    **dict.fromkeys(
        ("eval_dataset", "val_size", "val_set_size", "test_datasets", "benchmarks", "eval", "suites"),
        "write `evaluation: {suites: [...]}`; a task's own rows are its `data.eval`",
    ),
    **dict.fromkeys(
        ("reward", "rewards", "reward_fn", "reward_funcs", "reward_function", "verifier"), "write `reward` in a task"
    ),
    **dict.fromkeys(("use_vllm", "vllm", "sglang"), "write `rollouts: {engine: vllm}`"),
    **dict.fromkeys(
        ("rl", "algorithm", "stage", "stages", "trainer", "method", "kind"), "write `stages: [{kind: ...}]` in a task"
    ),
    **dict.fromkeys(("random_seed", "seeds", "data_seed"), "seed"),
    **dict.fromkeys(
        ("deepspeed", "fsdp", "fsdp_config", "num_gpus", "n_gpus_per_node", "num_processes", "distributed"), LAUNCH
    ),
    **dict.fromkeys(
        ("report_to", "wandb", "logging", "tensorboard"), "curves are in metrics.jsonl and the report of every run"
    ),
    **dict.fromkeys(("merge", "ema", "replay", "regularization", "strategy"), "strategies"),
    "gates": "write it under `evaluation`",
}
TASK = {
    **dict.fromkeys(("name", "id", "title"), "task"),
    **dict.fromkeys(("dataset", "source", "path", "rows"), "data"),
    **dict.fromkeys(
        ("rewards", "reward_fn", "reward_funcs", "reward_function", "verifier", "scorer", "grader"), "reward"
    ),
    **dict.fromkeys(("metrics", "evaluate", "accuracy"), "metric"),
    **dict.fromkeys(
        ("max_new_tokens", "max_tokens", "max_response_length", "response_length"), "max_completion_length"
    ),
    **dict.fromkeys(("stop_words", "stop_tokens", "stop_strings", "stop_sequences", "eos", "eos_token"), "stop"),
    **dict.fromkeys(("stage", "training", "trainer", "steps"), "stages"),
    **dict.fromkeys(("system_prompt", "system_message"), "system"),
    "kind": "write `stages: [{kind: ...}]`",
    "args": "write `stages: [{kind: sft, args: {...}}]`",
}
DATA_KEYS = {
    **dict.fromkeys(
        (
            *(
                "file",
                "path",
                "train_file",
                "train_path",
                "data_files",
                "files",
                "dataset",
                "train_split",
                "train_files",
            ),
            *("split", "rows", "data_file"),
        ),
        "train",
    ),
    **dict.fromkeys(("dataset_name", "repo", "repo_id", "hf_hub_url", "id", "hub_id"), "path"),
    **dict.fromkeys(
        ("subset", "config_name", "dataset_config", "dataset_config_name", "configuration", "skill"), "name"
    ),
    **dict.fromkeys(("test", "test_file", "eval_file", "test_split", "eval_split", "eval_path", "held_out"), "eval"),
    **dict.fromkeys(
        ("val", "valid", "dev", "val_file", "validation_file", "validation_split", "val_files"), "validation"
    ),
    **dict.fromkeys(("type", "kind", "format", "provider"), "source"),
    **dict.fromkeys(("column", "fields", "mapping", "column_mapping", "field_map"), "columns"),
    **dict.fromkeys(("prompt_template", "prompt_format", "input_template", "prompt"), "template"),
    **dict.fromkeys(("answer_template", "target", "solution"), "answer"),
    **dict.fromkeys(("completion_template", "output_template", "completion"), "demonstration"),
    **dict.fromkeys(("filter", "condition", "keep_if", "select"), "where"),
    **dict.fromkeys(("sep", "delim", "separator"), "delimiter"),
    **dict.fromkeys(("key", "json_key", "root", "records"), "field"),
    **{
        f"{field}_{end}": "name columns with `columns`, e.g. {prompt: question, answer: solution}"
        for field in ("prompt", "answer", "input", "output", "response", "question", "text", "label", "messages")
        for end in ("column", "key", "field")
    },
}
SOURCES = {
    **dict.fromkeys(("json", "jsonlines", "csv", "tsv", "parquet", "local", "files", "folder", "disk"), "file"),
    **dict.fromkeys(("huggingface", "hf", "datasets", "hf_hub", "hugging_face"), "hub"),
    **dict.fromkeys(("reasoning-gym", "reasoninggym", "gym"), "reasoning_gym"),
    **dict.fromkeys(("letters", "synthetic"), "procedural"),
    **dict.fromkeys(("inline", "list", "memory", "python"), "rows"),
}
MODEL = {
    **dict.fromkeys(("name", "name_or_path", "model", "id", "model_name_or_path", "repo", "folder"), "path"),
    **dict.fromkeys(("torch_dtype", "precision"), "dtype"),
    **dict.fromkeys(
        ("attention", "attn", "flash_attention", "flash_attn", "use_flash_attention_2"), "attn_implementation"
    ),
    **dict.fromkeys(("template", "chat_template_path"), "chat_template"),
    "enable_thinking": "write `chat_template_kwargs: {enable_thinking: false}`",
    "peft": ADAPTER,
    "lora": ADAPTER,
}
ADAPTER_KEYS = {
    **dict.fromkeys(("rank", "lora_rank", "lora_r", "lora_dim"), "r"),
    **dict.fromkeys(("alpha", "scale"), "lora_alpha"),
    "dropout": "lora_dropout",
    **dict.fromkeys(("targets", "lora_target", "lora_target_modules", "modules"), "target_modules"),
    **dict.fromkeys(("type", "peft_type", "name"), "kind"),
}
ROLLOUTS = {
    **dict.fromkeys(("type", "backend", "name", "kind"), "engine"),
    **dict.fromkeys(("gpu_memory", "gpu_memory_utilisation", "memory_utilization", "vllm_gpu_memory_utilization"),
                    "gpu_memory_utilization"),
    **dict.fromkeys(("tp", "tensor_parallel", "tp_size", "vllm_tensor_parallel_size"), "tensor_parallel_size"),
    **dict.fromkeys(("base_url", "server", "host", "server_url"), "url"),
    **dict.fromkeys(("max_batch_size", "micro_batch_size"), "batch_size"),
    **dict.fromkeys(("n", "num_generations", "temperature", "top_p", "max_tokens"), "write it under `args` of a stage"),
}  # fmt: skip
ENGINES = {
    **dict.fromkeys(("hf", "huggingface", "native", "none"), "transformers"),
    **dict.fromkeys(("vllm-server", "vllm_server", "openai", "remote"), "server"),
    **dict.fromkeys(("sglang", "lmdeploy", "trtllm"), "vllm"),
}
EVALUATION = {
    **dict.fromkeys(("suite", "benchmarks", "benchmark", "tasks", "datasets", "held_out"), "suites"),
    **dict.fromkeys(("max_new_tokens", "max_tokens"), "max_completion_length"),
    **dict.fromkeys(("pass_at_k", "passk", "k", "samples", "sampling"), "sampled"),
    **dict.fromkeys(("gate", "thresholds", "limits"), "gates"),
}
REWARDS = {
    **dict.fromkeys(("exact_match", "em", "equals", "equal", "match", "accuracy", "string"), "exact"),
    **dict.fromkeys(("regex", "regexp", "pattern"), "format"),
    **dict.fromkeys(("math_verify", "math-verify", "gsm8k", "numeric", "latex"), "math"),
    **dict.fromkeys(("multiple_choice", "mcq", "multiple-choice", "letter"), "choice"),
    **dict.fromkeys(("token_f1", "squad"), "f1"),
    **dict.fromkeys(("classification", "class", "labels"), "label"),
    **dict.fromkeys(("python", "custom", "code", "func"), "function"),
    **dict.fromkeys(("weighted", "weighted_sum", "list"), "sum"),
    **dict.fromkeys(("reasoning-gym", "gym"), "reasoning_gym"),
}
STRATEGIES = {
    **dict.fromkeys((*RECIPE_METHODS, "wise-ft", "merging", "average"), "write `kind: merge, method: ...`"),
    **dict.fromkeys(("averaging", "swa", "bema", "psmt", "ewa", "polyak"), "write `kind: ema` (and its `rule`)"),
    **dict.fromkeys(("cotta", "restore", "stochastic_restore"), "stochastic-restore"),
}
PLACES = {
    "Recipe": RECIPE,
    "Task": TASK,
    "SuiteTask": TASK,
    "Suite": {"suite": "name", "stream": "tasks", "rows": "tasks"},
    "Model": MODEL,
    "Evaluation": EVALUATION,
    "kind of stage": KINDS,
    "kind of reward": REWARDS,
    "kind of strategy": STRATEGIES,
    "source": SOURCES,
    "engine": ENGINES,
    "args": ARGS,
    "adapter": ADAPTER_KEYS,
    "rollouts": ROLLOUTS,
    "stage": STAGE,
    "data": DATA_KEYS,
}


def instead(place: str, word: str, known: Iterable[str]) -> str:
    """As `hint`; where nothing fits, `; there are: X, Y`."""
    known = list(known)
    return hint(place, word, known) or nearest_or_all(word, known)


def hint(place: str, word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` or `; write X`, for a word that `place` does not know; nothing where nothing fits."""
    known = list(known)
    plain = word.strip().lower()
    remedy = PLACES.get(place, {}).get(plain) or PLACES.get(place, {}).get(plain.replace("-", "_"))
    if remedy in known:
        return did_you_mean(remedy)
    if remedy is not None and " " in remedy:
        return f"; {remedy}"
    if place in ("Recipe", "Task", "stage") and (name := argument(plain)):
        return f"; write `args: {{{name}: ...}}`" if place == "stage" else f"; {IN_ARGS.format(name)}"
    return nearest(word, known)


def argument(word: str) -> str | None:
    """The argument of TRL's that a word is, or is another name of."""
    known = set(ARGS.values())
    name = ARGS.get(word, word)
    return name if name in known and " " not in name else None
