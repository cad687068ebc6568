"""What is wrong with one server, resource or plan is no trouble for the others."""

import asyncio
import base64
import contextlib
import re
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from psycopg import sql

from hoop_operator.cluster.api import KubernetesApi
from integration.administrator import Administrator
from integration.namespaces import Namespaces
from integration.operator_process import OperatorProcess, free_port
from integration.proxy import Proxy
from integration.server_log import logged
from integration.tenant import PATIENCE_SECONDS, Tenant, eventually, ready
from local.postgresql import Server

pytestmark = pytest.mark.version_independent

CONNECTIONS = 3
CONNECT_SECONDS = 2
TENANTS = 40
SETTINGS = {
    "HOOP_CONNECTIONS_PER_SERVER": str(CONNECTIONS),
    "HOOP_CONNECT_TIMEOUT_SECONDS": str(CONNECT_SECONDS),
    "HOOP_LOCK_TIMEOUT_SECONDS": "0.3",
    "HOOP_RETRY_SECONDS_MAX": "2",
}
SOON = 120
"""Seconds within which a plan that nothing hinders is Ready, however busy the machine."""


@pytest.fixture(scope="module")
async def busy_operator(
    operator_kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory, namespaces: Namespaces
) -> AsyncIterator[OperatorProcess]:
    """One operator for all the trouble in this module."""
    settings = {**SETTINGS, **namespaces.of_the_run}
    process = OperatorProcess(operator_kubeconfig, tmp_path_factory.mktemp("busy") / "log", settings)
    await process.start()
    yield process
    process.bury()


@pytest.fixture
def tenant(busy_operator: OperatorProcess, api: KubernetesApi, namespace: str) -> Tenant:
    return Tenant(api, namespace, busy_operator.agent_id)


@pytest.fixture
async def database(admin: Administrator) -> str:
    """A database with some tables."""
    name = await admin.create_database()
    session = await admin.connect(name)
    for table in ("orders", "customers"):
        await session.execute(sql.SQL("CREATE TABLE {} (id int)").format(sql.Identifier(table)))
    return name


@asynccontextmanager
async def proxied(server: Server) -> AsyncIterator[Proxy]:
    """A way to the server that is another endpoint, and so another server to the operator."""
    proxy = Proxy(server.port)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.close()


@contextlib.contextmanager
def black_hole() -> Iterator[tuple[int, Callable[[], int]]]:
    """A port where connections are taken and never answered, and how many there have been so far."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        listener.setblocking(False)

        def count() -> int:
            with contextlib.suppress(BlockingIOError):
                while True:
                    taken.append(listener.accept()[0])
            return len(taken)

        yield listener.getsockname()[1], count
    for connection in taken:
        connection.close()


async def test_two_tenants_of_one_server_share_no_session_no_snapshot_and_no_grant(
    tenant: Tenant, postgres: Server, admin: Administrator
) -> None:
    session = await admin.connect()
    admins = {}
    for name in ("rich", "poor"):
        login, password = f"{name}_{secrets.token_hex(4)}", secrets.token_hex(16)
        await session.execute(
            sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD {}").format(
                sql.Identifier(login), sql.Literal(password)
            )
        )
        database = await admin.create_database()
        await session.execute(
            sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(database), sql.Identifier(login))
        )
        inside = await admin.connect(database)
        await inside.execute(sql.SQL("CREATE TABLE goods AS SELECT 1 AS id"))
        await inside.execute(sql.SQL("ALTER TABLE goods OWNER TO {}").format(sql.Identifier(login)))
        await inside.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(sql.Identifier(login)))
        resource = await tenant.resource(postgres, user=login, password=password)
        admins[name] = (login, database, resource)
    rich, poor = admins["rich"], admins["poor"]
    log_begins = postgres.log.stat().st_size
    await asyncio.gather(
        tenant.plan("rich", rich[2], scopes=[rich[1]], privileges=["SELECT"]),
        tenant.plan("poor", poor[2], scopes=[poor[1]], privileges=["SELECT"]),
        tenant.plan("trespasser", poor[2], scopes=[rich[1]], privileges=["SELECT"]),
    )
    plans = await tenant.until_plans(["rich", "poor"], seconds=SOON)
    await tenant.until_plans(["trespasser"], "InsufficientPrivilege", seconds=SOON)

    statements = statements_by_login(postgres, log_begins)
    for login, others in ((rich[0], ("poor", "trespasser")), (poor[0], ("rich",))):
        said = "\n".join(statements[login])
        for other in others:
            assert plans.get(other, (await tenant.plans())[other])["status"]["role"] not in said
    for name in ("rich", "poor"):
        login, database, _ = admins[name]
        own = plans[name]["status"]["role"]
        grants = await session.execute(
            "SELECT DISTINCT grantor.rolname FROM pg_auth_members m"
            " JOIN pg_roles grantor ON grantor.oid = m.grantor JOIN pg_roles r ON r.oid = m.roleid"
            " WHERE r.rolname = %s AND grantor.rolname <> 'postgres'",
            (own,),
        )
        assert {row[0] for row in await grants.fetchall()} <= {login}
        assert any("CREATE ROLE" in statement and own in statement for statement in statements[login])
        async with await tenant.log_in(name, postgres) as logged_in:
            assert (await (await logged_in.execute("SELECT id FROM goods")).fetchall()) == [(1,)]


def statements_by_login(server: Server, begins: int) -> dict[str, list[str]]:
    """What each login has sent since the server's log had that length, continuation lines included."""
    found: dict[str, list[str]] = {}
    login = ""
    for line in logged(server, begins):
        if begin := re.match(r"\d{4}-\d\d-\d\d [\d:.]+ \w+ \[\d+\] (?:(\S+)@\S+ )?", line):
            login = begin[1] or ""
            found.setdefault(login, []).append(line)
        elif login:
            found[login][-1] += "\n" + line
    return found


@pytest.mark.parametrize("trouble", ["black hole", "closed port", "slow"])
async def test_a_server_in_trouble_delays_no_plan_of_another(
    trouble: str, tenant: Tenant, postgres: Server, database: str
) -> None:
    async with contextlib.AsyncExitStack() as opened:
        slow = await opened.enter_async_context(proxied(postgres))
        slow.delay_seconds = 0.15  # to log in takes six of them, and no longer than the time-out
        hole, _ = opened.enter_context(black_hole())
        port = {"black hole": hole, "closed port": free_port(), "slow": slow.port}[trouble]
        bad = await tenant.resource(postgres, user=postgres.user, password=postgres.password, port=port)
        for number in range(5):
            await tenant.plan(f"bad-{number}", bad, scopes=[database], privileges=["SELECT"])
        good = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
        await tenant.plan("good", good, scopes=[database], privileges=["SELECT"])
        await tenant.until_plans(["good"], seconds=SOON)
        if trouble != "slow":
            assert all(
                ready(plan)[0] != "Applied" for name, plan in (await tenant.plans()).items() if name != "good"
            )
            await tenant.until_resource(bad, "ServerUnreachable")
            await tenant.until_plans([f"bad-{number}" for number in range(5)], "ResourceNotReady")
        else:
            slow.delay_seconds = 0.02
            await tenant.until_plans([f"bad-{number}" for number in range(5)])


async def test_a_dead_server_is_probed_once_for_all_its_plans(
    tenant: Tenant, postgres: Server, database: str
) -> None:
    with black_hole() as (port, connections):
        began = time.monotonic()
        bad = await tenant.resource(postgres, user=postgres.user, password=postgres.password, port=port)
        names = [f"bad-{number}" for number in range(20)]
        await asyncio.gather(
            *(tenant.plan(name, bad, scopes=[database], privileges=["SELECT"]) for name in names)
        )
        await tenant.until_plans(names, "ResourceNotReady")
        tried = connections()
        # An attempt takes as long as the connect timeout, and the pauses between them grow.
        assert tried <= 1 + (time.monotonic() - began) / CONNECT_SECONDS + 1


async def test_tenants_of_one_dead_server_hear_of_it_together(tenant: Tenant, postgres: Server) -> None:
    with black_hole() as (port, _):
        began = time.monotonic()
        resources = [
            await tenant.resource(postgres, user=f"tenant{number}", password="x", port=port)
            for number in range(TENANTS)
        ]
        for resource in resources:
            await tenant.until_resource(resource, "ServerUnreachable")
        assert time.monotonic() - began < TENANTS * CONNECT_SECONDS  # what they take one after the other


async def test_a_plan_is_ready_soon_after_its_dead_server_is_back(
    tenant: Tenant, postgres: Server, database: str
) -> None:
    async with proxied(postgres) as proxy:
        await proxy.close()
        resource = await tenant.resource(
            postgres, user=postgres.user, password=postgres.password, port=proxy.port
        )
        await tenant.plan("patient", resource, scopes=[database], privileges=["SELECT"])
        await tenant.until_plans(["patient"], "ResourceNotReady")
        await proxy.open()
        await tenant.until_plans(["patient"], seconds=SOON)


@pytest.mark.parametrize(
    ("lock", "hinders"),
    [
        # A grant changes the table's row in the catalog and leaves the table itself alone.
        pytest.param("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE", False, id="access exclusive lock"),
        pytest.param("GRANT SELECT ON orders TO pg_monitor", True, id="uncommitted grant"),
        pytest.param("ALTER TABLE orders ADD COLUMN item text", True, id="uncommitted change of the table"),
    ],
)
async def test_a_locked_table_hinders_only_the_plans_that_need_it(
    lock: str, hinders: bool, tenant: Tenant, postgres: Server, database: str, admin: Administrator
) -> None:
    session = await admin.connect(database)
    await session.execute("CREATE SCHEMA free CREATE TABLE free.goods (id int)")
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await tenant.until_resource(resource)
    await session.execute("BEGIN")
    await session.execute(lock.encode())
    free = [f"free-{number}" for number in range(6)]
    await asyncio.gather(
        tenant.plan("meets-lock", resource, scopes=[database], privileges=["SELECT"]),
        *(tenant.plan(name, resource, scopes=[f"{database}.free"], privileges=["SELECT"]) for name in free),
    )
    await tenant.until_plans(free, seconds=SOON)
    if hinders:
        await tenant.until_plans(["meets-lock"], "ApplyFailed")
    await session.execute("ROLLBACK")
    await tenant.until_plans(["meets-lock"], seconds=SOON)


async def test_a_database_that_its_owner_keeps_everybody_out_of_hinders_only_the_plans_that_need_it(
    tenant: Tenant, admin: Administrator, postgres: Server, database: str
) -> None:
    name = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await tenant.until_resource(name)
    shut = await admin.create_database()
    await tenant.plan("in", name, scopes=[shut], privileges=["SELECT"])
    await tenant.until_plans(["in"], seconds=SOON)
    session = await admin.connect()
    await session.execute(
        sql.SQL("ALTER DATABASE {} SET local_preload_libraries = 'nowhere'").format(sql.Identifier(shut))
    )
    await tenant.plan("out", name, scopes=[database], privileges=["SELECT"])
    await tenant.change("in", privileges=["SELECT", "INSERT"])
    found = await tenant.until_plans(["in"], "DatabaseNotFound", seconds=SOON)
    assert shut in ready(found["in"])[1]
    await tenant.until_plans(["out"], seconds=SOON)


async def test_a_database_whose_name_is_not_in_utf8_hinders_no_plan(
    tenant: Tenant, admin: Administrator, postgres: Server, database: str
) -> None:
    name = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    session = await admin.connect()
    odd = f"test_{secrets.token_hex(6)}"
    raw = f"{odd}_\xe9".encode("latin1")
    await session.execute(
        sql.SQL("CREATE DATABASE {} ENCODING SQL_ASCII TEMPLATE template0 LOCALE 'C'").format(
            sql.Identifier(odd)
        )
    )
    unchecked = await admin.connect(odd)
    await unchecked.execute("SET client_encoding = 'SQL_ASCII'")
    await unchecked.execute(b'CREATE DATABASE "%s"' % raw)
    try:
        await tenant.plan("ro", name, scopes=[database], privileges=["SELECT"])
        await tenant.until_plans(["ro"], seconds=SOON)
    finally:
        await unchecked.execute(b'DROP DATABASE "%s"' % raw)
        await unchecked.close()
        await session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(odd)))


async def test_a_database_that_cannot_be_read_hinders_only_the_plans_that_need_it(
    tenant: Tenant, admin: Administrator, postgres: Server, database: str
) -> None:
    name = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await tenant.until_resource(name)
    odd = f"test_{secrets.token_hex(6)}"
    session = await admin.connect()
    await session.execute(
        sql.SQL("CREATE DATABASE {} ENCODING SQL_ASCII TEMPLATE template0 LOCALE 'C'").format(
            sql.Identifier(odd)
        )
    )
    try:
        unchecked = await admin.connect(odd)
        await unchecked.execute("SET client_encoding = 'SQL_ASCII'")
        await unchecked.execute(b'CREATE TABLE "t\xe9" (id int)')
        await tenant.plan("in", name, scopes=[odd], privileges=["SELECT"])
        await tenant.plan("out", name, scopes=[database], privileges=["SELECT"])
        await tenant.until_plans(["in"], "DatabaseNotFound", seconds=SOON)
        await tenant.until_plans(["out"], seconds=SOON)
    finally:
        await session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(odd)))


async def test_good_plans_are_ready_in_seconds_beside_a_hundred_broken_ones(
    tenant: Tenant, postgres: Server, database: str
) -> None:
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    broken = [f"broken-{number}" for number in range(100)]
    await asyncio.gather(
        *(
            tenant.plan(name, resource, scopes=[f"{database}.nowhere"], privileges=["SELECT"])
            for name in broken
        )
    )
    good = [f"good-{number}" for number in range(10)]
    await asyncio.gather(
        *(tenant.plan(name, resource, scopes=[database], privileges=["SELECT"]) for name in good)
    )
    await tenant.until_plans(good, seconds=SOON)
    await tenant.until_plans(broken, "SchemaNotFound")


async def test_one_bad_plan_in_a_burst_fails_alone(
    tenant: Tenant, postgres: Server, database: str, admin: Administrator
) -> None:
    session = await admin.connect(database)
    await session.execute("CREATE SCHEMA shut CREATE TABLE shut.goods (id int)")
    login, password = f"limited_{secrets.token_hex(4)}", secrets.token_hex(16)
    await session.execute(
        sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD {}").format(
            sql.Identifier(login), sql.Literal(password)
        )
    )
    for statement in (
        "ALTER SCHEMA public OWNER TO {}",
        "ALTER TABLE orders OWNER TO {}",
        "ALTER TABLE customers OWNER TO {}",
    ):
        await session.execute(sql.SQL(statement).format(sql.Identifier(login)))
    await session.execute(
        sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(database), sql.Identifier(login))
    )
    resource = await tenant.resource(postgres, user=login, password=password)
    good = [f"good-{number}" for number in range(49)]
    await asyncio.gather(
        tenant.plan("bad", resource, scopes=[f"{database}.shut"], privileges=["SELECT"]),
        *(tenant.plan(name, resource, scopes=[database], privileges=["SELECT"]) for name in good),
    )
    await tenant.until_plans(good)
    await tenant.until_plans(["bad"], "InsufficientPrivilege")


async def test_a_burst_keeps_to_the_limit_of_connections_and_leaves_none_behind(
    tenant: Tenant, postgres: Server, admin: Administrator
) -> None:
    session = await admin.connect()
    own, *databases = [await admin.create_database() for _ in range(7)]
    resources = [
        await tenant.resource(
            postgres,
            user=postgres.user,
            password=postgres.password,
            envVars={"envvar:DB": base64.b64encode(own.encode()).decode()},
        )
        for _ in range(2)
    ]
    most = 0

    async def open_sessions() -> set[int]:
        rows = await session.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'hoop-operator'"
            " AND usename = %s AND datname = ANY(%s)",
            (postgres.user, [own, *databases]),
        )
        return {pid for (pid,) in await rows.fetchall()}

    names = [f"plan-{number}" for number in range(200)]
    burst = asyncio.gather(
        *(
            tenant.plan(
                name,
                resources[index % 2],
                scopes=[databases[index % 6], databases[(index + 1) % 6]],
                privileges=["SELECT"],
            )
            for index, name in enumerate(names)
        )
    )

    async def all_ready() -> bool:
        nonlocal most
        now = await open_sessions()
        if len(now) > CONNECTIONS:
            # One that was left may be there a moment longer than its client.
            await asyncio.sleep(1)
            now &= await open_sessions()
        most = max(most, len(now))
        return burst.done() and all(ready(plan)[0] == "Applied" for plan in (await tenant.plans()).values())

    await eventually(all_ready, seconds=5 * PATIENCE_SECONDS, what="200 plans are Ready")
    await burst
    assert 0 < most <= CONNECTIONS

    async def none_left() -> bool:
        return not await open_sessions()

    await eventually(none_left, what="no session is left")
