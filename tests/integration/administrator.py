"""A superuser for tests, who cleans up after itself."""

import contextlib
import secrets

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from integration.tenant import eventually
from local.postgresql import Server


class Administrator:
    """Opens superuser sessions and makes databases on one server, until `close` ends and drops them."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._connections: list[psycopg.AsyncConnection[TupleRow]] = []
        self._databases: list[str] = []

    async def connect(self, database: str = "postgres") -> psycopg.AsyncConnection[TupleRow]:
        """Return a new autocommit session in a database."""
        connection = await psycopg.AsyncConnection.connect(
            host=self.server.host,
            port=self.server.port,
            user=self.server.user,
            password=self.server.password,
            dbname=database,
            autocommit=True,
        )
        self._connections.append(connection)
        return connection

    async def create_database(self, name: str | None = None) -> str:
        """Make an empty database, by a random name unless one is given, and return its name."""
        name = name or f"test_{secrets.token_hex(6)}"
        session = await self.connect()
        await session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        self._databases.append(name)
        return name

    async def drop_database(self, name: str) -> None:
        """Drop a database, whoever is at work in it, or on what the server as a whole knows of it, at that moment."""
        session = await self.connect()
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))

        async def dropped() -> bool:
            with contextlib.suppress(psycopg.errors.ObjectInUse, psycopg.errors.InternalError_):
                await session.execute(drop)
                return True
            return False

        await eventually(dropped, what=f"database {name} is dropped")

    async def close(self) -> None:
        """End every session and drop every database that was made here."""
        for name in self._databases:
            await self.drop_database(name)
        for connection in self._connections:
            await connection.close()
