"""Lets no request through to vLLM without the key: `vllm serve --middleware cpt.rollouts.guard.Guard`.

vLLM's own `--api-key` asks for it on /v1 and the like alone, not on the developer's endpoints (/collective_rpc and others),
through which the server can be made to do anything.
"""

import hmac
import json
import os

from cpt.rollouts.client import KEY


class Guard:
    """ASGI middleware: answers 401 to what does not carry `Authorization: Bearer KEY`, KEY being that of VLLM_API_KEY."""

    def __init__(self, app):
        self.app = app
        key = os.environ.get(KEY)
        if not key:
            raise RuntimeError(f"cpt.rollouts.guard.Guard: set {KEY}, the key that requests must carry")
        self.wanted = f"Bearer {key}".encode()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan" or self.is_allowed(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": json.dumps({"error": "Unauthorized"}).encode()})

    def is_allowed(self, scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self.wanted)
