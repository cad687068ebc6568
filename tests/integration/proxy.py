"""Stands between a client and a server, to be slow, silent or gone when a test says so."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

PIECE_BYTES = 1 << 16


class Proxy:
    """Passes bytes between whoever connects to `port` and a server on this machine."""

    def __init__(
        self, target_port: int, before_sending: Callable[[bytes], Awaitable[None]] | None = None
    ) -> None:
        self.port = 0
        self.delay_seconds = 0.0
        """How long every piece is held back, in either direction."""
        self.silent = False
        """Whether what arrives is dropped, in either direction."""
        self.accepted = 0
        """How many connections have been taken so far."""
        self._target_port = target_port
        self._before_sending = before_sending
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Take connections, at the same port as before if there was one."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Take no connections any more and break those that there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break all connections."""
        for writer in list(self._writers):
            writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                await self._connect(reader, writer)
        finally:
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        ends = {writer, onward_writer}
        self._writers |= ends
        try:
            await asyncio.gather(
                self._pass_on(reader, onward_writer, self._before_sending),
                self._pass_on(onward_reader, writer, None),
            )
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        before_sending: Callable[[bytes], Awaitable[None]] | None,
    ) -> None:
        while piece := await reader.read(PIECE_BYTES):
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            if before_sending is not None:
                await before_sending(piece)
            if self.silent:
                continue
            writer.write(piece)
            await writer.drain()
        writer.transport.abort()
