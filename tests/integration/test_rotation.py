"""Rotation by age, what the Secret says of it, and the sessions that a rotation leaves behind or ends."""

import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import TupleRow

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.postgres.capabilities import read_capabilities
from hoop_operator.postgres.fence import Fence
from hoop_operator.postgres.session import open_sessions
from hoop_operator.reconcile.former_sessions import end_former_sessions
from hoop_operator.reconcile.turn import look
from integration.administrator import Administrator
from integration.operator_process import OperatorProcess
from integration.roles import LIMITS, Roles, quoted
from integration.scrape import Series, scrape, series
from integration.tenant import PATIENCE_SECONDS, Tenant, eventually, ready
from local.postgresql import Server

SETTINGS = {"HOOP_DRIFT_INTERVAL_SECONDS": "3600", "HOOP_RETRY_SECONDS_MAX": "1"}
LONG_AGO = "2026-01-01T00:00:00Z"
GARBAGE = (
    "nonsense",
    "[" * 100_000,
    '{"since":"9999-12-31T23:59:59Z"}',
    '{"since":"0001-01-01T00:00:00Z"}',
    None,
)

Operators = Callable[[Mapping[str, str]], OperatorProcess]
Session = psycopg.AsyncConnection[TupleRow]


@pytest.fixture
async def process(own_operator: Operators) -> OperatorProcess:
    """An operator that does not look by itself at what it has no reason to look at."""
    process = own_operator(SETTINGS)
    await process.start()
    return process


@pytest.fixture
async def asker(process: OperatorProcess, api: KubernetesApi, namespace: str, postgres: Server) -> Tenant:
    return Tenant(api, namespace, process.agent_id)


@pytest.fixture
async def aging(asker: Tenant, postgres: Server, database: str) -> str:
    """The password of the Ready plan `ro`, which is rotated every day."""
    resource = await asker.resource(postgres, user=postgres.user, password=postgres.password)
    return await rotated_daily(asker, resource, database)


@pytest.fixture
async def aging_quickly(tenant: Tenant, resource: str, database: str) -> str:
    """The same, of the shared operator, which looks every other second."""
    return await rotated_daily(tenant, resource, database)


async def rotated_daily(tenant: Tenant, resource: str, database: str) -> str:
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"], rotationInterval="24h")
    await tenant.until_plans(["ro"])
    return (await tenant.secret("ro"))["password"]


def ago(**parts: int) -> str:
    return (datetime.now(UTC) - timedelta(**parts)).strftime("%Y-%m-%dT%H:%M:%SZ")


async def until_rotated(tenant: Tenant, former: str) -> dict[str, Any]:
    """Wait until a plan's status tells of a rotation that is no minute old; return the status."""

    def rotated(plan: Mapping[str, Any]) -> bool:
        last = (plan.get("status") or {}).get("lastRotationTime")
        return last is not None and datetime.now(UTC) - datetime.fromisoformat(last) < timedelta(minutes=1)

    status: dict[str, Any] = (await tenant.until_plan("ro", rotated, "the rotation is told"))["status"]
    assert (await tenant.secret("ro"))["password"] != former
    return status


async def looked_again(tenant: Tenant) -> str:
    """The password after one more run."""
    await tenant.annotate("ro", reconcile_at=secrets.token_hex(4))
    await tenant.until_plans(["ro"])
    return (await tenant.secret("ro"))["password"]


async def mark(tenant: Tenant, record: str | None) -> None:
    """Write something of one's own where the operator says what the password answers."""
    await tenant.api.merge_patch(
        paths.secret(tenant.namespace, "ro-credentials"),
        {"metadata": {"annotations": {"hoop.dev/rotation": record}}},
    )


@pytest.mark.version_independent
async def test_an_old_password_is_rotated_by_itself_and_once_however_long_nobody_was_there(
    asker: Tenant, process: OperatorProcess, postgres: Server, aging: str
) -> None:
    await asker.let_password_age("ro", LONG_AGO)
    status = await until_rotated(asker, aging)
    assert status["history"][0]["trigger"] == "rotation"
    due = datetime.fromisoformat(status["nextRotationTime"])
    last = datetime.fromisoformat(status["lastRotationTime"])
    assert timedelta(hours=21) < due - last <= timedelta(hours=24)

    async def told() -> bool:
        return any("rotated, due by spec.rotationInterval" in note for _, _, note in await asker.events("ro"))

    await eventually(told, what="the event")

    former = (await asker.secret("ro"))["password"]
    await process.stop(PATIENCE_SECONDS)
    await asker.let_password_age("ro", ago(days=3))
    await process.start()
    runs = (await until_rotated(asker, former))["history"]
    assert [run["trigger"] for run in runs] == ["rotation", "rotation", "spec"]
    kept = (await asker.secret("ro"))["password"]
    assert await looked_again(asker) == kept
    async with await asker.log_in("ro", postgres):
        pass
    await asker.delete("ro")
    await asker.until_gone("ro")

    async def counted() -> Series:
        found = await scrape(process.port)
        return found if series(found, "hoop_plan_removals_total") else {}

    assert_counted_since_the_start(await eventually(counted, what="the removal is counted"))


def assert_counted_since_the_start(found: Series) -> None:
    """See that the metrics tell of one rotation that was due, one run that was asked for, and one deletion."""
    success = {("outcome", "success"), ("reason", "Applied")}
    assert series(found, "hoop_plan_runs_total") == {
        frozenset({*success, ("trigger", trigger)}): 1 for trigger in ("rotation", "annotation")
    }
    assert series(found, "hoop_plan_run_duration_seconds_count") == {frozenset(): 2}
    assert series(found, "hoop_password_rotations_total") == {frozenset({("trigger", "rotation")}): 1}
    assert series(found, "hoop_plan_removals_total") == {frozenset({("outcome", "dropped")}): 1}
    # The turn of the deletion may be about to end.
    assert series(found, "hoop_turn_duration_seconds_count")[frozenset()] >= 2
    for name in ("hoop_plan_run_duration_seconds_sum", "hoop_turn_duration_seconds_sum"):
        assert series(found, name)[frozenset()] > 0
    requests = series(found, "hoop_kubernetes_requests_total", status="200")
    assert {dict(labels)["method"] for labels, count in requests.items() if count} >= {"GET", "PATCH"}
    for mode in ("read", "write"):
        committed = series(found, "hoop_sql_transactions_total", mode=mode, outcome="committed")
        assert committed[frozenset()] > 0
    assert series(found, "hoop_leader") == {frozenset(): 1}


@pytest.mark.version_independent
async def test_a_changed_interval_counts_at_once_and_what_is_suspended_or_fails_waits(
    tenant: Tenant, database: str, aging_quickly: str
) -> None:
    await tenant.change("ro", suspend=True)
    await tenant.until_plans(["ro"], "Suspended")
    await tenant.let_password_age("ro", ago(hours=3))
    await tenant.change("ro", rotationInterval="1h")
    suspended = (await tenant.until_plans(["ro"], "Suspended"))["ro"]
    assert "nextRotationTime" not in suspended["status"]
    await tenant.change("ro", suspend=False, scopes=[f"{database}_missing"])
    await tenant.until_plans(["ro"], "DatabaseNotFound")
    assert (await tenant.secret("ro"))["password"] == aging_quickly
    await tenant.change("ro", scopes=[database])
    await until_rotated(tenant, aging_quickly)


@pytest.mark.version_independent
async def test_a_plan_that_lost_its_status_learns_from_its_secret_what_was_rotated_and_when(
    asker: Tenant, process: OperatorProcess, aging: str
) -> None:
    await asker.annotate("ro", rotate_at="monday")
    before = (
        await asker.until_plan(
            "ro", lambda plan: plan["status"].get("observedRotateAt") == "monday", "rotated"
        )
    )["status"]
    rotated = (await asker.secret("ro"))["password"]
    assert rotated != aging
    await process.stop(PATIENCE_SECONDS)
    path = paths.status(paths.hoop_role_plan(asker.namespace, "ro"))
    await asker.api.merge_patch(path, {"status": None})
    await process.start()
    after = (await asker.until_plans(["ro"]))["ro"]["status"]
    for name in ("lastRotationTime", "nextRotationTime", "observedRotateAt"):
        assert after[name] == before[name]
    assert (await asker.secret("ro"))["password"] == rotated

    await process.stop(PATIENCE_SECONDS)
    await asker.api.merge_patch(path, {"status": None})
    await mark(asker, f'{{"since":"{LONG_AGO}"}}')
    await process.start()
    await until_rotated(asker, rotated)


@pytest.mark.version_independent
async def test_whatever_somebody_writes_on_the_secret_the_plan_goes_on_and_its_password_stays(
    tenant: Tenant, aging_quickly: str
) -> None:
    password = aging_quickly
    for days, record in enumerate(GARBAGE, start=3):
        await mark(tenant, record)
        assert await looked_again(tenant) == password
        await tenant.let_password_age("ro", ago(days=days))
        await until_rotated(tenant, password)
        password = (await tenant.secret("ro"))["password"]


@pytest.mark.version_independent
async def test_sessions_that_a_run_left_open_which_was_cut_short_are_ended_by_the_next(
    own_operator: Operators, api: KubernetesApi, namespace: str, postgres: Server, database: str
) -> None:
    process = own_operator(SETTINGS | {"HOOP_END_SESSIONS_ON_ROTATION": "true"})
    await process.start()
    tenant = Tenant(api, namespace, process.agent_id)
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    told = (await tenant.until_plans(["ro"]))["ro"]["status"]["lastRotationTime"]
    former = await tenant.log_in("ro", postgres)
    opened = datetime.now(UTC)

    async def a_second_later() -> bool:
        return datetime.now(UTC) - opened > timedelta(seconds=1)

    await eventually(a_second_later, what="the next second, for the Secret has whole ones")
    since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    await mark(tenant, f'{{"since":"{since}","replaces":"{told}"}}')
    await eventually(lambda: is_over(former), what="the former session is ended")
    await former.close()
    settled = (
        await tenant.until_plan("ro", lambda plan: plan["status"]["lastRotationTime"] == since, "settled")
    )["status"]
    assert settled["history"][0]["trigger"] == "rotation"
    async with await tenant.log_in("ro", postgres) as current:
        await tenant.annotate("ro", reconcile_at="again")
        await tenant.until_plans(["ro"])
        assert not await is_over(current)


@pytest.mark.parametrize("ends_sessions", [True, False])
async def test_a_session_of_the_role_that_holds_its_lock_is_ended_or_named(
    own_operator: Operators,
    api: KubernetesApi,
    namespace: str,
    postgres: Server,
    admin: Administrator,
    database: str,
    ends_sessions: bool,
) -> None:
    """Any role may change its own password, and keep others from altering it for as long as it does not commit that."""
    process = own_operator(
        SETTINGS
        | {
            "HOOP_END_SESSIONS_ON_ROTATION": str(ends_sessions).lower(),
            "HOOP_LOCK_TIMEOUT_SECONDS": "0.5",
        }
    )
    await process.start()
    tenant = Tenant(api, namespace, process.agent_id)
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    await tenant.until_plans(["ro"])
    holder = await tenant.log_in("ro", postgres)
    await holder.execute("BEGIN; ALTER ROLE CURRENT_USER PASSWORD 'its own'")
    await tenant.annotate("ro", rotate_at="now")
    if not ends_sessions:
        plan = (await tenant.until_plans(["ro"], "ApplyFailed"))["ro"]
        remedy = ready(plan)[1].partition(" run: ")[2]
        await (await admin.connect()).execute(remedy.encode())
    await tenant.until_plan("ro", lambda plan: plan["status"].get("observedRotateAt") == "now", "rotated")
    assert await is_over(holder)
    await holder.close()
    async with await tenant.log_in("ro", postgres):
        pass


ADMINS = ["SUPERUSER", "CREATEROLE"]


@pytest.mark.parametrize("rights", ADMINS)
async def test_sessions_that_began_before_a_moment_are_ended_and_later_ones_are_not(
    roles: Roles, rights: str
) -> None:
    admin, database = await roles.role("admin"), await roles.database()
    await roles.run("postgres", f"ALTER ROLE {quoted(admin)} {rights}")
    await roles.act_as(admin, database)
    desired = roles.desired()
    await roles.settle(desired)
    granted = await members(roles, desired.name)
    early = await roles.login(desired.name, database)
    ((moment,),) = await roles.rows("postgres", "SELECT clock_timestamp()")
    late = await roles.login(desired.name, database)
    async with open_sessions(roles.connection, LIMITS, lambda _: True) as sessions:
        async with sessions.transaction() as transaction:
            capabilities = await read_capabilities(transaction)
        server, _ = await look(sessions, capabilities, [desired])
        fence = Fence(sessions, server, [desired])
        assert await end_former_sessions(sessions, fence, capabilities, desired, moment) == ""
    await eventually(lambda: is_over(early), what="the early session is ended")
    assert not await is_over(late)
    assert await members(roles, desired.name) == granted
    await late.close()


async def is_over(session: Session) -> bool:
    """Whether the server has ended a session."""
    try:
        await session.execute("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False


async def members(roles: Roles, name: str) -> list[TupleRow]:
    return await roles.rows(
        "postgres", "SELECT m.* FROM pg_auth_members m WHERE roleid = %(name)s::text::regrole", name=name
    )


@pytest.fixture
async def limited(admin: Administrator) -> AsyncIterator[str]:
    """An admin without superuser, who may hand out a group that reaches a superuser: `<name>_group`."""
    name = f"limited_{secrets.token_hex(4)}"
    session = await admin.connect()
    await session.execute(
        f"CREATE ROLE {name} LOGIN CREATEROLE PASSWORD 'limited'; CREATE ROLE {name}_boss SUPERUSER;"
        f"CREATE ROLE {name}_group; GRANT {name}_boss TO {name}_group;"
        f"GRANT {name}_group TO {name} WITH ADMIN OPTION; GRANT {name}_group TO {name}".encode()
    )
    yield name
    await session.execute(
        f"DROP OWNED BY {name}, {name}_group, {name}_boss; DROP ROLE {name}, {name}_group, {name}_boss".encode()
    )


@pytest.mark.parametrize("ending", ["off", "on", "out of reach"])
async def test_a_rotation_ends_sessions_where_the_setting_asks_for_it_and_stands_where_it_may_not(
    own_operator: Operators,
    api: KubernetesApi,
    namespace: str,
    postgres: Server,
    admin: Administrator,
    limited: str,
    ending: str,
) -> None:
    superuser = await admin.connect()
    process = own_operator(SETTINGS | {"HOOP_END_SESSIONS_ON_ROTATION": str(ending != "off").lower()})
    await process.start()
    tenant = Tenant(api, namespace, process.agent_id)
    source = f"{limited}_group" if ending == "out of reach" else f"{limited}_readers"
    if ending != "out of reach":
        await superuser.execute(
            f"CREATE ROLE {source}; GRANT {source} TO {limited} WITH ADMIN OPTION".encode()
        )
    resource = await tenant.resource(
        postgres, user=limited, password="limited", guardrails={"sourceRoles": [source]}
    )
    await tenant.plan("ext", resource, type="external", sourceRole=source)
    try:
        role = (await tenant.until_plans(["ext"]))["ext"]["status"]["role"]
        former = await tenant.log_in("ext", postgres)
        await tenant.annotate("ext", rotate_at="now")
        await tenant.until_plan(
            "ext", lambda plan: plan["status"].get("observedRotateAt") == "now", "rotated"
        )
        current = await tenant.log_in("ext", postgres)
        if ending == "on":
            await eventually(lambda: is_over(former), what="the former session is ended")
        else:
            assert not await is_over(former)

        async def warnings() -> list[tuple[str, str, str]]:
            events = await tenant.events("ext")
            return [event for event in events if event[1] == "SessionsNotEnded"]

        if ending == "out of reach":
            ((kind, _, note),) = await eventually(warnings, what="the warning")
            assert kind == "Warning"
            assert role in note
            await superuser.execute(note.partition(" run: ")[2].encode())
            await eventually(lambda: is_over(former), what="the SQL of the warning helps")
        else:
            assert await warnings() == []
        await tenant.annotate("ext", reconcile_at="again")
        await tenant.until_plans(["ext"])
        assert not await is_over(current)
        await current.close()
        await former.close()
    finally:
        await tenant.delete("ext")
        await tenant.until_gone("ext")
        await superuser.execute(f"DROP ROLE IF EXISTS {limited}_readers".encode())
