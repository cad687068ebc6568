"""What has to hold of a plan after whatever has happened."""

import psycopg
from psycopg.rows import TupleRow

from integration.tenant import Tenant, roles_of
from local.postgresql import Server

FINALIZER = "hoop.dev/operator"

Session = psycopg.AsyncConnection[TupleRow]


async def table_grants(session: Session, role: str) -> set[tuple[str, str]]:
    """What a role may do with which table of a session's database, by grants to itself."""
    rows = await session.execute(
        "SELECT c.relname, a.privilege_type FROM pg_class c, aclexplode(c.relacl) a"
        " JOIN pg_roles r ON r.oid = a.grantee WHERE r.rolname = %s AND c.relkind <> 'S'",
        (role,),
    )
    return {(row[0], row[1]) for row in await rows.fetchall()}


async def assert_whole(
    tenant: Tenant, plan: str, grants: set[tuple[str, str]], session: Session, server: Server
) -> None:
    """One role with exactly these grants, a Secret that logs in, our finalizer alone, and a history that adds up."""
    body = (await tenant.plans())[plan]
    status = body["status"]
    assert await roles_of(session, tenant.namespace, plan) == [status["role"]]
    assert await table_grants(session, status["role"]) == grants
    async with await tenant.log_in(plan, server) as logged_in:
        assert (await (await logged_in.execute("SELECT current_user")).fetchone()) == (status["role"],)
    assert body["metadata"]["finalizers"] == [FINALIZER]
    history = status["history"]
    assert history[0]["sid"] == status["sid"]
    assert history[0]["status"] == status["status"] == "success"
    assert status["message"] == ""
    assert len({entry["sid"] for entry in history}) == len(history)
    moments = [entry["finishedAt"] for entry in history]
    assert moments == sorted(moments, reverse=True)
