"""Recipes with vLLM, in the training process or as a server."""

CLOSE = 1e-4  # nats, fp32


def with_engine(content: dict, **rollouts) -> dict:
    return content | {"rollouts": {"engine": "vllm"} | rollouts}


def with_server(content: dict, **rollouts) -> dict:
    return content | {"rollouts": {"engine": "server"} | rollouts}
