"""A superuser for tests, who cleans up after itself."""

import secrets

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

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

    async def close(self) -> None:
        """End every session and drop every database that was made here."""
        session = await self.connect()
        for name in self._databases:
            await session.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )
        for connection in self._connections:
            await connection.close()
