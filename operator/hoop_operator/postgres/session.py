"""Sessions on one server as one resource's admin, out of reach of whoever owns a database there.

A database's owner can attach settings to it (`ALTER DATABASE … SET role`, `search_path`) and plant functions and
operators in its schemas. So every transaction says itself who it is, where names are looked up, how long it waits and
whether it writes; and libpq is told everything, so that it consults neither environment nor files.

There may be a pooler on the way that gives every transaction another of its sessions, and that session to others
afterwards. So nothing is set for longer than a transaction, and nothing is expected to last from one to the next.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import TupleRow, dict_row
from psycopg.types.json import set_json_loads

from hoop_operator.credentials.connection import Connection
from hoop_operator.errors import (
    AuthenticationFailed,
    DatabaseUnavailable,
    NoLongerLeading,
    ServerUnreachable,
    StatementFailed,
)
from hoop_operator.metrics import SQL_TRANSACTIONS
from hoop_operator.postgres.addresses import no_answer, not_resolved, resolve
from hoop_operator.postgres.establish import establish, try_login
from hoop_operator.postgres.libpq import libpq_parameters
from hoop_operator.postgres.server_errors import (
    CONFIGURATION_LIMIT_EXCEEDED,
    LOCK_NOT_AVAILABLE,
    OPTIONS_REFUSED,
    OTHER_PASSWORD,
    TOO_MANY_SESSIONS,
    connection_error,
    translate_errors,
)
from hoop_operator.postgres.tls_files import tls_files

T = TypeVar("T")

LOGIN_START_SECONDS = 5
"""How much longer a login may take than a connection: a process has to start first."""

IDLE_SECONDS = 20.0
"""How long a session is kept for the next transaction."""

TEXT_TYPES = ("text", "name", "varchar", "bpchar")

TEMPLATES = frozenset({"template0", "template1"})

STARTUP_OPTIONS = "-c idle_session_timeout=0"
"""What has to hold between transactions as well; an owner's setting could be shorter than the way to the first one.

A pooler that refuses them has to keep sessions alive by itself.
"""

SELF_GRANT_SINCE = 160000
TRANSACTION_TIMEOUT_SINCE = 170000

SCRAM_ITERATIONS_MAX = 100_000
"""Of a verifier, for which libpq takes the server at its word from version 16 on: a fraction of a second."""

IDLE_IN_TRANSACTION_SECONDS = 30.0
"""How long a transaction that writes may wait for us: as long as a request to the Kubernetes API may take. It holds
locks that others wait for, and who is silent for longer may be frozen and never come back."""

LOCK_SECONDS_MIN = 0.1
"""The shortest time for which locks are waited for."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many sessions a turn may have, and how long each step may take, in seconds."""

    sessions: int
    connect_seconds: int
    lock_seconds: float
    statement_seconds: float


class Transaction:
    """One open transaction; every error of it is a `ServerError`."""

    def __init__(self, connection: psycopg.AsyncConnection[TupleRow], seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds

    async def execute(self, text: str) -> None:
        """Send SQL without parameters, one statement or several with semicolons between.

        Raises
        ------
        StatementFailed
            The server refused it; the message is the server's, the text is not repeated.
        ServerUnreachable
            The connection broke or the server cannot write now.
        """
        with translate_errors():
            async with asyncio.timeout(self._seconds):
                await self._connection.execute(text.encode())

    def make_verifier(self, user: str, password: str) -> str:
        """The SCRAM-SHA-256 verifier of any password, normalised as the server would (`PQencryptPasswordConn`).

        Raises
        ------
        StatementFailed
            The server wants more iterations than can be made without keeping everything else waiting.
        """
        with translate_errors():
            pgconn = self._connection.pgconn
            iterations = int(pgconn.parameter_status(b"scram_iterations") or 0)
            if iterations > SCRAM_ITERATIONS_MAX:
                raise StatementFailed(
                    f"the server wants {iterations} iterations for a password's verifier, and the operator makes no "
                    f"more than {SCRAM_ITERATIONS_MAX}; lower scram_iterations",
                    sqlstate=CONFIGURATION_LIMIT_EXCEEDED,
                )
            return pgconn.encrypt_password(password.encode(), user.encode(), b"scram-sha-256").decode()

    async def fetch(self, query: sql.SQL | sql.Composed, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        """The rows of a query, each as a dictionary.

        Raises
        ------
        StatementFailed, ServerUnreachable
            As `execute`.
        """
        with translate_errors():
            async with (
                asyncio.timeout(self._seconds),
                self._connection.cursor(row_factory=dict_row) as cursor,
            ):
                await cursor.execute(query, parameters)
                return await cursor.fetchall()


class Sessions:
    """The sessions of one resource during one turn: at most `limits.sessions`, all closed in the end.

    One of them is kept for transactions beside open ones, so that no transaction waits for a session that only its own
    end would free. With a limit of one that is a second session, opened for as long as it is needed.

    Only those in the admin's own database are kept between transactions, and not for long: elsewhere an idle session
    would stand in the way of DROP DATABASE, and in a template in the way of CREATE DATABASE.
    """

    def __init__(
        self,
        connection: Connection,
        limits: Limits,
        address_allowed: Callable[[str], bool],
        leading: Callable[[], bool] = lambda: True,
    ) -> None:
        self._admin = connection
        self._leading = leading
        self._limits = limits
        self._address_allowed = address_allowed
        self._idle: list[psycopg.AsyncConnection[TupleRow]] = []
        self._expiries: dict[psycopg.AsyncConnection[TupleRow], asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._options = STARTUP_OPTIONS
        self._lock_seconds = limits.lock_seconds
        self._slots = asyncio.Semaphore(max(1, limits.sessions - 1))
        self._slot_beside = asyncio.Semaphore(1)
        self._open = 0
        # The server keeps the statement timeout itself; who keeps silent for longer than that is not there any more.
        self._answer_seconds = limits.statement_seconds + limits.connect_seconds

    @contextlib.asynccontextmanager
    async def transaction(
        self, database: str | None = None, *, write: bool = False, beside: bool = False
    ) -> AsyncIterator[Transaction]:
        """Run a transaction in a database, by default the admin's own; it commits unless the body raises.

        With `beside` the caller has another transaction open.

        A transaction that does not write sees one snapshot throughout. Locks are waited for half as long after every
        one that was not to be had: many transactions that need the same one do not wait for it one after another.

        Raises
        ------
        ServerUnreachable, AuthenticationFailed
            No session could be had, or it broke.
        StatementFailed
            The server refused a statement or the commit.
        NoLongerLeading
            Nothing may be written any more.
        """
        name = database if database is not None else self._admin.database
        mode = "write" if write else "read"
        async with self._slot_beside if beside else self._slots:
            connection = await self._session(name)
            try:
                transaction = Transaction(connection, self._answer_seconds)
                await transaction.execute(self._preamble(connection.info.server_version, write=write))
                yield transaction
                if write:
                    self._insist_on_leading()
                await transaction.execute("COMMIT")
            except BaseException as failure:
                SQL_TRANSACTIONS.labels(mode, "rolled_back").inc()
                if isinstance(failure, StatementFailed) and failure.sqlstate == LOCK_NOT_AVAILABLE:
                    self._lock_seconds = min(
                        self._lock_seconds, max(self._lock_seconds / 2, LOCK_SECONDS_MIN)
                    )
                await self._roll_back(name, connection)
                raise
            SQL_TRANSACTIONS.labels(mode, "committed").inc()
            await self._give_back(name, connection)

    async def can_log_in(self, user: str, password: str, database: str) -> bool | None:
        """Whether a password is a role's, tried by a login; None where the server's answer tells neither way.

        Whom the server turns away only from that database, or for having too many sessions, it has recognised before.

        Raises
        ------
        ServerUnreachable
            The server did not answer.
        """
        async with self._slots:
            await self._make_room()
            who = replace(
                self._admin,
                user=user,
                password=password,
                database=database,
                client_certificate=None,
                client_key=None,
            )
            self._open += 1
            try:
                await self._reach(self._seconds(who) + LOGIN_START_SECONDS, who, database, try_login)
            except AuthenticationFailed as refusal:
                return False if any(known in str(refusal) for known in OTHER_PASSWORD) else None
            except DatabaseUnavailable:
                return True
            except ServerUnreachable as refusal:
                if TOO_MANY_SESSIONS in str(refusal):
                    return True
                raise
            finally:
                self._open -= 1
            return True

    async def close(self) -> None:
        """Close every session."""
        while self._idle:
            await self._close(self._idle.pop())
        await asyncio.gather(*self._closing)

    def _insist_on_leading(self) -> None:
        if not self._leading():
            raise NoLongerLeading("another operator may be leading by now; nothing was changed")

    async def _session(self, database: str) -> psycopg.AsyncConnection[TupleRow]:
        if self._idle and database == self._admin.database:
            connection = self._idle.pop()
            self._expiries.pop(connection).cancel()
            return connection
        await self._make_room()
        try:
            return await self._connect(self._admin, database)
        except (ServerUnreachable, AuthenticationFailed) as refusal:
            if database == self._admin.database:
                raise
            # A database's owner has many ways to keep everybody out of it, and must not speak for the whole server.
            await self._close(await self._connect(self._admin))
            raise DatabaseUnavailable(str(refusal)) from None

    async def _make_room(self) -> None:
        """Close idle sessions if no further one may be opened: who holds a slot is entitled to a session."""
        while self._open >= self._limits.sessions and self._idle:
            await self._close(self._idle.pop(0))

    async def _give_back(self, database: str, connection: psycopg.AsyncConnection[TupleRow]) -> None:
        if database != self._admin.database or database in TEMPLATES:
            await self._close(connection)
            return
        self._idle.append(connection)
        loop = asyncio.get_running_loop()
        self._expiries[connection] = loop.call_later(IDLE_SECONDS, self._expire, connection)

    def _expire(self, connection: psycopg.AsyncConnection[TupleRow]) -> None:
        """Close a session that nobody has used for a while."""
        self._idle.remove(connection)
        task = asyncio.create_task(self._close(connection))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, connection: psycopg.AsyncConnection[TupleRow]) -> None:
        if (expiry := self._expiries.pop(connection, None)) is not None:
            expiry.cancel()
        self._open -= 1
        await connection.close()

    async def _roll_back(self, database: str, connection: psycopg.AsyncConnection[TupleRow]) -> None:
        try:
            await asyncio.wait_for(connection.execute(b"ROLLBACK"), timeout=self._limits.connect_seconds)
        except (psycopg.Error, OSError, TimeoutError, asyncio.CancelledError):
            await self._close(connection)
        else:
            await self._give_back(database, connection)

    def _preamble(self, version: int, *, write: bool) -> str:
        """Open a transaction that owes nothing to the settings of the database it runs in."""
        mode = "READ COMMITTED, READ WRITE" if write else "REPEATABLE READ, READ ONLY"
        lock, statement, idle = (
            int(seconds * 1000)
            for seconds in (
                self._lock_seconds,
                self._limits.statement_seconds,
                IDLE_IN_TRANSACTION_SECONDS if write else 0,
            )
        )
        return "; ".join(
            [
                f"BEGIN ISOLATION LEVEL {mode}, NOT DEFERRABLE",
                # Those that end statements and sessions come first: they may be as short as a millisecond.
                *(["SET LOCAL transaction_timeout = 0"] if version >= TRANSACTION_TIMEOUT_SINCE else []),
                f"SET LOCAL statement_timeout = {statement}",
                f"SET LOCAL idle_in_transaction_session_timeout = {idle}",
                f"SET LOCAL lock_timeout = {lock}",
                "SET LOCAL ROLE NONE",
                "SET LOCAL quote_all_identifiers = off",
                "SET LOCAL search_path = pg_catalog, pg_temp",
                "SET LOCAL standard_conforming_strings = on",
                "SET LOCAL transform_null_equals = off",
                "SET LOCAL jit = off",
                *(["SET LOCAL createrole_self_grant = ''"] if version >= SELF_GRANT_SINCE else []),
            ]
        )

    async def _connect(
        self, who: Connection, database: str | None = None
    ) -> psycopg.AsyncConnection[TupleRow]:
        self._open += 1
        try:
            return await self._reach(self._seconds(who), who, database or who.database, self._open_session)
        except BaseException:
            self._open -= 1
            raise

    def _seconds(self, who: Connection) -> int:
        return min(who.connect_timeout or self._limits.connect_seconds, self._limits.connect_seconds)

    async def _reach(
        self, seconds: int, who: Connection, database: str, enter: Callable[[dict[str, Any]], Awaitable[T]]
    ) -> T:
        """Enter a database with libpq's parameters, within some seconds."""
        addresses: list[str] = []
        try:
            async with asyncio.timeout(seconds):
                addresses = await resolve(who.host, who.port, self._address_allowed)
                with tls_files(who) as paths:
                    parameters = libpq_parameters(who, database, addresses, paths, seconds)
                    try:
                        return await enter(parameters)
                    except psycopg.Error as error:
                        raise connection_error(error, who, paths) from None
        except TimeoutError as error:
            silent = no_answer(who.host, who.port, seconds) if addresses else not_resolved(who.host, seconds)
            raise silent from error

    async def _open_session(self, parameters: Mapping[str, Any]) -> psycopg.AsyncConnection[TupleRow]:
        try:
            connection = await establish({**parameters, "options": self._options})
        except psycopg.Error as error:
            if not self._options or not OPTIONS_REFUSED.search(str(error)):
                raise
            self._options = ""
            connection = await establish({**parameters, "options": self._options})
        await connection.set_autocommit(True)
        connection.prepare_threshold = None
        set_json_loads(_load_json, connection)
        for text_type in TEXT_TYPES:
            connection.adapters.register_loader(text_type, _TextLoader)
        return connection


@contextlib.asynccontextmanager
async def open_sessions(
    connection: Connection,
    limits: Limits,
    address_allowed: Callable[[str], bool],
    leading: Callable[[], bool] = lambda: True,
) -> AsyncIterator[Sessions]:
    """Sessions for one resource; all are closed at the end, whatever happens.

    What writes is committed only while we are `leading`.
    """
    sessions = Sessions(connection, limits, address_allowed, leading)
    try:
        yield sessions
    finally:
        await sessions.close()


class _TextLoader(Loader):
    """Reads text that may not be in UTF-8: a database of another encoding can put such into shared catalogs.

    It becomes a name that nothing has, so that it concerns only who needs it.
    """

    def load(self, data: Buffer) -> str:
        return bytes(data).decode(errors="replace")


def _load_json(value: str | bytes) -> Any:
    """Read JSON in which names are not all in UTF-8, as `_TextLoader` does."""
    return json.loads(value.decode(errors="replace") if isinstance(value, bytes) else value)
