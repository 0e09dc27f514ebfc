"""Who can speak to a server: the guard, the folder of its socket, the key; without a server."""

import asyncio
import os
import socket
import stat
import threading

import httpx
import pytest

from cpt.errors import UserError
from cpt.recipe import load
from cpt.rollouts import server_process as serving
from cpt.rollouts.client import ServerLost, Servers
from cpt.rollouts.guard import Guard
from helpers.recipes import RECIPES, write_recipe


async def app(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})


@pytest.mark.parametrize(
    "headers, status",
    [
        ({}, 401),
        ({"Authorization": "Bearer secret"}, 200),
        ({"Authorization": "Bearer secret2"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": "secret"}, 401),
        ({"Authorization": "Basic secret"}, 401),
        ([("Authorization", "Bearer secret"), ("Authorization", "Bearer other")], 401),
        ({"X-Api-Key": "secret"}, 401),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_the_guard(headers, status, method, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")

    async def ask() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(Guard(app)), base_url="http://server") as client:
            paths = ("/collective_rpc", "/v1/completions", "/health", "/", "/../collective_rpc", "//update_weights")
            return [(await client.request(method, path, headers=headers)).status_code for path in paths]

    assert asyncio.run(ask()) == [status] * 6


def test_the_guard_needs_a_key(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    with pytest.raises(RuntimeError, match="set VLLM_API_KEY"):
        Guard(app)


def test_the_guard_closes_websockets(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    sent = []

    async def send(message) -> None:
        sent.append(message)

    asyncio.run(Guard(app)({"type": "websocket", "headers": []}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_the_folder_of_a_server_is_its_users_alone(tmp_path, monkeypatch):
    """And short, whatever the place for temporary files: a Unix socket's path has 107 bytes."""
    long = tmp_path / ("long" * 30)
    long.mkdir()
    before = os.umask(0)
    try:
        for place in (tmp_path, long):
            monkeypatch.setattr("tempfile.tempdir", str(place))
            folder = serving.private_folder()
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(str(folder / ("x" * 36)))
            (folder / ("x" * 36)).unlink()
            folder.rmdir()
    finally:
        os.umask(before)


def test_no_place_for_a_socket(monkeypatch):
    monkeypatch.setattr(serving, "LONGEST_SOCKET", 10)
    with pytest.raises(UserError, match="set TMPDIR to one"):
        serving.private_folder()


def test_how_a_server_is_started(tiny_folder, tmp_path, monkeypatch):
    """At a socket, or at a port with a key; neither takes a library from the working directory."""
    monkeypatch.setenv("VLLM_HOST_IP", "10.0.0.5")
    for port in (None, 8123):
        rollouts = {"engine": "server"} | ({"port": port} if port else {})
        settings = load(write_recipe(tmp_path / "recipe.yaml", RECIPES["rlvr"] | {"rollouts": rollouts}))
        made = serving.ServerProcess(settings, tiny_folder, tmp_path / "log", "gloo")
        made.folder, made.key = tmp_path, "secret" if port else None
        words, environment = made._command(), made._environment()
        assert "-P" in words and environment["VLLM_HOST_IP"] == "10.0.0.5", "what the user has set stays"
        assert environment["VLLM_RPC_BASE_PATH"] == str(tmp_path)
        if port:
            assert words[-6:] == ["--host", "127.0.0.1", "--port", "8123", "--middleware", "cpt.rollouts.guard.Guard"]
            assert environment["VLLM_API_KEY"] == "secret" and made.url == "http://127.0.0.1:8123"
        else:
            assert words[-2:] == ["--uds", str(tmp_path / "server")] and made.url == f"unix:{tmp_path}/server"


def answering(listening: socket.socket, seen: list[bytes], status: bytes = b"200 OK") -> None:
    """Answers every request with an empty JSON object; what was asked is in `seen`."""
    while True:
        connection, _ = listening.accept()
        seen.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\nContent-Length: 2\r\n")
        connection.sendall(b"Connection: close\r\n\r\n{}")
        connection.close()


@pytest.fixture
def short_folder():
    folder = serving.private_folder()
    yield folder
    for each in folder.iterdir():
        each.unlink()
    folder.rmdir()


def test_requests_at_a_socket_carry_the_key(short_folder, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "the run's")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    seen: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(short_folder / "s"))
        listening.listen()
        threading.Thread(target=answering, args=(listening, seen), daemon=True).start()
        url = f"unix:{short_folder / 's'}"
        assert Servers([url], 5.0).post(url, "collective_rpc", {"method": "a"}, 5.0) == {}
        assert Servers([url], 5.0, "its own").get(url, "health").status_code == 200
    assert b"POST /collective_rpc" in seen[0] and b"authorization: bearer the run's" in seen[0].lower()
    assert b"authorization: bearer its own" in seen[1].lower()


def test_a_key_that_the_server_does_not_know(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answering, args=(listening, [], b"401 Unauthorized"), daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(UserError, match="expects another key than VLLM_API_KEY has here"):
            Servers([url], 5.0).rpc("cpt_fingerprints")


def test_a_socket_at_which_nobody_answers(tmp_path):
    with pytest.raises(ServerLost, match="ConnectError"):
        Servers(["unix:/nowhere"], 5.0).get("unix:/nowhere", "health")
