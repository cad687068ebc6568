"""Others at work on the same server at the same moment, and between the server and the operator."""

import asyncio
import contextlib
import random
import re
import secrets
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow

from hoop_operator.cluster.api import KubernetesApi
from integration.administrator import Administrator
from integration.namespaces import Namespaces
from integration.operator_process import OperatorProcess
from integration.pooler import PgBouncer, TransactionPooler
from integration.roles import literal, quoted
from integration.server_log import logged
from integration.tenant import Tenant, eventually, ready, roles_of
from local.postgresql import Server

LOCK_SECONDS = 10
DEADLOCK_SECONDS = 6
"""Before that PostgreSQL looks for none, and the operator has not given up."""
SETTINGS = {
    "HOOP_LOCK_TIMEOUT_SECONDS": str(LOCK_SECONDS),
    "HOOP_RETRY_SECONDS_MAX": "2",
    "HOOP_DRIFT_INTERVAL_SECONDS": "3600",
}
KILLED_AT_A_TIME = 3
TABLES = ("orders", "customers", "goods", "bills")

WRITING = re.compile(r"READ WRITE|\b(ALTER|GRANT|REVOKE|COMMENT)\b")

Session = psycopg.AsyncConnection[TupleRow]


@pytest.fixture(scope="module")
async def patient_operator(
    operator_kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory, namespaces: Namespaces
) -> AsyncIterator[OperatorProcess]:
    """An operator that waits for locks longer than PostgreSQL takes to see a deadlock."""
    settings = {**SETTINGS, **namespaces.of_the_run}
    process = OperatorProcess(operator_kubeconfig, tmp_path_factory.mktemp("patient") / "log", settings)
    await process.start()
    yield process
    process.bury()


@pytest.fixture
def tenant(patient_operator: OperatorProcess, api: KubernetesApi, namespace: str) -> Tenant:
    return Tenant(api, namespace, patient_operator.agent_id)


@pytest.fixture
async def database(admin: Administrator) -> str:
    name = await admin.create_database()
    session = await admin.connect(name)
    for table in TABLES:
        await session.execute(sql.SQL("CREATE TABLE {} (id int)").format(sql.Identifier(table)))
    return name


@pytest.fixture
async def other(admin: Administrator) -> AsyncIterator[str]:
    """A role of somebody else."""
    name = f"other_{secrets.token_hex(4)}"
    session = await admin.connect()
    await session.execute(f"CREATE ROLE {quoted(name)}".encode())
    yield name
    await session.execute(f"DROP ROLE {quoted(name)}".encode())


@dataclass
class Log:
    """What PostgreSQL has logged since."""

    server: Server
    begins: int

    def lines(self, what: str) -> list[str]:
        """The lines with a text in them."""
        return [line for line in logged(self.server, self.begins) if what in line]


@pytest.fixture
def log(postgres: Server) -> Log:
    return Log(postgres, postgres.log.stat().st_size)


async def until_it_waits(session: Session, database: str, holder: Session) -> None:
    """Wait until the operator waits in a database for a lock that somebody holds."""

    async def waits() -> bool:
        rows = await session.execute(
            "SELECT FROM pg_stat_activity WHERE application_name = 'hoop-operator' AND datname = %s"
            " AND wait_event_type = 'Lock' AND %s = ANY (pg_blocking_pids(pid))",
            (database, holder.info.backend_pid),
        )
        return await rows.fetchone() is not None

    await eventually(waits, what="the operator waits for a lock")


@contextlib.asynccontextmanager
async def meanwhile(others: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Have something done for as long as the body takes."""
    task = asyncio.create_task(others)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def never_failed(tenant: Tenant, *plans: str) -> None:
    """Assert that nothing but success was ever said of plans."""
    found = await tenant.plans()
    for name in plans:
        history = found[name]["status"]["history"]
        assert [(entry["status"], entry["message"]) for entry in history] == [("success", "")] * len(history)
        assert [event for event in await tenant.events(name) if event[0] == "Warning"] == []


async def table_grants(session: Session, role: str) -> set[tuple[str, str]]:
    """What a role may do with which table of a session's database, by grants to itself."""
    rows = await session.execute(
        "SELECT c.relname, a.privilege_type FROM pg_class c, aclexplode(c.relacl) a"
        " JOIN pg_roles r ON r.oid = a.grantee WHERE r.rolname = %s",
        (role,),
    )
    return {(row[0], row[1]) for row in await rows.fetchall()}


async def assert_exact(tenant: Tenant, session: Session, server: Server, plan: str, *privileges: str) -> None:
    """Assert that a plan's role has these privileges on every table and no other, and that its Secret logs in."""
    role = (await tenant.plans())[plan]["status"]["role"]
    assert await table_grants(session, role) == {(table, p) for table in TABLES for p in privileges}
    async with await tenant.log_in(plan, server) as logged_in:
        assert await (await logged_in.execute("SELECT current_user")).fetchone() == (role,)


# Others change the same rows of the catalogs.


@pytest.mark.parametrize("number", [1, 5])
async def test_a_grant_that_somebody_commits_meanwhile_fails_no_plan(
    number: int,
    tenant: Tenant,
    patient_operator: OperatorProcess,
    admin: Administrator,
    postgres: Server,
    database: str,
    log: Log,
) -> None:
    said_before = len(patient_operator.said())
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await tenant.until_resource(resource)
    somebody, observer = await admin.connect(database), await admin.connect()
    await somebody.execute("BEGIN; GRANT SELECT ON orders TO pg_monitor")
    plans = [f"plan-{index}" for index in range(number)]
    await asyncio.gather(
        *(tenant.plan(name, resource, scopes=[database], privileges=["SELECT"]) for name in plans)
    )
    await until_it_waits(observer, database, somebody)
    await somebody.execute("COMMIT")
    await tenant.until_plans(plans)
    assert log.lines("tuple concurrently updated")
    await never_failed(tenant, *plans)
    assert "trying with half" not in patient_operator.said()[said_before:]
    for name in plans:
        await assert_exact(tenant, somebody, postgres, name, "SELECT")


async def test_a_deadlock_that_the_operator_loses_fails_no_plan(
    tenant: Tenant, admin: Administrator, postgres: Server, database: str, log: Log
) -> None:
    somebody, observer = await admin.connect(database), await admin.connect()
    await observer.execute(
        f"ALTER DATABASE {quoted(database)} SET deadlock_timeout = '{DEADLOCK_SECONDS}s'".encode()
    )
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await tenant.until_resource(resource)
    await somebody.execute("SET deadlock_timeout = '60s'; BEGIN; GRANT SELECT ON bills TO pg_monitor")
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    await until_it_waits(observer, database, somebody)
    await somebody.execute("GRANT SELECT ON orders TO pg_monitor; COMMIT")
    await tenant.until_plans(["ro"])
    assert log.lines("deadlock detected")
    await never_failed(tenant, "ro")
    await assert_exact(tenant, somebody, postgres, "ro", "SELECT")


async def test_a_password_is_set_although_somebody_alters_the_role_meanwhile(
    tenant: Tenant, admin: Administrator, postgres: Server, database: str, log: Log
) -> None:
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    role = (await tenant.until_plans(["ro"]))["ro"]["status"]["role"]
    before = await tenant.secret("ro")
    somebody, observer = await admin.connect(), await admin.connect()
    await somebody.execute(f"BEGIN; ALTER ROLE {quoted(role)} SET work_mem = '8MB'".encode())
    await somebody.execute(f"ALTER ROLE {quoted(role)} LOGIN".encode())
    await tenant.annotate("ro", rotate_at="now")
    await until_it_waits(observer, "postgres", somebody)
    await somebody.execute("COMMIT")
    await tenant.until_plan("ro", lambda body: body["status"].get("observedRotateAt") == "now", "rotated")
    assert log.lines("tuple concurrently updated")
    await never_failed(tenant, "ro")
    assert (await tenant.secret("ro"))["password"] != before["password"]
    await assert_exact(tenant, await admin.connect(database), postgres, "ro", "SELECT")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("ALTER ROLE {0} VALID UNTIL 'infinity'", "tuple concurrently updated"),
        ("DROP OWNED BY {0}; DROP ROLE {0}", "does not exist"),
    ],
    ids=["altered", "dropped"],
)
async def test_a_role_is_removed_although_somebody_is_at_it_meanwhile(
    change: str,
    error: str,
    tenant: Tenant,
    admin: Administrator,
    postgres: Server,
    database: str,
    log: Log,
) -> None:
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    role = (await tenant.until_plans(["ro"]))["ro"]["status"]["role"]
    somebody, observer = await admin.connect(database), await admin.connect()
    await somebody.execute(f"BEGIN; {change.format(quoted(role))}".encode())
    await tenant.delete("ro")
    await until_it_waits(observer, "postgres", somebody)
    await somebody.execute("COMMIT")
    await tenant.until_gone("ro")
    assert log.lines(error)
    assert await roles_of(observer, tenant.namespace, "ro") == []
    assert [event for event in await tenant.events("ro") if event[0] == "Warning"] == []


async def test_two_inboxes_and_another_tool_on_the_same_tables_fail_no_plan(
    tenant: Tenant, admin: Administrator, postgres: Server, database: str, other: str
) -> None:
    resources = [
        await tenant.resource(replace(postgres, host=host), user=postgres.user, password=postgres.password)
        for host in ("127.0.0.1", "localhost")
    ]
    for resource in resources:
        await tenant.until_resource(resource)
    tool = await admin.connect(database)

    async def meddle() -> None:
        dice = random.Random(1)  # noqa: S311 -- not for secrets
        while True:
            table = dice.choice(TABLES)
            for statement in (
                f"GRANT UPDATE ON {table} TO {quoted(other)}",
                f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS passing int",
                f"REVOKE UPDATE ON {table} FROM {quoted(other)}",
                f"ALTER TABLE {table} DROP COLUMN IF EXISTS passing",
            ):
                # The tool has no second attempt: it loses to the operator now and then.
                began = time.monotonic()
                with contextlib.suppress(psycopg.errors.InternalError_, psycopg.errors.DeadlockDetected):
                    await tool.execute(statement.encode())
                # However slow the machine is, it keeps to a share of the time.
                await asyncio.sleep(max(0.005, 2 * (time.monotonic() - began)))

    names = [f"plan-{index}" for index in range(24)]
    async with meanwhile(meddle()) as meddling:
        await asyncio.gather(
            *(
                tenant.plan(name, resources[index % 2], scopes=[database], privileges=["SELECT"])
                for index, name in enumerate(names)
            )
        )
        await tenant.until_plans(names)
        await asyncio.gather(*(tenant.change(name, privileges=["INSERT"]) for name in names))
        await tenant.until_plans(names)
        await asyncio.gather(*(tenant.delete(name) for name in names[:6]))
        for name in names[:6]:
            await tenant.until_gone(name)
        assert not meddling.done()
    session = await admin.connect(database)
    await session.execute(f"DROP OWNED BY {quoted(other)}".encode())
    await never_failed(tenant, *names[6:])
    for name in names[:6]:
        assert [event for event in await tenant.events(name) if event[0] == "Warning"] == []
    for name in names[6:]:
        await assert_exact(tenant, session, postgres, name, "INSERT")


# One plan that always fails.


async def test_a_plan_that_meets_an_internal_error_every_time_fails_alone(
    tenant: Tenant, admin: Administrator, postgres: Server, database: str
) -> None:
    session = await admin.connect(database)
    await session.execute(
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF current_query() ~ '_bad_' THEN RAISE 'broken' USING ERRCODE = 'XX000'; END IF; END $$;"
        " CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('GRANT') EXECUTE FUNCTION refuse()"
    )
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await tenant.until_resource(resource)
    good = [f"good-{index}" for index in range(6)]
    await asyncio.gather(
        *(
            tenant.plan(name, resource, scopes=[database], privileges=["SELECT"])
            for name in (*good[:3], "bad", *good[3:])
        )
    )
    await tenant.until_plans(good)
    found = await tenant.until_plans(["bad"], "ApplyFailed")
    assert "broken" in ready(found["bad"])[1]
    await never_failed(tenant, *good)
    await session.execute("DROP EVENT TRIGGER refuse")
    await tenant.until_plans(["bad"])


async def test_plans_that_wait_for_a_lock_do_not_keep_another_plan_waiting_one_after_another(
    tenant: Tenant, admin: Administrator, postgres: Server, database: str
) -> None:
    session, holder = await admin.connect(database), await admin.connect(database)
    await session.execute("CREATE SCHEMA free CREATE TABLE free.goods (id int)")
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await tenant.until_resource(resource)
    await holder.execute("BEGIN; ALTER TABLE orders ADD COLUMN item text")
    hindered = [f"hindered-{index}" for index in range(12)]
    await asyncio.gather(
        *(tenant.plan(name, resource, scopes=[database], privileges=["SELECT"]) for name in hindered)
    )
    await until_it_waits(session, database, holder)
    await tenant.plan("free", resource, scopes=[f"{database}.free"], privileges=["SELECT"])
    # One wait for each of them, and for each group that they are tried in, would be 23 of them.
    await tenant.until_plans(["free"], seconds=15 * LOCK_SECONDS)
    found = await tenant.until_plans(hindered, "ApplyFailed")
    assert all("lock timeout" in ready(plan)[1] for plan in found.values())
    await holder.execute("ROLLBACK")
    await tenant.until_plans(hindered)


# Connections that are killed.


async def test_connections_may_be_killed_at_any_moment(
    tenant: Tenant, admin: Administrator, postgres: Server, database: str
) -> None:
    name, password = f"admin_{secrets.token_hex(4)}", secrets.token_hex(16)
    session, killer = await admin.connect(database), await admin.connect()
    await session.execute(f"CREATE ROLE {quoted(name)} SUPERUSER LOGIN PASSWORD {literal(password)}".encode())
    resource = await tenant.resource(postgres, user=name, password=password)
    await tenant.until_resource(resource)
    killed = 0
    dice = random.Random(1)  # noqa: S311 -- not for secrets

    async def kill() -> None:
        nonlocal killed
        enough = killed + KILLED_AT_A_TIME
        while killed < enough:
            await asyncio.sleep(dice.uniform(0, 0.03))
            rows = await killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s AND state <> 'idle'",
                (name,),
            )
            killed += len(await rows.fetchall())

    plans = [f"plan-{index}" for index in range(20)]

    async def rotated() -> bool:
        found = await tenant.plans()
        return all(found[plan]["status"].get("observedRotateAt") == "now" for plan in plans[5:15])

    async with meanwhile(kill()):
        await asyncio.gather(
            *(tenant.plan(plan, resource, scopes=[database], privileges=["SELECT"]) for plan in plans)
        )
        await tenant.until_plans(plans)
    before = {plan: (await tenant.secret(plan))["password"] for plan in plans}
    async with meanwhile(kill()):
        await asyncio.gather(
            *(tenant.change(plan, privileges=["INSERT"]) for plan in plans[:10]),
            *(tenant.annotate(plan, rotate_at="now") for plan in plans[5:15]),
        )
        await tenant.until_plans(plans)
        await eventually(rotated, what="all are rotated")
    for index, plan in enumerate(plans):
        await assert_exact(tenant, session, postgres, plan, "INSERT" if index < 10 else "SELECT")
        assert ((await tenant.secret(plan))["password"] != before[plan]) is (5 <= index < 15)
    async with meanwhile(kill()):
        await asyncio.gather(*(tenant.delete(plan) for plan in plans[:15]))
        for plan in plans[:15]:
            await tenant.until_gone(plan)
            assert await roles_of(session, tenant.namespace, plan) == []
    assert killed > KILLED_AT_A_TIME
    await asyncio.gather(*(tenant.delete(plan) for plan in plans[15:]))
    for plan in plans[15:]:
        await tenant.until_gone(plan)
    await session.execute(
        f"REASSIGN OWNED BY {quoted(name)} TO CURRENT_USER; DROP OWNED BY {quoted(name)}".encode()
    )
    await session.execute(f"DROP ROLE {quoted(name)}".encode())


# A pooler on the way.

needs_pgbouncer = pytest.mark.skipif(PgBouncer.PROGRAM is None, reason="there is no pgbouncer on PATH")


@dataclass
class Login:
    """An administrator of a database."""

    name: str
    password: str


@pytest.fixture(params=["superuser", "owner"])
async def login(request: pytest.FixtureRequest, admin: Administrator, database: str) -> AsyncIterator[Login]:
    """An admin that reads password verifiers, or one that does not."""
    made = Login(f"admin_{secrets.token_hex(4)}", secrets.token_hex(16))
    session = await admin.connect(database)
    names = quoted(made.name)
    power = "SUPERUSER" if request.param == "superuser" else "CREATEROLE"
    await session.execute(f"CREATE ROLE {names} {power} LOGIN PASSWORD {literal(made.password)}".encode())
    await session.execute(
        f"ALTER DATABASE {quoted(database)} OWNER TO {names}; ALTER SCHEMA public OWNER TO {names}".encode()
    )
    for table in TABLES:
        await session.execute(f"ALTER TABLE {table} OWNER TO {names}".encode())
    yield made
    # A pooler's session may keep the database for longer than the operator.
    await session.execute(
        f"REASSIGN OWNED BY {names} TO CURRENT_USER; DROP OWNED BY {names}; DROP ROLE {names}".encode()
    )


@pytest.fixture(params=[True, False], ids=["knows all", "knows the admin"])
def knows_roles(request: pytest.FixtureRequest) -> bool:
    """Whether a pooler can check the passwords of others than the admin."""
    return bool(request.param)


@pytest.fixture(params=["our own", pytest.param("pgbouncer", marks=needs_pgbouncer)])
async def pooler_port(
    request: pytest.FixtureRequest, postgres: Server, stack_directory: Path, login: Login, knows_roles: bool
) -> AsyncIterator[int]:
    """The port of a pooler by transaction."""
    pooler: PgBouncer | TransactionPooler
    if request.param == "pgbouncer":
        users = {login.name: login.password, postgres.user: postgres.password}
        pooler = PgBouncer(postgres, stack_directory, users=users, mode="transaction", knows_all=knows_roles)
    else:
        pooler = TransactionPooler(postgres.port, None if knows_roles else {login.name})
    await pooler.open()
    yield pooler.port
    await pooler.close()


async def test_plans_are_carried_out_and_removed_through_a_pooler_by_transaction(
    tenant: Tenant,
    admin: Administrator,
    postgres: Server,
    database: str,
    login: Login,
    knows_roles: bool,
    pooler_port: int,
) -> None:
    resource = await tenant.resource(postgres, user=login.name, password=login.password, port=pooler_port)
    plans = ["a", "b", "c"]
    await asyncio.gather(
        *(tenant.plan(plan, resource, scopes=[database], privileges=["SELECT"]) for plan in plans)
    )
    await tenant.until_plans(plans)
    await tenant.change("a", privileges=["INSERT", "UPDATE"])
    await tenant.annotate("b", rotate_at="now")
    await tenant.change("c", scopes=[database, f"{database}.missing"])
    await tenant.until_plans(["c"], "SchemaNotFound")
    await tenant.change("c", scopes=[database])
    await tenant.until_plan("b", lambda body: body["status"].get("observedRotateAt") == "now", "rotated")
    await tenant.until_plans(plans)
    session = await admin.connect(database)
    for plan, privileges in {"a": ("INSERT", "UPDATE"), "b": ("SELECT",), "c": ("SELECT",)}.items():
        await assert_exact(tenant, session, postgres, plan, *privileges)

    log = Log(postgres, postgres.log.stat().st_size)
    await asyncio.gather(*(tenant.annotate(plan, reconcile_at="now") for plan in plans))
    await tenant.until_plans(plans)
    assert [line for line in log.lines(f" {login.name}@") if WRITING.search(line)] == []

    if knows_roles:
        await tenant.change_secret("c-credentials", password="another")

        async def taken_over() -> bool:
            with contextlib.suppress(psycopg.OperationalError):
                await (await tenant.log_in("c", postgres)).close()
                return True
            return False

        await eventually(taken_over, what="the Secret's password is the server's")
        assert (await tenant.secret("c"))["password"] == "another"

    await asyncio.gather(*(tenant.delete(plan) for plan in plans))
    for plan in plans:
        await tenant.until_gone(plan)
        assert await roles_of(session, tenant.namespace, plan) == []


@needs_pgbouncer
@pytest.mark.parametrize("login", ["superuser"], indirect=True)
async def test_a_pooler_by_statement_is_refused_with_the_remedy(
    tenant: Tenant, postgres: Server, stack_directory: Path, login: Login
) -> None:
    pooler = PgBouncer(
        postgres,
        stack_directory,
        users={login.name: login.password},
        mode="statement",
        knows_all=False,
    )
    await pooler.open()
    try:
        resource = await tenant.resource(postgres, user=login.name, password=login.password, port=pooler.port)
        await tenant.until_resource(resource, "ServerUnreachable")
        message = ready((await tenant.resources())[resource])[1]
        assert "statement pooling mode" in message
        assert "HOST has to name the server" in message
    finally:
        await pooler.close()
