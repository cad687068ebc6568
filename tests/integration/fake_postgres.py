"""Servers that take PostgreSQL clients in, and then do something else than PostgreSQL does."""

import asyncio
import base64
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

SSL_REQUEST = 80877103
READY = b"Z" + struct.pack("!ic", 5, b"I")
AUTHENTICATED = b"R" + struct.pack("!ii", 8, 0)
COMPLETE = b"C" + struct.pack("!i", 13) + b"SELECT 0\0"
SASL = 10
SASL_CONTINUE = 11
CLEARTEXT_PASSWORD = b"R" + struct.pack("!ii", 8, 3)


class Client:
    """Who has connected, and said who it is."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received = b""
        """All that it has sent since."""
        self._reader = reader
        self._writer = writer

    async def read(self, length: int) -> bytes:
        """Wait for bytes from it."""
        data = await self._reader.readexactly(length)
        self.received += data
        return data

    async def send(self, data: bytes) -> None:
        """Send bytes to it."""
        self._writer.write(data)
        await self._writer.drain()


Behaviour = Callable[[Client], Awaitable[None]]


class FakeServer:
    """Listens on this machine and keeps who comes."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.port = 0
        self.clients: list[Client] = []
        self._behaviour = behaviour
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Take connections."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Take no connections any more and end those that there are."""
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                await _greet(reader, writer)
                self.clients.append(Client(reader, writer))
                await self._behaviour(self.clients[-1])
        finally:
            self._tasks.discard(task)
            writer.close()


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read the startup packet, refusing TLS first where it is asked for."""
    while True:
        length, code = struct.unpack("!ii", await reader.readexactly(8))
        if code != SSL_REQUEST:
            await reader.readexactly(length - 8)
            return
        writer.write(b"N")


@asynccontextmanager
async def fake_server(behaviour: Behaviour) -> AsyncIterator[FakeServer]:
    """A server that behaves so until the end of the block."""
    server = FakeServer(behaviour)
    await server.open()
    try:
        yield server
    finally:
        await server.close()


async def never_answer(client: Client) -> None:
    """Say nothing, whatever comes."""
    while True:
        await client.read(1)


async def ask_for_endless_scram(client: Client) -> None:
    """Take the client's SCRAM login, and have it compute for minutes."""
    await client.send(_message(b"R", struct.pack("!i", SASL) + b"SCRAM-SHA-256\0\0"))
    _, length = struct.unpack("!ci", await client.read(5))
    nonce = (await client.read(length - 4)).rpartition(b"r=")[2]
    first = b"r=" + nonce + b"ours,s=" + base64.b64encode(bytes(16)) + b",i=100000000"
    await client.send(_message(b"R", struct.pack("!i", SASL_CONTINUE) + first))
    await never_answer(client)


async def ask_for_cleartext(client: Client) -> None:
    """Ask for the password as it is."""
    await client.send(CLEARTEXT_PASSWORD)
    await never_answer(client)


async def refuse(client: Client) -> None:
    """Have no connection left."""
    said = {b"S": b"FATAL", b"V": b"FATAL", b"C": b"53300", b"M": b"sorry, too many clients already"}
    fields = b"".join(kind + text + b"\0" for kind, text in said.items()) + b"\0"
    await client.send(b"E" + struct.pack("!i", len(fields) + 4) + fields)


async def have_no_rows(client: Client) -> None:
    """Let everybody in, and have a column but no row for every question."""
    version = b"server_version\x0018.1\0"
    await client.send(AUTHENTICATED + b"S" + struct.pack("!i", len(version) + 4) + version + READY)
    column = b"nothing\0" + struct.pack("!ihihih", 0, 0, 25, -1, -1, 0)
    no_rows = b"T" + struct.pack("!ih", len(column) + 6, 1) + column + COMPLETE
    while True:
        _, length = struct.unpack("!ci", await client.read(5))
        text = await client.read(length - 4)
        await client.send((COMPLETE if text.startswith(b"BEGIN") else no_rows) + READY)
