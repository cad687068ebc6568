"""A look at a big database, with every plan as it should be, against a plain scan of its catalogs.

The database has `TABLES` tables in `SCHEMAS` schemas, every other one with a sequence, and a routine in every schema.
`PLANS` plans ask for some of these schemas each; their roles hold what they ask for, granted by the operator's own
statements. What is measured is what a drift check of all of them does on the server and in the operator's process:
`look` and `plan_role`, for all plans at once and in turns of `PLANS_PER_TURN`.

The plain scan is what anybody has to do who wants to know every direct grant in a database: one query that reads every
catalog of the database with an ACL (`CATALOGS`), takes each ACL apart with `aclexplode`, and counts the entries by
kind; and the fetching of that answer. It is fair because it reads what a look has to read and nothing else: a grant
may hide on any object, so no look can skip one. It is cheaper than any look in that it sends back a dozen rows, knows
no role, no schema and no object by name, and has nothing to compare. Its session is open already, with the server's
own settings; a look connects to the database anew each time, as in the operator.
"""

import asyncio
import os
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

from psycopg import sql

from bench.scenario import open_session
from hoop_operator.crd import Privilege
from hoop_operator.planner.model import DesiredRole, Identity
from hoop_operator.planner.plan import RolePlan, plan_role
from hoop_operator.planner.scopes import Scope
from hoop_operator.planner.statements import chunks, merge
from hoop_operator.postgres import scram
from hoop_operator.postgres.capabilities import read_capabilities
from hoop_operator.postgres.executor import execute
from hoop_operator.postgres.session import Limits, Sessions, open_sessions
from hoop_operator.reconcile.inbox import PLANS_PER_TURN
from hoop_operator.reconcile.turn import look
from integration.roles import administrator_connection
from local import postgresql
from local.postgresql import Server
from local.progress import step
from local.stack import Stack

TABLES = 10_000
SCHEMAS = 100
PLANS = 500
SCOPES_PER_PLAN = (1, 10)
"""With 5 and with 50 of the plans' roles on every table."""
ROUNDS = 5
NAME = "size"
LIMITS = Limits(sessions=4, connect_seconds=10, lock_seconds=10, statement_seconds=600)

CATALOGS: LiteralString = """
    SELECT 'relation' AS kind, relacl AS acl FROM pg_catalog.pg_class
    UNION ALL SELECT 'column', attacl FROM pg_catalog.pg_attribute
    UNION ALL SELECT 'routine', proacl FROM pg_catalog.pg_proc
    UNION ALL SELECT 'schema', nspacl FROM pg_catalog.pg_namespace
    UNION ALL SELECT 'type', typacl FROM pg_catalog.pg_type
    UNION ALL SELECT 'language', lanacl FROM pg_catalog.pg_language
    UNION ALL SELECT 'large object', lomacl FROM pg_catalog.pg_largeobject_metadata
    UNION ALL SELECT 'foreign data wrapper', fdwacl FROM pg_catalog.pg_foreign_data_wrapper
    UNION ALL SELECT 'foreign server', srvacl FROM pg_catalog.pg_foreign_server
    UNION ALL SELECT 'default', defaclacl FROM pg_catalog.pg_default_acl
"""
SCAN: LiteralString = (
    "SELECT c.kind, pg_catalog.count(*) FROM ({}) AS c, pg_catalog.aclexplode(c.acl) GROUP BY c.kind"
)


@dataclass
class Result:
    """What was measured with one number of scopes per plan; the best of `ROUNDS` rounds, in seconds."""

    scopes_per_plan: int
    acl_entries: int
    """What the plain scan counts."""
    scan: float
    at_once: float
    """A look at all plans at once."""
    turn: float
    """A look at one turn's plans."""
    turns: float
    """A look at all plans, turn by turn."""
    peak_rss_mib: float
    """Of this process, which granted it all and looked at it."""


def run() -> list[Result]:
    """Measure on a server of its own that is gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="hoop-bench-"))
    directory.chmod(0o755)  # where PostgreSQL runs as another user than root, that user enters here
    stack = Stack(directory)
    try:
        server = stack.start_postgres(os.environ.get("PG") or postgresql.DEFAULT_VERSION)
        with step(f"{TABLES:,} tables in {SCHEMAS} schemas"):
            asyncio.run(_fill(server))
        return [asyncio.run(_measure(server, scopes)) for scopes in SCOPES_PER_PLAN]
    finally:
        with step("Clearing away"):
            stack.destroy()


async def _fill(server: Server) -> None:
    async with open_session(server, server.database) as session:
        await session.execute(f"CREATE DATABASE {NAME}".encode())
    async with open_session(server, NAME) as session:
        await session.execute("SET log_statement = 'none'")
        for number in range(SCHEMAS):
            # Each in a transaction of its own, so that the server's locks are enough.
            await session.execute(_schema(number).encode())
        await session.execute("VACUUM ANALYZE")


def _schema(number: int) -> str:
    return f"""
        DO $$ BEGIN
            CREATE SCHEMA s{number:03};
            CREATE FUNCTION s{number:03}.f(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
            FOR i IN 1..{TABLES // SCHEMAS} LOOP
                EXECUTE format('CREATE TABLE s{number:03}.t%s (id %s, name text, at timestamptz)',
                               i, CASE i % 2 WHEN 0 THEN 'serial' ELSE 'int' END);
            END LOOP;
        END $$
    """


async def _measure(server: Server, scopes_per_plan: int) -> Result:
    plans = [_plan(number, scopes_per_plan) for number in range(PLANS)]
    async with open_sessions(administrator_connection(server), LIMITS, lambda _: True) as sessions:
        async with sessions.transaction() as transaction:
            capabilities = await read_capabilities(transaction)

        async def examine(desired: Sequence[DesiredRole]) -> list[RolePlan]:
            seen = await look(sessions, capabilities, desired)
            return [plan_role(one, *seen) for one in desired]

        async def turn_by_turn() -> list[RolePlan]:
            return [planned for part in chunks(plans, PLANS_PER_TURN) for planned in await examine(part)]

        with step(f"{PLANS} plans of {scopes_per_plan} scopes each"):
            await _apply(sessions, await examine(plans))
            async with open_session(server, NAME) as session:
                await session.execute("VACUUM ANALYZE")
        assert not any(planned.statements or planned.problems for planned in await turn_by_turn())
        with step("Look"):
            async with open_session(server, NAME) as session:
                scan = sql.SQL(SCAN).format(sql.SQL(CATALOGS))
                counted = await (await session.execute(scan)).fetchall()

                async def plain() -> None:
                    await (await session.execute(scan)).fetchall()

                works: dict[str, Callable[[], Awaitable[object]]] = {
                    "scan": plain,
                    "at_once": lambda: examine(plans),
                    "turn": lambda: examine(plans[:PLANS_PER_TURN]),
                    "turns": turn_by_turn,
                }
                seconds = await _best(works)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Result(scopes_per_plan, sum(count for _, count in counted), **seconds, peak_rss_mib=peak)


async def _best(works: Mapping[str, Callable[[], Awaitable[object]]]) -> dict[str, float]:
    """How long each takes at best, all in turn in every round: what else goes on on the machine only adds to it."""
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for name, work in works.items():
            began = time.monotonic()
            await work()
            times[name].append(time.monotonic() - began)
    return {name: min(found) for name, found in times.items()}


def _plan(number: int, scopes: int) -> DesiredRole:
    """A plan on neighbouring schemas; plans on the same ones are of two kinds."""
    privileges = (
        {Privilege.SELECT, Privilege.INSERT, Privilege.UPDATE, Privilege.DELETE, Privilege.EXECUTE}
        if number // SCHEMAS % 2
        else {Privilege.SELECT}
    )
    return DesiredRole(
        f"hoopdev_{NAME}_p{number}",
        Identity("bench", NAME, f"plan-{number}"),
        scopes=frozenset(Scope(NAME, f"s{(number + step) % SCHEMAS:03}") for step in range(scopes)),
        privileges=frozenset(privileges),
    )


async def _apply(sessions: Sessions, planned: Sequence[RolePlan]) -> None:
    verifier = scram.make_verifier("what it stands for does not matter")
    statements = [statement for one in planned for statement in one.statements]
    for database in (None, NAME):
        async with sessions.transaction(database, write=True) as transaction:
            verifiers = {s.verifier_of: verifier for s in statements if s.verifier_of}
            await execute(transaction, merge(s for s in statements if s.database == database), verifiers)
