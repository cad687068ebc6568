"""Several processes: one leads, another takes over, and where two believe to lead nothing comes of it."""

import asyncio
import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from integration.administrator import Administrator
from integration.aftermath import assert_whole
from integration.operator_process import OperatorProcess
from integration.proxy import Proxy
from integration.scrape import scrape, series
from integration.tenant import PATIENCE_SECONDS, Tenant, eventually, roles_of
from local import kubeconfig
from local.postgresql import Server

pytestmark = pytest.mark.version_independent

LEASE_SECONDS = 12
NAMESPACE = "hoop-system"
QUICK = {"HOOP_RETRY_SECONDS_MAX": "1", "HOOP_CONNECT_TIMEOUT_SECONDS": "2"}
ELECTED = {"HOOP_LEASE_NAMESPACE": NAMESPACE, "HOOP_LEASE_SECONDS": str(LEASE_SECONDS), **QUICK}
LOST = 3
SLOW_END = """
import sys, time

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(60)

sys.last_to_go = Slow()
"""
"""A module that keeps Python's tidying up from ending, when no other thread runs any more."""

SELECTS = {("orders", "SELECT")}
INSERTS = {("orders", "INSERT")}

Session = psycopg.AsyncConnection[TupleRow]
MakeOperator = Callable[[Mapping[str, str]], OperatorProcess]


@pytest.fixture
async def database(admin: Administrator) -> str:
    name = await admin.create_database()
    session = await admin.connect(name)
    await session.execute("CREATE TABLE orders (id int)")
    return name


def replicas(make: MakeOperator, settings: Mapping[str, str]) -> tuple[OperatorProcess, OperatorProcess]:
    """Two processes of one operator."""
    agent_id = {"HOOP_AGENT_ID": str(uuid.uuid4())}
    return make({**settings, **agent_id}), make({**settings, **agent_id})


def tenant_of(process: OperatorProcess, api: KubernetesApi, namespace: str) -> Tenant:
    return Tenant(api, namespace, process.settings.get("HOOP_AGENT_ID", process.agent_id))


async def until_said(process: OperatorProcess, words: str) -> None:
    async def said() -> bool:
        return words in process.said()

    await eventually(said, what=words)


def when_said(process: OperatorProcess, words: str) -> datetime:
    """When a process printed the line with some words."""
    (line,) = (line for line in process.said().splitlines() if words in line)
    return datetime.fromisoformat(json.loads(line)["time"])


async def holder(api: KubernetesApi, process: OperatorProcess) -> str:
    """Who holds the lease of a process and its like."""
    lease = await api.get(paths.lease(NAMESPACE, f"hoop-operator-{process.settings['HOOP_AGENT_ID']}"))
    return str(lease["spec"]["holderIdentity"])


async def leads(process: OperatorProcess) -> float:
    """What a process' metrics say of whether it leads."""
    return series(await scrape(process.port), "hoop_leader")[frozenset()]


async def through(process: OperatorProcess, path: Path) -> Proxy:
    """Have a process reach the API server by a proxy."""
    config = kubeconfig.read(process.kubeconfig)
    described = config["clusters"][0]["cluster"]
    proxy = Proxy(int(described["server"].rpartition(":")[2]))
    await proxy.open()
    described["server"] = f"https://127.0.0.1:{proxy.port}"
    process.kubeconfig = path
    kubeconfig.save(path, config)
    return proxy


async def test_one_leads_and_another_takes_over_when_it_ends_or_vanishes(
    own_operator: MakeOperator,
    api: KubernetesApi,
    namespace: str,
    postgres: Server,
    admin: Administrator,
    database: str,
) -> None:
    first, second = replicas(own_operator, ELECTED)
    tenant = tenant_of(first, api, namespace)
    await first.start()
    await until_said(first, "Leading, by the lease")
    await second.start()
    await until_said(second, "Standing by, the lease")
    other = own_operator({**ELECTED, "HOOP_AGENT_ID": str(uuid.uuid4())})
    await other.start()
    await until_said(other, "Leading, by the lease")

    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await tenant.plan("early", resource, scopes=[database], privileges=["SELECT"])
    await tenant.until_plans(["early"])
    about_it = '"name": "early"'
    await until_said(first, about_it)
    assert about_it not in second.said()
    assert (await leads(first), await leads(second)) == (1, 0)

    first.kill()
    await tenant.plan("late", resource, scopes=[database], privileges=["SELECT"])
    await tenant.until_plans(["late"])
    await until_said(second, "Leading, by the lease")

    await first.start()
    await until_said(first, "Standing by, the lease")
    assert (await leads(first), await leads(second)) == (0, 1)
    before = await holder(api, second)
    assert await second.stop(PATIENCE_SECONDS) == 0
    # Given back, or taken already: it need not run out.
    assert await holder(api, second) != before
    await tenant.change("early", privileges=["INSERT"])
    await tenant.until_plans(["early"])
    session = await admin.connect(database)
    await assert_whole(tenant, "early", INSERTS, session, postgres)
    await assert_whole(tenant, "late", SELECTS, session, postgres)


async def test_a_resource_that_moves_to_another_operator_takes_its_roles_and_passwords_along(
    own_operator: MakeOperator,
    api: KubernetesApi,
    namespace: str,
    postgres: Server,
    admin: Administrator,
    database: str,
) -> None:
    looks = {**QUICK, "HOOP_DRIFT_INTERVAL_SECONDS": "1"}
    first, second = own_operator(looks), own_operator(looks)
    tenant = tenant_of(first, api, namespace)
    await asyncio.gather(first.start(), second.start())
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    before = (await tenant.until_plans(["ro"]))["ro"]
    password = (await tenant.secret("ro"))["password"]
    assert resource not in second.said()

    await tenant.change_resource(resource, agentId=second.agent_id)

    async def moved() -> bool:
        return bool((await tenant.resources())[resource]["status"]["observedGeneration"] == 2)

    await eventually(moved, what="the other operator looks at the resource")
    silent_from = len(first.said())
    await tenant.change("ro", privileges=["INSERT"])
    session = await admin.connect(database)
    after = (await tenant.until_plans(["ro"]))["ro"]
    assert after["status"]["roleOid"] == before["status"]["roleOid"]
    assert (await tenant.secret("ro"))["password"] == password
    await assert_whole(tenant, "ro", INSERTS, session, postgres)
    written = {run["sid"] for run in after["status"]["history"]} - {before["status"]["sid"]}
    assert all(sid in second.said() for sid in written)
    await session.execute(
        sql.SQL("REVOKE INSERT ON orders FROM {}").format(sql.Identifier(after["status"]["role"]))
    )

    async def repaired() -> bool:
        return "DriftRepaired" in [reason for _, reason, _ in await tenant.events("ro")]

    await eventually(repaired, what="the other operator repairs what drifts")
    await assert_whole(tenant, "ro", INSERTS, session, postgres)
    await tenant.delete("ro")
    await tenant.until_gone("ro")
    assert await roles_of(session, namespace, "ro") == []

    async def let_go_of_the_server() -> bool:
        return not series(await scrape(first.port), "hoop_inbox_plans")

    await eventually(let_go_of_the_server, what="the first one keeps no inbox of the server")
    about_them = [f'"name": "{name}"' for name in ("ro", resource)]
    assert not any(words in first.said()[silent_from:] for words in about_them)


async def test_a_leader_that_was_frozen_in_a_transaction_changes_nothing_when_it_wakes_up(
    own_operator: MakeOperator,
    api: KubernetesApi,
    namespace: str,
    postgres: Server,
    admin: Administrator,
    database: str,
) -> None:
    first, second = replicas(own_operator, ELECTED)
    tenant = tenant_of(first, api, namespace)
    armed, frozen = False, asyncio.Event()

    async def freeze(piece: bytes) -> None:
        if armed and b"READ WRITE" in piece and not frozen.is_set():
            os.kill(first.pid, signal.SIGSTOP)
            frozen.set()

    proxy = Proxy(postgres.port, freeze)
    await proxy.open()
    try:
        await first.start()
        await until_said(first, "Leading, by the lease")
        await second.start()
        resource = await tenant.resource(
            postgres, user=postgres.user, password=postgres.password, port=proxy.port
        )
        names = ["changed", "rotated", "deleted"]
        for name in names:
            await tenant.plan(name, resource, scopes=[database], privileges=["SELECT"])
        await tenant.until_plans(names)
        armed = True
        await tenant.change("changed", privileges=["SELECT", "UPDATE"])
        await asyncio.wait_for(frozen.wait(), PATIENCE_SECONDS)
        await tenant.change("changed", privileges=["INSERT"])
        await tenant.annotate("rotated", rotate_at="now")
        await tenant.delete("deleted")
        await tenant.until_plans(["changed"])
        await tenant.until_plan(
            "rotated", lambda plan: plan["status"].get("observedRotateAt") == "now", "rotated"
        )
        await tenant.until_gone("deleted")
        os.kill(first.pid, signal.SIGCONT)
        assert await first.ended(PATIENCE_SECONDS) == LOST
        assert "could not be renewed" in first.said()
        await tenant.annotate("changed", reconcile_at="now")
        await tenant.until_plans(["changed"])
        session = await admin.connect(database)
        await assert_whole(tenant, "changed", INSERTS, session, postgres)
        await assert_whole(tenant, "rotated", SELECTS, session, postgres)
        assert not await roles_of(session, namespace, "deleted")
    finally:
        with suppress(ProcessLookupError):
            os.kill(first.pid, signal.SIGCONT)
        await proxy.close()


async def test_a_leader_that_cannot_renew_its_lease_stops_before_another_may_lead(
    own_operator: MakeOperator, tmp_path: Path
) -> None:
    first, second = replicas(own_operator, ELECTED)
    proxy = await through(first, tmp_path / "kubeconfig")
    try:
        await first.start()
        await until_said(first, "Leading, by the lease")
        await second.start()
        proxy.silent = True
        assert await first.ended(PATIENCE_SECONDS) == LOST
        await until_said(second, "Leading, by the lease")
        assert when_said(first, "another operator may lead soon") < when_said(second, "Leading, by the lease")
    finally:
        await proxy.close()


async def test_two_that_both_lead_keep_every_promise(
    own_operator: MakeOperator,
    api: KubernetesApi,
    namespace: str,
    postgres: Server,
    admin: Administrator,
    database: str,
) -> None:
    processes = replicas(own_operator, {**QUICK, "HOOP_DRIFT_INTERVAL_SECONDS": "2"})
    tenant = tenant_of(processes[0], api, namespace)
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await asyncio.gather(*(process.start() for process in processes))
    names = [f"plan-{number}" for number in range(12)]
    session = await admin.connect(database)

    async def make(name: str) -> None:
        await tenant.plan(name, resource, scopes=[database], privileges=["SELECT"])

    await asyncio.gather(*map(make, names))
    for number in range(6):
        await asyncio.gather(
            *(tenant.change(name, privileges=[["SELECT"], ["INSERT"]][number % 2]) for name in names[:4]),
            *(tenant.annotate(name, rotate_at=str(number)) for name in names[4:8]),
            *(tenant.delete(name) for name in names[8:]),
        )
        await asyncio.gather(*(tenant.until_gone(name) for name in names[8:]))
        await asyncio.gather(*map(make, names[8:]))
    await tenant.until_plans(names, seconds=90)

    async def rotated() -> bool:
        plans = await tenant.plans()
        return all(plans[name]["status"].get("observedRotateAt") == "5" for name in names[4:8])

    await eventually(rotated, what="every rotation is answered")

    async def whole() -> bool:
        with suppress(AssertionError, psycopg.OperationalError, KeyError):
            for name in names:
                expected = INSERTS if name in names[:4] else SELECTS
                await assert_whole(tenant, name, expected, session, postgres)
            return True
        return False

    await eventually(whole, what="every promise holds")
    # And they do not fight: a look of both of them changes nothing.
    before = await versions_of(session, namespace)
    assert len(before) == len(names)
    for name in names:
        await tenant.annotate(name, reconcile_at="now")
    await tenant.until_plans(names)
    assert await versions_of(session, namespace) == before
    assert await whole()


async def versions_of(session: Session, namespace: str) -> list[tuple[str, str]]:
    """Each plan's role with the transaction that last changed it."""
    rows = await session.execute(
        "SELECT r.rolname::text, d.xmin::text FROM pg_roles r JOIN pg_shdescription d ON d.objoid = r.oid"
        " AND d.classoid = 'pg_authid'::regclass WHERE d.description LIKE %s ORDER BY 1",
        (f"%/{namespace}/%",),
    )
    return [(row[0], row[1]) for row in await rows.fetchall()]


@pytest.mark.parametrize(
    "during", ["work", "silence of PostgreSQL", "silence of the API server", "slowness of Python's own end"]
)
async def test_it_ends_within_ten_seconds_whatever_it_is_doing(
    own_operator: MakeOperator,
    api: KubernetesApi,
    namespace: str,
    postgres: Server,
    admin: Administrator,
    database: str,
    tmp_path: Path,
    during: str,
) -> None:
    settings = {**ELECTED, "HOOP_LEASE_SECONDS": "60", "HOOP_AGENT_ID": str(uuid.uuid4())}
    if during == "slowness of Python's own end":
        (tmp_path / "sitecustomize.py").write_text(SLOW_END)
        settings["PYTHONPATH"] = str(tmp_path)
    process = own_operator(settings)
    tenant = tenant_of(process, api, namespace)
    session = await admin.connect()
    holder_of_lock = await admin.connect(database)
    await holder_of_lock.execute("BEGIN; GRANT SELECT ON orders TO pg_monitor")
    login = f"admin_{namespace.replace('-', '_')}"
    await session.execute(f"CREATE ROLE {login} SUPERUSER LOGIN PASSWORD 'secret'".encode())
    server, kubernetes = Proxy(postgres.port), await through(process, tmp_path / "kubeconfig")
    await server.open()
    try:
        await process.start()
        resource = await tenant.resource(postgres, user=login, password="secret", port=server.port)
        await tenant.until_resource(resource)
        names = [f"plan-{number}" for number in range(150)]
        await asyncio.gather(
            *(tenant.plan(name, resource, scopes=[database], privileges=["SELECT"]) for name in names)
        )

        async def at_work() -> bool:
            rows = await session.execute(
                "SELECT FROM pg_stat_activity WHERE usename = %s AND wait_event_type = 'Lock'", (login,)
            )
            return bool(await rows.fetchall())

        await eventually(at_work, what="it is at work")
        server.silent = during == "silence of PostgreSQL"
        kubernetes.silent = during == "silence of the API server"
        os.kill(process.pid, signal.SIGTERM)
        begun = time.monotonic()
        assert await process.stop(10) == 0  # a second signal is harmless
        assert time.monotonic() - begun < 10
        await server.close()

        async def nothing_left() -> bool:
            rows = await session.execute("SELECT FROM pg_stat_activity WHERE usename = %s", (login,))
            return not await rows.fetchall()

        await eventually(nothing_left, what="no session is left on the server")
    finally:
        process.kill()
        await server.close()
        await kubernetes.close()
        await session.execute(f"DROP ROLE {login}".encode())
