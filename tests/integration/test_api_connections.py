"""Who only holds a connection to the HTTP API, in a server of the test's own with short limits."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn

from hoop_operator.api import connections, middleware
from hoop_operator.api.app import application
from hoop_operator.api.connections import READ_SECONDS, Connection
from hoop_operator.cluster.api import connect_without_credentials
from hoop_operator.settings import Settings
from integration.tenant import eventually
from local import cluster
from local.stack import Stack

pytestmark = [pytest.mark.version_independent, pytest.mark.usefixtures("stack")]

HEAD = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
MANY_UNREAD = 500 * HEAD.replace(b"livez", b"openapi.json")
"""Requests whose answers are more than what the network holds."""


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
    async with asyncio.timeout(20):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


@pytest.fixture
def half_a_body(stack: Stack, namespace: str) -> bytes:
    """A request of somebody who is known, without its end."""
    inside = f"--namespace={namespace}"
    cluster.kubectl(stack.kubeconfig, inside, "create", "serviceaccount", "somebody")
    token = cluster.kubectl(stack.kubeconfig, inside, "create", "token", "somebody").strip()
    lines = ["POST /api/resources HTTP/1.1", "Host: x", f"Authorization: Bearer {token}", "Content-Length: 9"]
    return "\r\n".join([*lines, "", "{"]).encode()


async def test_who_sends_nothing_or_half_of_it_is_let_go(
    monkeypatch: pytest.MonkeyPatch, half_a_body: bytes
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.5)
    monkeypatch.setattr(connections, "BODY_SECONDS", 3.0)
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.2)
    async with served() as port:

        async def answer_to(sent: bytes) -> bytes:
            return (await said_after(await asyncio.open_connection("127.0.0.1", port), sent))[:12]

        unknown = half_a_body.replace(b"Bearer ", b"Bearer x")
        sent = (b"", HEAD[:-2], HEAD + HEAD[:-2], half_a_body, unknown)
        answers = await asyncio.gather(*map(answer_to, sent))
        assert answers == [b"", b"", b"HTTP/1.1 200", b"HTTP/1.1 408", b"HTTP/1.1 401"]
        monkeypatch.setattr(middleware, "SMALL_BODY_BYTES", 1)
        monkeypatch.setattr(middleware, "BODIES_BYTES_MAX", 7)
        whole = half_a_body.replace(b"Host: x", b"Host: x\r\nConnection: close") + b"       }"
        assert await answer_to(whole) == b"HTTP/1.1 503"


async def test_large_bodies_keep_no_small_one_out(
    monkeypatch: pytest.MonkeyPatch, half_a_body: bytes
) -> None:
    monkeypatch.setattr(middleware, "SMALL_BODY_BYTES", 100)
    monkeypatch.setattr(middleware, "BODIES_BYTES_MAX", 500)
    monkeypatch.setattr(middleware, "BODY_SECONDS", 5.0)
    half_a_body = half_a_body.replace(b"Host: x", b"Host: x\r\nConnection: close")
    large = half_a_body.replace(b"Content-Length: 9", b"Content-Length: 900") + 598 * b" "
    async with served() as port:

        async def answer_to(sent: bytes) -> bytes:
            return (await said_after(await asyncio.open_connection("127.0.0.1", port), sent))[:12]

        both = [asyncio.create_task(answer_to(large)) for _ in range(2)]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        assert await answer_to(half_a_body + b"       }") == b"HTTP/1.1 400"
        assert sorted(await asyncio.gather(*both)) == [b"HTTP/1.1 408", b"HTTP/1.1 503"]


async def test_who_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "READ_SECONDS", 0.2)
    async with served() as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(client, MANY_UNREAD)

            async def let_go() -> bool:
                try:
                    client.send(b" ")
                except ConnectionError:
                    return True
                return False

            await eventually(let_go, seconds=READ_SECONDS - 5, what="the connection is closed")


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
            writer.transport.abort()


async def test_answers_that_nobody_reads_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS_MAX", 4)
    async with served() as port:
        held = [await asyncio.open_connection("127.0.0.1", port, limit=1024) for _ in range(4)]
        for _, writer in held:
            writer.write(MANY_UNREAD)

        async def answered() -> bool:
            asked = HEAD.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n")
            said = await said_after(await asyncio.open_connection("127.0.0.1", port), asked)
            return said[:12] == b"HTTP/1.1 200"

        await eventually(answered, seconds=READ_SECONDS - 5, what="somebody else is answered")
        for _, writer in held:
            writer.transport.abort()


async def test_who_was_answered_stays_where_others_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS_MAX", 4)
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(HEAD)
            async with asyncio.timeout(20):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head[:12] == b"HTTP/1.1 200"
                await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
            for _, other in silent:
                other.transport.abort()
        writer.transport.abort()
