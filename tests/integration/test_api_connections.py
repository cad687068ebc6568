"""Who only holds a connection to the HTTP API, in a server of the test's own with short limits."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn

from hoop_operator.api import connections, middleware
from hoop_operator.api.app import application
from hoop_operator.api.connections import Connection
from hoop_operator.cluster.api import connect_without_credentials
from hoop_operator.settings import Settings
from local import cluster
from local.stack import Stack

pytestmark = pytest.mark.version_independent

HEAD = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def served() -> AsyncIterator[int]:
    """The port of the API in front of the cluster of the run."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with connect_without_credentials() as api:
            config = uvicorn.Config(
                application(Settings(), api), http=Connection, ws="none", lifespan="off", log_config=None
            )
            server = uvicorn.Server(config)
            with server.capture_signals():
                task = asyncio.create_task(server._serve(sockets=[listening]))
                yield listening.getsockname()[1]
                server.should_exit = True
                await task


async def said_after(stream: tuple[asyncio.StreamReader, asyncio.StreamWriter], sent: bytes) -> bytes:
    """What is answered until the server closes the connection."""
    reader, writer = stream
    writer.write(sent)
    async with asyncio.timeout(10):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


@pytest.fixture
def half_a_body(stack: Stack) -> bytes:
    """A request of somebody who is known, without its end."""
    token = cluster.kubectl(stack.kubeconfig, "create", "token", "default").strip()
    lines = ["POST /api/resources HTTP/1.1", "Host: x", f"Authorization: Bearer {token}", "Content-Length: 9"]
    return "\r\n".join([*lines, "", "{"]).encode()


async def test_who_sends_nothing_or_half_of_it_is_let_go(
    monkeypatch: pytest.MonkeyPatch, half_a_body: bytes
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(connections, "BODY_SECONDS", 3.0)
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.2)
    async with served() as port:
        unknown = half_a_body.replace(b"Bearer ", b"Bearer x")
        for sent, answered in (
            (b"", b""),
            (HEAD[:-2], b""),
            (HEAD + HEAD[:-2], b"HTTP/1.1 200"),
            (half_a_body, b"HTTP/1.1 408"),
            (unknown, b"HTTP/1.1 401"),
        ):
            said = await said_after(await asyncio.open_connection("127.0.0.1", port), sent)
            assert said[:12] == answered
        monkeypatch.setattr(middleware, "BODIES_BYTES_MAX", 8)
        whole = half_a_body.replace(b"Host: x", b"Host: x\r\nConnection: close") + b"       }"
        said = await said_after(await asyncio.open_connection("127.0.0.1", port), whole)
        assert said[:12] == b"HTTP/1.1 503"


@pytest.mark.parametrize("sent", [b"", HEAD], ids=["silent", "idle"])
async def test_connections_that_are_only_held_keep_nobody_out(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS_MAX", 4)
    async with served() as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
        for _, writer in held:
            writer.write(sent)
        asked = HEAD.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n")
        answer = await said_after(await asyncio.open_connection("127.0.0.1", port), asked)
        assert answer[:12] == b"HTTP/1.1 200"
        for stream in held[:4]:
            await said_after(stream, b"")
        for _, writer in held[4:]:
            writer.close()
