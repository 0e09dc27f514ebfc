"""Recipes with vLLM, in the training process or as a server."""

CLOSE = 1e-4  # nats, fp32


def own_logprobs(model, tokenizer, prompts: list, completions: list) -> list[list[float]]:
    """The log-probabilities that the policy itself gives to the tokens of completions."""
    from cpt.rollouts.transformers import TransformersEngine

    engine = TransformersEngine(4)
    engine.sync(model, tokenizer)
    return [each.logprobs for each in engine.score(prompts, completions)]


def with_engine(content: dict, **rollouts) -> dict:
    return content | {"rollouts": {"engine": "vllm"} | rollouts}


def with_server(content: dict, **rollouts) -> dict:
    return content | {"rollouts": {"engine": "server"} | rollouts}
