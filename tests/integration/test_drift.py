"""Drift: what somebody changed beside the operator is repaired, and told by the event, the history and the metric."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from hoop_operator.cluster import paths
from hoop_operator.reconcile.drift import DriftKind
from integration.administrator import Administrator
from integration.operator_process import OperatorProcess
from integration.scrape import scrape, series
from integration.tenant import Tenant, eventually
from local import ports
from local.postgresql import Server
from local.stack import Stack

Operators = Callable[[Mapping[str, str]], OperatorProcess]


class Site(NamedTuple):
    """Where a plan with SELECT and INSERT is Ready."""

    tenant: Tenant
    session: psycopg.AsyncConnection[TupleRow]
    """In the plan's database."""
    plan: str
    role: str

    async def run(self, *statements: str) -> None:
        """Run SQL, `{}` being the role."""
        for statement in statements:
            await self.session.execute(sql.SQL(statement).format(sql.Identifier(self.role)))


def by_sql(*statements: str) -> Callable[[Site], Awaitable[None]]:
    async def change(site: Site) -> None:
        await site.run(*statements)

    return change


async def delete_secret(site: Site) -> None:
    await site.tenant.api.delete(paths.secret(site.tenant.namespace, f"{site.plan}-credentials"))


async def edit_password(site: Site) -> None:
    await site.tenant.change_secret(f"{site.plan}-credentials", password="another password")


async def edit_host(site: Site) -> None:
    await site.tenant.change_secret(f"{site.plan}-credentials", host="elsewhere")


DROP = by_sql("DROP OWNED BY {}", "DROP ROLE {}")

CHANGES: dict[str, tuple[Callable[[Site], Awaitable[None]], DriftKind, str]] = {
    "role-dropped": (DROP, DriftKind.ROLE, "the role was gone and was created anew with its password"),
    "password-changed": (
        by_sql("ALTER ROLE {} PASSWORD 'another password'"),
        DriftKind.PASSWORD,
        "its password had been changed on the server and was set back",
    ),
    "no-login": (by_sql("ALTER ROLE {} NOLOGIN"), DriftKind.ATTRIBUTE, "LOGIN set again"),
    "grant-taken": (
        by_sql("REVOKE INSERT ON orders FROM {}"),
        DriftKind.GRANT_MISSING,
        'INSERT on table "public"."orders" in database "{database}" granted again',
    ),
    "grant-added": (
        by_sql("GRANT DELETE ON orders, customers TO {}"),
        DriftKind.GRANT_EXTRA,
        'extra DELETE on all tables in schema "public" in database "{database}" revoked',
    ),
    "default-privileges-taken": (
        by_sql("ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA public REVOKE INSERT ON TABLES FROM {}"),
        DriftKind.GRANT_MISSING,
        'INSERT on tables that "postgres" will create in schema "public" of database "{database}" granted again',
    ),
    "membership-added": (
        by_sql("GRANT pg_monitor TO {}"),
        DriftKind.MEMBERSHIP,
        'extra membership in "pg_monitor" revoked',
    ),
    "comment-lost": (
        by_sql("COMMENT ON ROLE {} IS NULL"),
        DriftKind.COMMENT,
        "its ownership comment was gone and was written again",
    ),
    "secret-deleted": (
        delete_secret,
        DriftKind.SECRET,
        "its Secret was gone and was made anew with another password",
    ),
    "secret-password-edited": (
        edit_password,
        DriftKind.SECRET,
        "the password in its Secret had been edited and was given to the server",
    ),
    "secret-edited": (edit_host, DriftKind.SECRET, "its Secret had been edited and was put right"),
}


async def until_repaired(tenant: Tenant, plan: str, server: Server) -> dict[str, Any]:
    """Wait until a run after the first one has repaired a plan's role, and one can log in."""
    repaired = await tenant.until_plan(
        plan, lambda plan: len(plan["status"]["history"]) > 1, f"{plan} is repaired"
    )

    async def told() -> bool:
        return bool(await tenant.events(plan))

    await eventually(told, what="an event about the repair")
    async with await tenant.log_in(plan, server) as session:
        await session.execute("SELECT FROM orders")
    return repaired


async def test_every_kind_of_drift_is_repaired_and_told_once(
    operator: Stack, tenant: Tenant, admin: Administrator, database: str, resource: str, postgres: Server
) -> None:
    for name in CHANGES:
        await tenant.plan(name, resource, scopes=[database], privileges=["SELECT", "INSERT"])
    plans = await tenant.until_plans(CHANGES)
    session = await admin.connect(database)
    # All at once: PostgreSQL refuses a change of a table's privileges that meets a repair of what was changed before.
    async with session.transaction():
        for name, (change, _, _) in CHANGES.items():
            await change(Site(tenant, session, name, plans[name]["status"]["role"]))
    told = {}
    for name in CHANGES:
        plan = await until_repaired(tenant, name, postgres)
        told[name] = await tenant.events(name)
        trigger, first = (run["trigger"] for run in plan["status"]["history"])
        # A Secret is watched; a look at the server may come first all the same.
        assert trigger in ({"secret", "drift"} if CHANGES[name][1] is DriftKind.SECRET else {"drift"})
        assert first == "spec"
    assert told == {
        name: [("Normal", "DriftRepaired", f"drift repaired: {words.replace('{database}', database)}")]
        for name, (_, _, words) in CHANGES.items()
    }
    found = await scrape(ports.remembered(operator.directory / "ports/operator"))
    assert series(found, "hoop_drift_total", namespace=tenant.namespace) == {
        frozenset({("name", name), ("kind", kind.value), ("outcome", "repaired")}): 1
        for name, (_, kind, _) in CHANGES.items()
    }


async def test_what_drifted_while_no_operator_ran_is_told_as_drift_by_the_next_one(
    own_operator: Operators,
    api: Any,
    namespace: str,
    admin: Administrator,
    database: str,
    postgres: Server,
) -> None:
    operator = own_operator({"HOOP_DRIFT_INTERVAL_SECONDS": "3600"})
    tenant = Tenant(api, namespace, operator.agent_id)
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await operator.start()
    await tenant.plan("rw", resource, scopes=[database], privileges=["SELECT", "INSERT"])
    status = (await tenant.until_plans(["rw"]))["rw"]["status"]
    operator.kill()
    site = Site(tenant, await admin.connect(database), "rw", status["role"])
    await DROP(site)
    await delete_secret(site)
    await operator.start()
    plan = await until_repaired(tenant, "rw", postgres)
    assert [run["trigger"] for run in plan["status"]["history"]] == ["drift", "spec"]
    words = "the role and its Secret were gone and were created anew with another password"
    assert await tenant.events("rw") == [("Normal", "DriftRepaired", f"drift repaired: {words}")]
    labels = {"namespace": namespace, "name": "rw"}
    assert series(await scrape(operator.port), "hoop_drift_total", **labels)
    assert series(await scrape(operator.port), "hoop_plan_condition", **labels)
    await tenant.delete("rw")
    await tenant.until_gone("rw")

    async def vanished() -> bool:
        found = await scrape(operator.port)
        return not any(having >= labels.items() for _, having in found)

    await eventually(vanished, what="no series of the plan is left")


async def test_what_a_neighbours_new_objects_bring_about_is_no_drift(
    tenant: Tenant, database: str, resource: str
) -> None:
    await tenant.plan("rw", resource, scopes=[database], privileges=["SELECT", "INSERT"])
    await tenant.until_plans(["rw"])
    await tenant.plan("maker", resource, scopes=[database], privileges=["CREATE"])
    plan = await tenant.until_plan(
        "rw", lambda plan: len(plan["status"]["history"]) > 1, "it covers the maker"
    )
    assert plan["status"]["history"][0]["trigger"] == "creators"

    async def told() -> bool:
        return bool(await tenant.events("rw"))

    await eventually(told, what="an event")
    assert [reason for _, reason, _ in await tenant.events("rw")] == ["Applied"]
