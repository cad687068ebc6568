"""Sessions of the admin: out of reach of a database's owner, bounded, and gone when they are not used."""

import asyncio
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow

from hoop_operator.credentials.connection import Connection, SslMode
from hoop_operator.credentials.hosts import is_link_local
from hoop_operator.errors import (
    AuthenticationFailed,
    DatabaseUnavailable,
    ServerUnreachable,
    StatementFailed,
)
from hoop_operator.postgres.addresses import knock
from hoop_operator.postgres.establish import establish
from hoop_operator.postgres.session import IDLE_SECONDS, Limits, Sessions, Transaction, open_sessions
from integration.administrator import Administrator
from integration.proxy import Proxy
from integration.registrant import CONFIDENTIAL, Registrant
from integration.tenant import PATIENCE_SECONDS, eventually
from local.postgresql import Server

LIMITS = Limits(sessions=2, connect_seconds=10, lock_seconds=0.2, statement_seconds=10)
PASSWORD = f"{CONFIDENTIAL}-Zr4"

Session = psycopg.AsyncConnection[TupleRow]


def connection_to(server: Server, **changes: Any) -> Connection:
    values: dict[str, Any] = {
        "host": server.host,
        "port": server.port,
        "user": server.user,
        "password": server.password,
        "database": server.database,
        "sslmode": SslMode.PREFER,
        "ca_certificate": None,
        "client_certificate": None,
        "client_key": None,
        "connect_timeout": None,
    }
    return Connection(**values | changes)


def anywhere(address: str) -> bool:
    return not is_link_local(address)


@pytest.fixture
async def sessions(postgres: Server) -> AsyncIterator[Sessions]:
    async with open_sessions(connection_to(postgres), LIMITS, anywhere) as opened:
        yield opened


async def ask(transaction: Transaction, question: LiteralString) -> Any:
    """The one value that a query gives."""
    (row,) = await transaction.fetch(sql.SQL(question), {})
    (value,) = row.values()
    return value


async def count(session: Session, database: str) -> int:
    """How many sessions of operators there are in a database."""
    rows = await session.execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = 'hoop-operator' AND datname = %(name)s",
        {"name": database},
    )
    found = await rows.fetchone()
    assert found is not None
    return int(found[0])


# A database's owner.

SHADOWED_OPERATORS = (
    ("=", "name", "name", "boolean"),
    ("=", "oid", "oid", "boolean"),
    ("<>", "oid", "oid", "boolean"),
    ("=", "text", "text", "boolean"),
    ("=", '"char"', '"char"', "boolean"),
    ("=", "integer", "integer", "boolean"),
    ("||", "text", "text", "text"),
)
SHADOWED_FUNCTIONS = (
    ("current_database", "", "name"),
    ("current_setting", "text", "text"),
    ("has_table_privilege", "text, text", "boolean"),
    ("pg_is_in_recovery", "", "boolean"),
    ("pg_get_userbyid", "oid", "name"),
    ("unnest", "anyarray", "SETOF anyelement"),
    ("json_build_array", "VARIADIC anyarray", "json"),
    ("array_agg", "anyelement", "anyarray"),
    ("coalesce", "text, text", "text"),
    ("split_part", "text, text, integer", "text"),
    ("set_config", "text, text, boolean", "text"),
)
SETTINGS = {
    "search_path": "public, pg_catalog",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "statement_timeout": "20ms",
    "lock_timeout": "20ms",
    "idle_in_transaction_session_timeout": "1ms",
    "idle_session_timeout": "1ms",
    "standard_conforming_strings": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "check_function_bodies": "on",
    "array_nulls": "off",
    "client_encoding": "LATIN1",
    "datestyle": "German",
    "row_security": "off",
}
SETTINGS_SINCE = {160000: {"createrole_self_grant": "set, inherit"}, 170000: {"transaction_timeout": "20ms"}}


@pytest.fixture
async def trapped(admin: Administrator) -> AsyncIterator[tuple[str, str]]:
    """A database with everything in it that its owner can plant, and that owner."""
    session = await admin.connect()
    owner = f"owner_{secrets.token_hex(4)}"
    database = await admin.create_database()
    names = {"owner": sql.Identifier(owner), "database": sql.Identifier(database)}
    await session.execute(sql.SQL("CREATE ROLE {owner}").format(**names))
    await session.execute(sql.SQL("ALTER DATABASE {database} OWNER TO {owner}").format(**names))
    plant = await admin.connect(database)
    await plant.execute(sql.SQL("SET ROLE {owner}").format(**names))
    await plant.execute("CREATE TABLE public.trodden (what text); GRANT ALL ON public.trodden TO PUBLIC")
    for name, arguments, result in SHADOWED_FUNCTIONS:
        await plant.execute(_trap(f'"{name}"({arguments})', result, name))
    for index, (operator, left, right, result) in enumerate(SHADOWED_OPERATORS):
        name = f"operator_{index}"
        await plant.execute(_trap(f"{name}({left}, {right})", result, operator))
        definition = f"LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = public.{name}"
        await plant.execute(f"CREATE OPERATOR public.{operator} ({definition})".encode())
    await plant.execute(
        "CREATE TYPE public.kind AS ENUM ('a');"
        " CREATE FUNCTION public.as_kind(text) RETURNS public.kind LANGUAGE plpgsql"
        "  AS $$BEGIN RAISE 'trapped in a cast'; END$$;"
        " CREATE CAST (text AS public.kind) WITH FUNCTION public.as_kind(text) AS IMPLICIT;"
        " CREATE TABLE public.orders (id int)"
    )
    settings = dict(SETTINGS)
    for version, more in SETTINGS_SINCE.items():
        settings |= more if plant.info.server_version >= version else {}
    for setting, value in settings.items():
        texts = value.split(", ") if setting == "search_path" else [value]
        await plant.execute(
            sql.SQL("ALTER DATABASE {database} SET {setting} = {value}").format(
                **names, setting=sql.Identifier(setting), value=sql.SQL(", ").join(map(sql.Literal, texts))
            )
        )
    await plant.execute(sql.SQL("ALTER DATABASE {database} SET role = {owner}").format(**names))
    yield database, owner
    await session.execute(sql.SQL("DROP DATABASE {database} WITH (FORCE)").format(**names))
    await session.execute(sql.SQL("DROP ROLE {owner}").format(**names))


def _trap(signature: str, result: str, name: str) -> bytes:
    """SQL of a function that leaves a trace, or raises where it cannot."""
    body = f"INSERT INTO public.trodden VALUES ('{name}'); RAISE 'trapped in {name}';"  # noqa: S608 -- planted
    return f"CREATE FUNCTION public.{signature} RETURNS {result} LANGUAGE plpgsql AS $$BEGIN {body} END$$".encode()


async def enter(server: Server, database: str) -> Session:
    """Open a session with the settings of the database, save those that would end it."""
    endless = [name for name in (*SETTINGS, "transaction_timeout") if name.endswith("_timeout")]
    if int(server.version) < 17:
        endless.remove("transaction_timeout")
    return await psycopg.AsyncConnection.connect(
        host=server.host,
        port=server.port,
        user=server.user,
        password=server.password,
        dbname=database,
        autocommit=True,
        options=" ".join(f"-c {name}=0" for name in endless),
    )


async def test_the_trap_springs_for_whoever_walks_in_with_the_owners_settings(
    postgres: Server, trapped: tuple[str, str]
) -> None:
    database, owner = trapped
    async with await enter(postgres, database) as session:
        found = await (await session.execute("SELECT current_user::text")).fetchone()
        assert found == (owner,)
        with pytest.raises(psycopg.Error, match=r"trapped|read-only"):
            await session.execute("SELECT FROM pg_class WHERE relname = 'pg_class'::name")


async def test_a_plan_is_carried_out_and_removed_in_a_database_whose_owner_has_set_traps(
    registrant: Registrant, postgres: Server, admin: Administrator, trapped: tuple[str, str]
) -> None:
    database, _ = trapped
    name = await registrant.resource(postgres, user=postgres.user, password=postgres.password)
    every = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "CREATE", "EXECUTE"]
    label = f"trap{secrets.token_hex(3)}"
    await registrant.plan("all", name, role=label, scopes=[database], privileges=every)
    plan = (await registrant.until_plans(["all"]))["all"]
    role = plan["status"]["role"]
    session = await admin.connect()
    member = await session.execute("SELECT 1 FROM pg_auth_members WHERE roleid = %s::regrole", (role,))
    assert await member.fetchall() == []
    await registrant.change("all", privileges=["SELECT"])
    await registrant.until_plan(
        "all", lambda body: body["status"]["observedGeneration"] == 2, "the change is applied"
    )
    await registrant.until_plans(["all"])
    await registrant.delete("all")
    await registrant.until_gone("all")
    async with await enter(postgres, database) as session:
        trace = await session.execute("SELECT what FROM public.trodden")
        assert await trace.fetchall() == []


async def test_every_transaction_says_who_it_is_and_what_it_may_do(
    postgres: Server, trapped: tuple[str, str]
) -> None:
    database, _ = trapped
    limits = Limits(sessions=1, connect_seconds=10, lock_seconds=3, statement_seconds=4)
    expected = {
        "role": "none",
        "search_path": "pg_catalog, pg_temp",
        "lock_timeout": "3s",
        "statement_timeout": "4s",
        "idle_session_timeout": "0",
        "standard_conforming_strings": "on",
        "transform_null_equals": "off",
        "transaction_deferrable": "off",
        "client_encoding": "UTF8",
    }
    settings = sql.SQL("SELECT {}").format(
        sql.SQL(", ").join(
            sql.SQL("pg_catalog.current_setting({}) AS {}").format(name, sql.Identifier(name))
            for name in expected
        )
    )
    async with open_sessions(connection_to(postgres), limits, anywhere) as sessions:
        # More often than a driver waits before it would prepare what it sends.
        for write in (False, True) * 6:
            async with sessions.transaction(database, write=write) as transaction:
                (found,) = await transaction.fetch(settings, {})
                assert found == expected
                # Others wait for the locks of one that writes, and who is frozen must not keep them for ever.
                idle = "SELECT pg_catalog.current_setting('idle_in_transaction_session_timeout')"
                assert await ask(transaction, idle) == ("30s" if write else "0")
                await transaction.execute("SELECT pg_catalog.pg_sleep(0.04)")
                assert await ask(transaction, "SELECT session_user = current_user")
                read_only = await ask(
                    transaction, "SELECT pg_catalog.current_setting('transaction_read_only')"
                )
                isolation = await ask(
                    transaction, "SELECT pg_catalog.current_setting('transaction_isolation')"
                )
                assert (read_only, isolation) == (
                    ("off", "read committed") if write else ("on", "repeatable read")
                )


async def test_nothing_that_a_transaction_sets_outlives_it(postgres: Server) -> None:
    """A pooler gives the session to others next."""
    database = postgres.database
    async with open_sessions(connection_to(postgres), LIMITS, anywhere) as sessions:
        for write in (False, True):
            async with sessions.transaction(database, write=write):
                pass
            (session,) = sessions._idle
            rows = await session.execute("SELECT name, setting FROM pg_settings WHERE source = 'session'")
            assert await rows.fetchall() == []


async def test_a_session_outlives_the_idle_timeout_that_an_owner_has_set(
    postgres: Server, admin: Administrator, trapped: tuple[str, str]
) -> None:
    database, _ = trapped
    observer = await admin.connect()
    own = replace(connection_to(postgres), database=database)
    async with open_sessions(own, LIMITS, anywhere) as sessions:
        async with sessions.transaction() as transaction:
            pid = await ask(transaction, "SELECT pg_catalog.pg_backend_pid()")

        async def idle() -> bool:
            rows = await observer.execute(
                "SELECT clock_timestamp() - state_change > interval '0.6 s' FROM pg_stat_activity WHERE pid = %s",
                (pid,),
            )
            return bool(((await rows.fetchone()) or (True,))[0])

        await eventually(idle, what="twice the timeout has passed")
        async with sessions.transaction() as transaction:
            assert await ask(transaction, "SELECT pg_catalog.pg_backend_pid()") == pid


async def test_a_database_can_be_dropped_as_soon_as_a_transaction_in_it_has_ended(
    postgres: Server, admin: Administrator
) -> None:
    database = await admin.create_database()
    observer = await admin.connect()
    async with open_sessions(connection_to(postgres), LIMITS, anywhere) as sessions:
        async with sessions.transaction(database) as transaction:
            await transaction.execute("SELECT")

        async def unused() -> bool:
            return await count(observer, database) == 0

        await eventually(unused, seconds=0.9 * IDLE_SECONDS, what="the session in another database is closed")


async def test_a_transaction_that_does_not_write_cannot(sessions: Sessions) -> None:
    with pytest.raises(ServerUnreachable, match="read-only"):
        async with sessions.transaction() as transaction:
            await transaction.execute("CREATE ROLE nobody_at_all")


async def test_a_literal_is_taken_as_it_is_whatever_the_owner_says_of_backslashes(
    postgres: Server, trapped: tuple[str, str]
) -> None:
    database, _ = trapped
    async with (
        open_sessions(connection_to(postgres), LIMITS, anywhere) as sessions,
        sessions.transaction(database) as transaction,
    ):
        assert await ask(transaction, r"SELECT pg_catalog.length('\'::pg_catalog.text)") == 1


# Limits.


async def test_connections_stay_within_the_limit_and_are_gone_when_closed(
    postgres: Server, admin: Administrator
) -> None:
    observer = await admin.connect()
    own, *databases = [await admin.create_database() for _ in range(5)]
    seen: list[int] = []

    async def visit(sessions: Sessions, database: str) -> None:
        async with sessions.transaction(database) as transaction:
            await transaction.execute("SELECT pg_catalog.pg_sleep(0.05)")
            (row,) = await transaction.fetch(
                sql.SQL(
                    "SELECT pg_catalog.count(*) AS open FROM pg_catalog.pg_stat_activity"
                    " WHERE datname = ANY (%(names)s) AND backend_type = 'client backend'"
                ),
                {"names": databases},
            )
            seen.append(row["open"])

    async with open_sessions(connection_to(postgres, database=own), LIMITS, anywhere) as sessions:
        await asyncio.gather(*(visit(sessions, name) for name in databases * 3))
        assert len(seen) == 12
        assert max(seen) <= LIMITS.sessions

    async def gone() -> bool:
        return not [name for name in [own, *databases] if await count(observer, name)]

    await eventually(gone, what="all sessions are gone")


async def test_nothing_is_left_that_would_block_dropping_or_copying_a_database(
    registrant: Registrant, postgres: Server, admin: Administrator
) -> None:
    database = await admin.create_database()
    name = await registrant.resource(postgres, user=postgres.user, password=postgres.password)
    await registrant.plan(
        "ro", name, role=f"ro{secrets.token_hex(3)}", scopes=[database], privileges=["SELECT"]
    )
    await registrant.until_plans(["ro"])
    observer = await admin.connect()

    async def quiet() -> bool:
        return await count(observer, database) + await count(observer, "template1") == 0

    await eventually(quiet, what="no session is left idle")
    await observer.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(database)))
    copy = await admin.create_database()
    assert copy


async def test_a_lock_is_not_waited_for_longer_than_the_limit(
    sessions: Sessions, admin: Administrator
) -> None:
    table = f"locked_{secrets.token_hex(4)}"
    holder = await admin.connect()
    await holder.execute(f"CREATE TABLE public.{table} ()".encode())
    try:
        async with holder.transaction():
            await holder.execute(f"LOCK public.{table}".encode())
            with pytest.raises(StatementFailed, match="lock timeout") as raised:
                async with sessions.transaction(write=True) as transaction:
                    await transaction.execute(f"LOCK public.{table}")
            assert raised.value.sqlstate == "55P03"
    finally:
        await holder.execute(f"DROP TABLE public.{table}".encode())


# Trouble.


async def test_a_connection_killed_in_a_transaction_is_unreachable_and_the_next_one_works(
    sessions: Sessions, admin: Administrator
) -> None:
    killer = await admin.connect()
    killed = set()

    async def lose_connection() -> None:
        async with sessions.transaction(write=True) as transaction:
            killed.add(await ask(transaction, "SELECT pg_catalog.pg_backend_pid()"))
            await killer.execute("SELECT pg_terminate_backend(%s)", (*killed,))
            await transaction.execute("SELECT pg_catalog.pg_sleep(5)")

    with pytest.raises(ServerUnreachable):
        await lose_connection()
    for _ in range(2 * LIMITS.sessions):
        async with sessions.transaction() as transaction:
            assert await ask(transaction, "SELECT pg_catalog.pg_backend_pid()") not in killed


async def test_a_failed_transaction_leaves_nothing_behind_and_its_session_is_used_again(
    sessions: Sessions,
) -> None:
    async with sessions.transaction() as transaction:
        pid = await ask(transaction, "SELECT pg_catalog.pg_backend_pid()")
    with pytest.raises(StatementFailed):
        async with sessions.transaction(write=True) as transaction:
            await transaction.execute("CREATE TABLE pg_temp.half (); SELECT 1/0")
    async with sessions.transaction() as transaction:
        assert await ask(transaction, "SELECT pg_catalog.pg_backend_pid()") == pid
        assert await ask(transaction, "SELECT pg_catalog.to_regclass('pg_temp.half') IS NULL")


async def test_a_server_that_falls_silent_is_unreachable_after_the_limit(
    postgres: Server,
) -> None:
    proxy = Proxy(postgres.port)
    await proxy.open()
    try:
        limits = Limits(sessions=1, connect_seconds=5, lock_seconds=1, statement_seconds=5)
        async with open_sessions(connection_to(postgres, port=proxy.port), limits, anywhere) as sessions:
            async with sessions.transaction():
                pass
            proxy.silent = True
            with pytest.raises(ServerUnreachable, match="does not answer any more"):
                async with asyncio.timeout(PATIENCE_SECONDS), sessions.transaction():
                    pass
            proxy.silent = False
            async with sessions.transaction():
                pass
    finally:
        await proxy.close()


@pytest.mark.parametrize(
    ("changes", "failure", "saying"),
    [
        ({"password": PASSWORD}, AuthenticationFailed, "password authentication failed"),
        ({"user": "nobody-there"}, AuthenticationFailed, "password authentication failed"),
        ({"database": "nowhere"}, DatabaseUnavailable, 'database "nowhere" does not exist'),
        ({"port": 1}, ServerUnreachable, "127.0.0.1:1: .*refused"),
        ({"host": "db.nowhere.svc"}, ServerUnreachable, 'host "db.nowhere.svc"'),
    ],
)
async def test_what_kept_a_session_from_being_opened_is_told_without_the_password(
    postgres: Server, changes: dict[str, Any], failure: type[Exception], saying: str
) -> None:
    connection = connection_to(postgres, **changes)
    async with open_sessions(connection, LIMITS, anywhere) as sessions:
        with pytest.raises(failure, match=saying) as raised:
            async with sessions.transaction():
                pass
    assert connection.password
    assert connection.password not in str(raised.value)


@pytest.fixture
def resolving(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, list[str]], None]:
    """Makes a name resolve to addresses."""

    def resolve(name: str, addresses: list[str]) -> None:
        def look_up(host: str, port: int, **_: Any) -> list[Any]:
            assert host == name
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return resolve


async def test_a_name_that_resolves_to_a_link_local_address_is_refused(
    postgres: Server, resolving: Callable[[str, list[str]], None]
) -> None:
    resolving("metadata.example", ["169.254.169.254"])
    connection = connection_to(postgres, host="metadata.example")
    async with open_sessions(connection, LIMITS, anywhere) as sessions:
        with pytest.raises(ServerUnreachable, match=r"resolves to 169\.254\.169\.254.*link-local"):
            async with sessions.transaction():
                pass


async def test_one_silent_address_of_a_host_leaves_time_for_the_next(
    postgres: Server, resolving: Callable[[str, list[str]], None]
) -> None:
    silent = await asyncio.start_server(_never_answer, "127.0.0.9", postgres.port)
    resolving("db.example", ["127.0.0.9", "127.0.0.1"])
    limits = Limits(sessions=1, connect_seconds=5, lock_seconds=1, statement_seconds=1)
    connection = connection_to(postgres, host="db.example")
    try:
        async with (
            open_sessions(connection, limits, anywhere) as sessions,
            sessions.transaction() as transaction,
        ):
            assert await ask(transaction, "SELECT 1") == 1
    finally:
        silent.close()


async def test_what_the_addresses_of_a_host_say_is_told_in_one_way_whatever_their_order(
    postgres: Server, resolving: Callable[[str, list[str]], None]
) -> None:
    closing = await asyncio.start_server(_never_answer_and_close, "127.0.0.10", postgres.port)
    connection = connection_to(postgres, host="db.example")
    told: list[tuple[str, str]] = []
    try:
        for addresses in (["127.0.0.10", "127.0.0.11"], ["127.0.0.11", "127.0.0.10"]):
            resolving("db.example", addresses)
            with pytest.raises(ServerUnreachable) as knocked:
                await knock("db.example", postgres.port, 5, anywhere)
            with pytest.raises(ServerUnreachable) as opened:
                async with open_sessions(connection, LIMITS, anywhere) as sessions, sessions.transaction():
                    pass
            told.append((str(knocked.value), str(opened.value)))
    finally:
        closing.close()
    assert told[0] == told[1]
    for message in told[0]:
        assert "refused" in message
        assert "closed" in message


async def _never_answer_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    del reader
    writer.close()


async def _never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


# Passwords of roles.


async def test_whether_a_role_can_log_in_is_found_out_and_the_session_closed(
    sessions: Sessions, admin: Administrator
) -> None:
    session = await admin.connect()
    name = f"someone_{secrets.token_hex(4)}"
    role = sql.Identifier(name)
    await session.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, PASSWORD))
    try:
        assert await sessions.can_log_in(name, PASSWORD, "postgres") is True
        assert await sessions.can_log_in(name, "another", "postgres") is False
        await session.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(role))
        assert await sessions.can_log_in(name, PASSWORD, "postgres") is None
    finally:
        await session.execute(sql.SQL("DROP ROLE {}").format(role))


@pytest.mark.parametrize("password", ["plain", "p\u00e4ss w\u00f6rd", "\u2168", "'\\\"$1"])
async def test_a_verifier_lets_its_password_in(
    sessions: Sessions, admin: Administrator, password: str
) -> None:
    session = await admin.connect()
    name = f"someone_{secrets.token_hex(4)}"
    role = sql.Identifier(name)
    async with sessions.transaction() as transaction:
        verifier = transaction.make_verifier(name, password)
    assert verifier.startswith("SCRAM-SHA-256$")
    await session.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, verifier))
    try:
        assert await sessions.can_log_in(name, password, "postgres")
    finally:
        await session.execute(sql.SQL("DROP ROLE {}").format(role))


async def test_a_login_given_up_in_the_moment_that_a_step_of_it_ends_keeps_no_other_one_off(
    postgres: Server,
) -> None:
    parameters = {
        "host": postgres.host,
        "hostaddr": postgres.host,
        "port": str(postgres.port),
        "user": postgres.user,
        "password": postgres.password,
        "dbname": "postgres",
        "connect_timeout": "10",
    }
    for turns in range(20):
        login = asyncio.create_task(establish(parameters))
        for _ in range(turns):
            await asyncio.sleep(0)
        for thread in threading.enumerate():
            if thread.name == "PQconnectPoll":
                thread.join()
        login.cancel()
        await asyncio.wait([login])
        assert login.cancelled()
        await (await establish(parameters)).close()
