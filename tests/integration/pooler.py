"""Poolers, which give every transaction whichever session of the server is free: PgBouncer, and one of our own."""

import asyncio
import contextlib
import os
import shutil
import struct
from collections import defaultdict, deque
from collections.abc import Container
from pathlib import Path

from integration.operator_process import free_port
from integration.tenant import eventually
from local.postgresql import Server

SSL_REQUEST = 80877103
AUTHENTICATION_ENDS = (0, 12)
"""Kinds of authentication message that the client does not answer: it is in, or sees the server's signature."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class PgBouncer:
    """A PgBouncer before a server; it knows its users' passwords by asking the server, or only those of its file."""

    PROGRAM = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")

    def __init__(
        self, server: Server, directory: Path, *, users: dict[str, str], mode: str, knows_all: bool
    ) -> None:
        self.port = free_port()
        self._log = directory / f"pgbouncer-{self.port}.log"
        self._configuration = directory / f"pgbouncer-{self.port}.ini"
        passwords = directory / f"pgbouncer-{self.port}.users"
        passwords.write_text("".join(f'"{name}" "{password}"\n' for name, password in users.items()))
        query = f"auth_user = {server.user}\n" if knows_all else ""
        self._configuration.write_text(
            f"[databases]\n* = host={server.host} port={server.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {passwords}\n{query}"
            f"pool_mode = {mode}\ndefault_pool_size = 4\nserver_login_retry = 1\n"
        )
        for path in (self._configuration, passwords):
            path.chmod(0o644)  # for nobody, in a directory of the tests' own
        self._process: asyncio.subprocess.Process | None = None

    async def open(self) -> None:
        """Start it, as nobody in place of root, and wait until it takes connections."""
        assert self.PROGRAM is not None
        as_nobody = ["-u", "nobody"] if os.geteuid() == 0 else []
        with self._log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                self.PROGRAM, *as_nobody, str(self._configuration), stdout=output, stderr=output
            )

        async def listens() -> bool:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return True
            return False

        await eventually(listens, what="PgBouncer takes connections")

    async def close(self) -> None:
        """End it, and print what it said, which pytest shows for a test that failed."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
        print(self._log.read_text())


class TransactionPooler:
    """Every client logs in by a session of its own, which is then for whoever begins a transaction as the same role.

    Whose turn it is gets the session that has been free for longest, so that nobody keeps the one of before. Users that
    are not in its list have a wrong password to it.
    """

    def __init__(self, target_port: int, users: Container[str] | None = None) -> None:
        self.port = 0
        self._users = users
        self._target_port = target_port
        self._free: dict[tuple[bytes, bytes], deque[Streams]] = defaultdict(deque)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self) -> None:
        """Take connections."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Break all connections."""
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session: Streams | None = None
        try:
            if (free := await self._log_in(reader, writer)) is None:
                return
            while (message := await _read(reader))[:1] != b"X":
                session = session or free.popleft()
                session[1].write(message)
                if message[:1] in b"QS":
                    status = await _relay(session[0], writer, until=b"Z")
                    if status[-1:] == b"I":
                        free.append(session)
                        session = None
            free.popleft()[1].transport.abort()
        except (OSError, asyncio.IncompleteReadError):
            pass  # one of the ends is gone, and so is what it was in the middle of
        finally:
            if session is not None:
                session[1].transport.abort()
            writer.transport.abort()

    async def _log_in(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> deque[Streams] | None:
        """The free sessions among which there is one more now; None where the client was turned away."""
        while struct.unpack("!I", (startup := await _read(reader, tag=b""))[4:8])[0] == SSL_REQUEST:
            writer.write(b"N")
        words = startup[8:].split(b"\0")
        parameters = dict(zip(words[::2], words[1::2], strict=False))
        refusal = None
        if b"options" in parameters:
            refusal = b"C08P01\0Munsupported startup parameter: options"
        elif self._users is not None and parameters[b"user"].decode() not in self._users:
            refusal = b"C08P01\0MSASL authentication failed"
        if refusal is not None:
            fields = b"SFATAL\0" + refusal + b"\0\0"
            writer.write(b"E" + struct.pack("!I", 4 + len(fields)) + fields)
            await writer.drain()
            return None
        session = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._writers.append(session[1])
        session[1].write(startup)
        while (message := await _relay(session[0], writer, until=b"RZE"))[:1] == b"R":
            if struct.unpack("!I", message[5:9])[0] not in AUTHENTICATION_ENDS:
                session[1].write(await _read(reader))
        if message[:1] == b"E":
            session[1].transport.abort()
            await writer.drain()
            return None
        free = self._free[parameters[b"user"], parameters[b"database"]]
        free.append(session)
        return free


async def _read(reader: asyncio.StreamReader, tag: bytes | None = None) -> bytes:
    """One message, with its length, and its tag unless it is one of those that have none."""
    if tag is None:
        tag = await reader.readexactly(1)
    length = await reader.readexactly(4)
    return tag + length + await reader.readexactly(struct.unpack("!I", length)[0] - 4)


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, until: bytes) -> bytes:
    """Pass messages on up to one with a tag of `until`, and return that."""
    while True:
        message = await _read(reader)
        writer.write(message)
        if message[:1] in until:
            return message
