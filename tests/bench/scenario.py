"""The story that is measured: many plans at once, a restart with all of them unchanged, a look for drift."""

import asyncio
import os
import re
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from bench.client import MERGE_PATCH, Client, as_administrator, as_operator
from bench.floor import Written, send_api_writes, send_sql, write_transactions
from bench.measure import Cost, Meter
from local import postgresql
from local.postgresql import Server
from local.progress import step
from local.stack import Stack

TABLES = 20
WARM_UP_PLANS = 100
NAME = "bench"
"""Of the namespace, the resource and the database."""
RESOURCES = f"/apis/hoop.dev/v1alpha1/namespaces/{NAME}/hoopresources"
PLANS = f"/apis/hoop.dev/v1alpha1/namespaces/{NAME}/hooproleplans"
SECRETS = f"/api/v1/namespaces/{NAME}/secrets"
ROLE = re.compile(rf"hoopdev_{NAME}_p\d+_[0-9a-f]{{8}}")

READ_ONLY = ["SELECT"]
READ_WRITE = ["SELECT", "INSERT", "UPDATE", "DELETE"]

DRIFT_SECONDS = 20
MOMENT_SECONDS = 0.02
PATIENCE_SECONDS = 60
PATIENCE_SECONDS_PER_PLAN = 0.3

PROFILER = Path(__file__).parent / "profiled"


class NotReady(Exception):
    """Plans or their resource did not become Ready in time."""


@dataclass
class Creation:
    """How many new plans became Ready."""

    cost: Cost
    created_seconds: float
    """Until the last plan was accepted by the API server."""
    half_ready_seconds: float
    ready_seconds: float
    """Until the last plan was Ready, from before the first was sent."""


@dataclass
class Look:
    """A look at plans that are as they should be."""

    cost: Cost
    looked_at: int
    """Plans whose roles PostgreSQL was asked about."""


@dataclass
class Result:
    """Everything measured with one number of plans."""

    plans: int
    creation: Creation
    restart: Look
    drift: Look
    floor: dict[str, Cost] = field(default_factory=dict)


async def run(plans: int, profile: Path | None) -> Result:
    """Measure with a number of plans, on a stack of its own that is gone afterwards.

    Raises
    ------
    NotReady
        The operator did not bring every plan to Ready.
    """
    stack = new_stack()
    try:
        server = start_servers(stack)
        return await _measure(stack, server, plans, profile)
    finally:
        with step("Clearing away"):
            stack.destroy()


def new_stack() -> Stack:
    """A stack in a directory of its own, of which nothing runs yet."""
    directory = Path(tempfile.mkdtemp(prefix="hoop-bench-"))
    directory.chmod(0o755)  # where PostgreSQL runs as another user than root, that user enters here
    return Stack(directory)


def start_servers(stack: Stack) -> Server:
    """Start the API server, and a PostgreSQL that counts statements where it can."""
    version = os.environ.get("PG") or postgresql.DEFAULT_VERSION
    stack.start_control_plane()
    stack.apply_manifests()
    server = stack.start_postgres(version)
    with psycopg.connect(**_dsn(server, server.database), autocommit=True) as session:
        # A thousand roles are thousands of statements that differ in a name; none may be forgotten.
        session.execute("ALTER SYSTEM SET pg_stat_statements.max = 100000")
        session.execute("ALTER SYSTEM SET pg_stat_statements.track = 'all'")
    stack.stop_postgres()
    return stack.start_postgres(version)


async def _measure(stack: Stack, server: Server, plans: int, profile: Path | None) -> Result:
    async with AsyncExitStack() as clients:
        admin = await clients.enter_async_context(as_administrator(stack))
        session = await clients.enter_async_context(open_session(server, server.database))
        meter = Meter(stack, server, admin, session)
        await meter.prepare()
        await fill_database(server, session, NAME)
        await warm_up(admin)
        stack.start_operator(_profiler(profile, "creation"))
        await _register(admin, server)
        with step(f"{plans} new plans"):
            creation = await _create(meter, admin, plans)
        written = await _written(admin, creation.cost)
        stack.stop_operator()
        restart = await _restart(meter, stack, profile)
        with step(f"Look for drift, every {DRIFT_SECONDS} s"):
            drift = await _look_for_drift(meter)
        result = Result(plans, creation, restart, drift)
        operator = await clients.enter_async_context(as_operator(stack))
        stack.stop_operator()
        for name, sends_api_writes, transactions in (
            ("sql", False, written.transactions),
            ("sql one by one", False, written.one_by_one()),
            ("api", True, []),
            ("both", True, written.transactions),
        ):
            with step(f"Floor: {name}"):
                place = name.replace(" ", "-")
                await fill_database(server, session, place)
                await admin.create("/api/v1/namespaces", {"metadata": {"name": place}})
                async with meter.measuring() as cost:
                    began = time.monotonic()
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(send_sql(server, written, transactions, place))
                        if sends_api_writes:
                            tasks.create_task(send_api_writes(admin, operator, written, place))
                    cost.seconds = time.monotonic() - began
                result.floor[name] = cost
        return result


async def _create(meter: Meter, admin: Client, count: int) -> Creation:
    manifests = [_plan(number) for number in range(count)]
    names = {manifest["metadata"]["name"] for manifest in manifests}
    async with meter.measuring() as cost:
        began = time.monotonic()
        watching = asyncio.create_task(ready_times(admin, names))
        await asyncio.gather(*(admin.create(PLANS, manifest) for manifest in manifests))
        created = time.monotonic() - began
        times = sorted(at - began for at in (await watching).values())
        cost.seconds = times[-1]
    return Creation(cost, created, statistics.median(times), times[-1])


async def ready_times(admin: Client, names: set[str]) -> dict[str, float]:
    """When each plan was first seen Ready, on the monotonic clock.

    Raises
    ------
    NotReady
        One was not in time.
    """
    ready: dict[str, float] = {}
    messages: dict[str, str] = {}
    patience = PATIENCE_SECONDS + PATIENCE_SECONDS_PER_PLAN * len(names)

    def see(plan: Mapping[str, Any]) -> None:
        name, condition = plan["metadata"]["name"], ready_condition(plan)
        messages[name] = f"{condition.get('reason')}: {condition.get('message')}"
        if condition.get("status") == "True":
            ready.setdefault(name, time.monotonic())

    async def follow() -> None:
        # The API server ends a watch whose reader is slow for a moment; then all are listed anew.
        while True:
            listed = await admin.get(PLANS)
            for plan in listed["items"]:
                see(plan)
            if len(ready) == len(names):
                return
            async for event in admin.watch(PLANS, listed["metadata"]["resourceVersion"]):
                if event["type"] == "ERROR":
                    break
                see(event["object"])
                if len(ready) == len(names):
                    return

    try:
        await asyncio.wait_for(follow(), patience)
    except TimeoutError:
        late = sorted(names - ready.keys())
        shown = "\n".join(f"  {name}: {messages.get(name, 'never seen')}" for name in late[:5])
        raise NotReady(
            f"{len(late)} of {len(names)} plans were not Ready after {patience:.0f} s:\n{shown}"
        ) from None
    return ready


async def _restart(meter: Meter, stack: Stack, profile: Path | None) -> Look:
    position = meter.log_size()
    async with meter.measuring() as cost:
        settings = {"HOOP_DRIFT_INTERVAL_SECONDS": str(DRIFT_SECONDS)}
        stack.start_operator(settings | _profiler(profile, "restart"))
        busy_until = await meter.quiet()
        cost.seconds = busy_until - meter.operator_started()
    return Look(cost, _roles_asked_about(meter, position))


async def _look_for_drift(meter: Meter) -> Look:
    async with meter.measuring() as cost:
        position = meter.log_size()
        for _ in range(round(2 * DRIFT_SECONDS / MOMENT_SECONDS)):
            if meter.log_size() != position:
                break
            await asyncio.sleep(MOMENT_SECONDS)
        began = time.monotonic()
        cost.seconds = await meter.quiet() - began
    return Look(cost, _roles_asked_about(meter, position))


def _roles_asked_about(meter: Meter, position: int) -> int:
    return len(set(ROLE.findall(meter.log_text(position))))


async def _written(admin: Client, cost: Cost) -> Written:
    plans = {plan["metadata"]["name"]: plan for plan in (await admin.get(PLANS))["items"]}
    secrets = {secret["metadata"]["name"]: secret for secret in (await admin.get(SECRETS))["items"]}
    return Written(
        database=NAME,
        plans=[
            {**plan, "apiVersion": "hoop.dev/v1alpha1", "kind": "HoopRolePlan"} for plan in plans.values()
        ],
        secrets=[secrets[plan["status"]["secretName"]] for plan in plans.values()],
        transactions=write_transactions(cost.log),
    )


async def warm_up(admin: Client) -> None:
    """Have the API server do once what it does for every plan: its first requests of a kind are much dearer."""
    place = "warm-up"
    path = PLANS.replace(NAME, place)
    await admin.create("/api/v1/namespaces", {"metadata": {"name": place}})

    async def touch(number: int) -> None:
        plan = _plan(number)
        name = plan["metadata"]["name"]
        await admin.create(path, plan)
        await admin.patch(f"{path}/{name}/status", {"status": {"message": "warm"}}, MERGE_PATCH)
        await admin.create(f"/api/v1/namespaces/{place}/secrets", {"metadata": {"name": name}})
        await admin.delete(f"{path}/{name}")

    await asyncio.gather(*map(touch, range(WARM_UP_PLANS)))


async def _register(admin: Client, server: Server) -> None:
    await admin.create("/api/v1/namespaces", {"metadata": {"name": NAME}})
    credentials = {
        "host": server.host,
        "port": str(server.port),
        "username": server.user,
        "password": server.password,
        "dbname": NAME,
    }
    await admin.create(SECRETS, {"metadata": {"name": "admin"}, "stringData": credentials})
    resource = {
        "apiVersion": "hoop.dev/v1alpha1",
        "kind": "HoopResource",
        "metadata": {"name": NAME},
        "spec": {
            "type": "database",
            "subtype": "postgres",
            "envVarsFrom": [{"secretRef": {"name": "admin"}}],
        },
    }
    await admin.create(RESOURCES, resource)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        condition = ready_condition(await admin.get(f"{RESOURCES}/{NAME}"))
        if condition.get("status") == "True":
            return
        if time.monotonic() > deadline:
            raise NotReady(f"the HoopResource: {condition.get('reason')}: {condition.get('message')}")
        await asyncio.sleep(MOMENT_SECONDS)


def _plan(number: int) -> dict[str, Any]:
    return {
        "apiVersion": "hoop.dev/v1alpha1",
        "kind": "HoopRolePlan",
        "metadata": {"name": f"plan-{number:04}"},
        "spec": {
            "resourceRef": {"name": NAME},
            "type": "managed",
            "role": f"p{number}",
            "scopes": [NAME],
            "privileges": READ_WRITE if number % 2 else READ_ONLY,
        },
    }


def ready_condition(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The condition Ready of an object; empty where it has none."""
    conditions = body.get("status", {}).get("conditions", ())
    return next((found for found in conditions if found["type"] == "Ready"), {})


def _profiler(profile: Path | None, phase: str) -> dict[str, str]:
    if profile is None:
        return {}
    return {"PYTHONPATH": str(PROFILER), "HOOP_BENCH_PROFILE": f"{profile}-{phase}.txt"}


def _dsn(server: Server, database: str) -> dict[str, Any]:
    return {
        "host": server.host,
        "port": server.port,
        "user": server.user,
        "password": server.password,
        "dbname": database,
    }


@asynccontextmanager
async def open_session(server: Server, database: str) -> AsyncIterator[psycopg.AsyncConnection[TupleRow]]:
    """A session as the administrator, closed at the end."""
    async with await psycopg.AsyncConnection.connect(**_dsn(server, database), autocommit=True) as session:
        yield session


async def fill_database(
    server: Server, session: psycopg.AsyncConnection[TupleRow], database: str, tables: int = TABLES
) -> None:
    """Make a database of some tables, every other one with a sequence of its own."""
    await session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    async with await psycopg.AsyncConnection.connect(**_dsn(server, database), autocommit=True) as inside:
        for number in range(tables):
            key = sql.SQL("serial" if number % 2 else "bigint")
            await inside.execute(
                sql.SQL("CREATE TABLE {} (id {} PRIMARY KEY, name text, at timestamptz)").format(
                    sql.Identifier(f"table_{number:02}"), key
                )
            )
