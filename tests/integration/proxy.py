"""Stands between a client and a server, to be slow, silent or gone when a test says so."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from integration.operator_process import free_port

PIECE_BYTES = 1 << 16

T = TypeVar("T")

Hook = Callable[[bytes], Awaitable[None]]
"""Sees a piece before it is passed on; an `OSError` that it raises breaks the connection."""


class Proxy:
    """Passes bytes between whoever connects to `port` and a server on this machine."""

    def __init__(self, target_port: int, before_sending: Hook | None = None) -> None:
        self.port = 0
        self.delay_seconds = 0.0
        """How long every piece is held back, in either direction."""
        self.silent = False
        """Whether what arrives is dropped, in either direction."""
        self.refusing = False
        """Whether connections are closed as soon as they are taken."""
        self.accepted = 0
        """How many connections have been taken so far."""
        self._target_port = target_port
        self._before_sending = before_sending
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Take connections, at the same port as before if there was one."""
        self.port = self.port or free_port()  # which nobody else gets while it is closed
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

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

    @property
    def in_use(self) -> bool:
        """Whether anybody is connected."""
        return bool(self._tasks)

    def hooks(self) -> tuple[Hook | None, Hook | None]:
        """What sees the pieces of one connection: those on the way to the server, and those on the way back."""
        return self._before_sending, None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.refusing:
            writer.close()
            return
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
        before_sending, before_answering = self.hooks()
        self._writers |= ends
        try:
            await asyncio.gather(
                self._pass_on(reader, onward_writer, before_sending),
                self._pass_on(onward_reader, writer, before_answering),
            )
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        before: Hook | None,
    ) -> None:
        while piece := await reader.read(PIECE_BYTES):
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            if before is not None:
                await before(piece)
            if self.silent:
                continue
            writer.write(piece)
            await writer.drain()
        writer.transport.abort()


class CommitProxy(Proxy, Generic[T]):
    """Tells of every COMMIT of a transaction that may write.

    Parameters
    ----------
    target_port
        The server's.
    before
        Called when a COMMIT is about to be sent. Raises `OSError` to have the connection break instead.
    after
        Called in the same way with what `before` returned, when the server has answered.
    """

    def __init__(self, target_port: int, before: Callable[[], T], after: Callable[[T], None]) -> None:
        super().__init__(target_port)
        self._before = before
        self._after = after

    def hooks(self) -> tuple[Hook, Hook]:
        """See what the session of one connection is about."""
        writes = False
        under_way: list[T] = []

        async def before_sending(piece: bytes) -> None:
            nonlocal writes
            ends = b"COMMIT\0" in piece or b"ROLLBACK\0" in piece
            if writes and b"COMMIT\0" in piece:
                under_way.append(self._before())
            writes = b"READ WRITE" in piece or (writes and not ends)

        async def before_answering(_: bytes) -> None:
            if under_way:
                self._after(under_way.pop())

        return before_sending, before_answering
