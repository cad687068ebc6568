"""What waits for approval, what goes on meanwhile, and that one approval is good for one apply."""

from collections.abc import Callable, Mapping
from typing import Any

import psycopg
import pytest
from psycopg import sql

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.errors import ObjectConflict, PlanReason
from hoop_operator.naming import role_name
from hoop_operator.planner.statements import Phase, Statement
from hoop_operator.reconcile.approval import claim
from hoop_operator.reconcile.objects import Plan
from hoop_operator.reconcile.run import Run
from integration.administrator import Administrator
from integration.operator_process import OperatorProcess
from integration.scrape import scrape, series
from integration.tenant import Tenant, eventually, ready
from local import ports
from local.postgresql import Server
from local.stack import Stack

pytestmark = pytest.mark.version_independent

FINALIZER = "hoop.dev/operator"
MANUAL: dict[str, Any] = {"approval": "Manual", "privileges": ["SELECT"]}
PENDING = PlanReason.PENDING_APPROVAL


def conditions(plan: Mapping[str, Any]) -> dict[str, str]:
    return {entry["type"]: entry["status"] for entry in plan["status"]["conditions"]}


def checksum(plan: Mapping[str, Any]) -> str:
    return str(plan["status"]["plan"]["checksum"])


async def pending(tenant: Tenant, plan: str) -> dict[str, Any]:
    return (await tenant.until_plans([plan], PENDING))[plan]


async def applied(tenant: Tenant, plan: str) -> dict[str, Any]:
    return (await tenant.until_plans([plan]))[plan]


async def approve(tenant: Tenant, plan: str) -> dict[str, Any]:
    """Approve what waits now, and return the plan once it is applied."""
    await tenant.annotate(plan, approve=checksum(await pending(tenant, plan)))
    return await applied(tenant, plan)


async def until_observed(tenant: Tenant, plan: str, value: str) -> dict[str, Any]:
    return await tenant.until_plan(
        plan, lambda body: body["status"].get("observedApprove") == value, "the annotation was looked at"
    )


async def may(admin: Administrator, database: str, role: str, privilege: str) -> bool:
    session = await admin.connect(database)
    try:
        row = await (
            await session.execute("SELECT has_table_privilege(%s, 'orders', %s)", (role, privilege))
        ).fetchone()
    except psycopg.errors.UndefinedObject:
        return False
    return bool(row and row[0])


async def in_database(admin: Administrator, database: str, statement: str, role: str) -> None:
    session = await admin.connect(database)
    await session.execute(sql.SQL(statement).format(sql.Identifier(role)))


async def looked(tenant: Tenant, admin: Administrator, resource: str) -> None:
    """Wait until everything of a resource was looked at: until the drift of a plan made for that is repaired twice."""
    name = "witness"
    if name not in await tenant.plans():
        await tenant.plan(name, resource, type="external", sourceRole="pg_read_all_data")
    role = (await applied(tenant, name))["status"]["role"]
    session = await admin.connect()
    for _ in range(2):
        await session.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(role)))

        async def repaired() -> bool:
            rows = await session.execute("SELECT FROM pg_roles WHERE rolname = %s AND rolcanlogin", (role,))
            return bool(await rows.fetchall())

        await eventually(repaired, what="a look")


async def test_a_new_role_waits_for_the_approval_of_its_checksum_and_is_not_there_before(
    tenant: Tenant, admin: Administrator, database: str, resource: str, postgres: Server
) -> None:
    await tenant.plan("ro", resource, scopes=[database], **MANUAL)
    plan = await pending(tenant, "ro")
    status = plan["status"]
    assert (status["status"], status["message"]) == ("success", "")
    assert conditions(plan) == {
        "Ready": "False",
        "PendingApproval": "True",
        "Planned": "True",
        "Applied": "False",
        "InSync": "False",
    }
    assert status["plan"]["count"] == len(status["plan"]["statements"]) > 3
    assert ready(plan)[1].startswith("waits for approval: creates the role; grants on 1 object; ")
    assert (
        f'grants on 3 objects and objects created later in database "{database}"; to apply' in ready(plan)[1]
    )
    assert ready(plan)[1].endswith(
        f"kubectl -n {tenant.namespace} annotate hrp ro --overwrite hoop.dev/approve={checksum(plan)}"
    )
    assert "finalizers" not in plan["metadata"]
    assert await tenant.secret("ro") == {}
    session = await admin.connect()
    rows = await session.execute("SELECT FROM pg_roles WHERE rolname = %s", (role_name(resource, "ro"),))
    assert await rows.fetchall() == []
    assert (await tenant.resources())[resource]["status"].get("plans", 0) == 0

    await looked(tenant, admin, resource)
    assert (await tenant.plans())["ro"]["metadata"]["resourceVersion"] == plan["metadata"]["resourceVersion"]

    plan = await approve(tenant, "ro")
    assert conditions(plan)["PendingApproval"] == "False"
    assert conditions(plan)["InSync"] == "True"
    assert plan["status"]["lastAppliedSid"] == plan["status"]["sid"]
    assert checksum(plan) == plan["status"]["observedApprove"]
    assert plan["metadata"]["finalizers"] == [FINALIZER]
    async with await tenant.log_in("ro", postgres):
        pass

    async def told() -> bool:
        events = [(kind, reason) for kind, reason, _ in await tenant.events("ro")]
        return sorted(events) == [("Normal", "Applied"), ("Normal", "PendingApproval")]

    await eventually(told, what="one event about the wait and one about the apply")


async def test_one_approval_is_good_for_one_apply_and_drift_waits_for_another(
    operator: Stack, tenant: Tenant, admin: Administrator, database: str, resource: str
) -> None:
    await tenant.plan("ro", resource, scopes=[database], **MANUAL)
    plan = await approve(tenant, "ro")
    role, first = plan["status"]["role"], checksum(plan)
    seen = {first}
    for _ in range(2):
        await in_database(admin, database, "REVOKE SELECT ON orders, customers FROM {}", role)
        plan = await pending(tenant, "ro")
        assert "grants on 2 objects" in ready(plan)[1]
        assert "approves another plan than the one that is due now" in ready(plan)[1]
        assert checksum(plan) not in seen
        seen.add(checksum(plan))
        await looked(tenant, admin, resource)
        assert not await may(admin, database, role, "SELECT")
        await tenant.annotate("ro", approve=first)
        await until_observed(tenant, "ro", first)
        assert ready(await pending(tenant, "ro"))[1] == ready(plan)[1]
        await approve(tenant, "ro")
        assert await may(admin, database, role, "SELECT")

    async def drift_told() -> list[str]:
        notes = [note for _, reason, note in await tenant.events("ro") if reason == PENDING]
        told = [note for note in notes if note.startswith("drift: ")]
        return told if len(told) >= 2 else []

    for note in await eventually(drift_told, seconds=5, what="two events that tell of drift"):
        drifted = f'drift: SELECT on all tables in schema "public" in database "{database}" is missing'
        assert note.startswith(f"{drifted}; waits for approval: grants on 2 objects")
    found = await scrape(ports.remembered(operator.directory / "ports/operator"))
    waited = frozenset({("kind", "grant_missing"), ("outcome", "waiting")})
    assert series(found, "hoop_drift_total", namespace=tenant.namespace, name="ro") == {waited: 2}


async def test_an_edit_without_effect_keeps_the_approval_and_any_other_makes_it_stale(
    tenant: Tenant, admin: Administrator, database: str, resource: str
) -> None:
    await tenant.plan("ro", resource, scopes=[database], **MANUAL)
    first = checksum(await pending(tenant, "ro"))
    await tenant.change("ro", privileges=["SELECT", "DELETE"])
    second = checksum(await pending(tenant, "ro"))
    assert second != first
    await tenant.annotate("ro", approve=first)
    plan = await until_observed(tenant, "ro", first)
    assert "approves another plan" in ready(plan)[1]
    assert plan["status"]["history"][0]["trigger"] == "annotation"
    await looked(tenant, admin, resource)
    assert (await tenant.plans())["ro"]["metadata"]["resourceVersion"] == plan["metadata"]["resourceVersion"]
    assert await tenant.secret("ro") == {}
    await tenant.change("ro", scopes=[f"{database}.public"])
    assert checksum(await pending(tenant, "ro")) == second
    await tenant.annotate("ro", approve=second)
    role = (await applied(tenant, "ro"))["status"]["role"]
    assert await may(admin, database, role, "DELETE")


async def test_password_and_secret_are_looked_after_while_statements_wait(
    tenant: Tenant, admin: Administrator, database: str, resource: str, postgres: Server
) -> None:
    await tenant.plan("ro", resource, scopes=[database], **MANUAL)
    role = (await approve(tenant, "ro"))["status"]["role"]
    await in_database(admin, database, "GRANT DELETE ON orders TO {}", role)
    plan = await pending(tenant, "ro")
    assert "revokes on 1 object" in ready(plan)[1]
    assert conditions(plan)["SecretReady"] == "True"
    passwords = {(await tenant.secret("ro"))["password"]}

    async def another_password_works() -> bool:
        if (await tenant.secret("ro")).get("password", "") in {*passwords, ""}:
            return False
        try:
            async with await tenant.log_in("ro", postgres):
                return True
        except psycopg.OperationalError:  # the Secret has it a moment before the server
            return False

    async def rotated() -> None:
        await eventually(another_password_works, what="another password that works")
        passwords.add((await tenant.secret("ro"))["password"])

    await tenant.api.delete(paths.secret(tenant.namespace, "ro-credentials"))
    await rotated()
    await tenant.annotate("ro", rotate_at="now")
    await rotated()
    await tenant.change("ro", rotatePassword=True)
    await rotated()
    after = await pending(tenant, "ro")
    assert checksum(after) == checksum(plan)
    assert after["status"]["rotatedGeneration"] == after["metadata"]["generation"]
    assert await may(admin, database, role, "DELETE")
    reasons = [reason for _, reason, _ in await tenant.events("ro")]
    assert reasons.count("PendingApproval") == 2
    await approve(tenant, "ro")
    assert not await may(admin, database, role, "DELETE")


async def observed(tenant: Tenant, resource: str) -> None:
    """Wait until the operator knows of the last change of a resource."""

    async def known() -> bool:
        body = (await tenant.resources())[resource]
        return bool(body["status"].get("observedGeneration") == body["metadata"]["generation"])

    await eventually(known, what="the change of the resource is observed")


async def test_a_guardrail_has_every_plan_wait_and_the_automatic_of_a_turn_do_not_wait_for_the_manual(
    tenant: Tenant, admin: Administrator, database: str, resource: str
) -> None:
    await tenant.change_resource(resource, guardrails={"approval": "Manual"})
    await observed(tenant, resource)
    await tenant.plan("auto", resource, scopes=[database], privileges=["SELECT"])
    await tenant.plan("manual", resource, scopes=[database], **MANUAL)
    await tenant.until_plans(["auto", "manual"], PENDING)
    # The resource wakes both at once, in one turn.
    await tenant.change_resource(resource, guardrails=None)
    role = (await applied(tenant, "auto"))["status"]["role"]
    plan = await pending(tenant, "manual")
    assert await may(admin, database, role, "SELECT")
    assert not await may(admin, database, plan["status"]["role"], "SELECT")
    await approve(tenant, "manual")
    await tenant.change_resource(resource, guardrails={"approval": "Manual"})
    await observed(tenant, resource)
    await in_database(admin, database, "REVOKE SELECT ON orders FROM {}", role)
    await pending(tenant, "auto")


async def test_where_a_check_fails_revokes_wait_too_and_the_failure_stands_in_ready(
    tenant: Tenant, admin: Administrator, database: str, resource: str
) -> None:
    await tenant.plan("ro", resource, scopes=[database], **MANUAL)
    role = (await approve(tenant, "ro"))["status"]["role"]
    await tenant.change("ro", scopes=["no_such_database"])
    plan = (await tenant.until_plans(["ro"], "DatabaseNotFound"))["ro"]
    assert plan["status"]["status"] == "failed"
    assert conditions(plan)["PendingApproval"] == "True"
    await looked(tenant, admin, resource)
    assert await may(admin, database, role, "SELECT")
    await tenant.annotate("ro", approve=checksum(plan))
    plan = await tenant.until_plan(
        "ro", lambda body: conditions(body)["PendingApproval"] == "False", "the approved revokes were made"
    )
    assert ready(plan)[0] == "DatabaseNotFound"
    assert not await may(admin, database, role, "SELECT")


async def test_a_clean_failure_keeps_its_approval(
    tenant: Tenant, admin: Administrator, database: str, resource: str
) -> None:
    await tenant.plan("ro", resource, scopes=[database], **MANUAL)
    plan = await approve(tenant, "ro")
    role, sid = plan["status"]["role"], plan["status"]["lastAppliedSid"]
    await tenant.change("ro", privileges=["SELECT", "DELETE"])
    approved = checksum(await pending(tenant, "ro"))
    session = await admin.connect(database)
    async with session.transaction():
        await session.execute("GRANT INSERT ON orders TO pg_monitor")
        await tenant.annotate("ro", approve=approved)
        await tenant.until_plans(["ro"], "ApplyFailed")
        await tenant.until_plan(
            "ro", lambda body: body["status"]["lastAppliedSid"] == sid, "the approval given back"
        )
    plan = await applied(tenant, "ro")
    assert checksum(plan) == approved
    assert plan["status"]["lastAppliedSid"] == plan["status"]["sid"] != sid
    assert await may(admin, database, role, "DELETE")


async def test_an_approval_stays_where_somebody_else_was_at_work_on_the_role(
    tenant: Tenant, admin: Administrator, database: str, resource: str
) -> None:
    await tenant.plan("ro", resource, scopes=[database], **MANUAL)
    plan = await approve(tenant, "ro")
    role, sid = plan["status"]["role"], plan["status"]["lastAppliedSid"]
    await tenant.change("ro", privileges=["SELECT", "DELETE"])
    approved = checksum(await pending(tenant, "ro"))
    session = await admin.connect()
    comment = sql.SQL("COMMENT ON ROLE {} IS {}").format(
        sql.Identifier(role), f"hoop.dev/role-plan: default/{tenant.namespace}/ro"
    )
    async with session.transaction():
        await session.execute(comment)
        await tenant.annotate("ro", approve=approved)
        await tenant.until_plan(
            "ro", lambda body: body["status"]["lastAppliedSid"] != sid, "the approval taken up"
        )
    plan = await applied(tenant, "ro")
    assert checksum(plan) == approved
    assert await may(admin, database, role, "DELETE")


async def test_an_approval_that_was_withdrawn_or_is_taken_up_already_is_not_taken(
    tenant: Tenant, api: KubernetesApi
) -> None:
    await tenant.plan("ro", "nowhere", scopes=["shop"], annotations={"hoop.dev/approve": "0c"}, **MANUAL)
    await tenant.until_plans(["ro"], "ResourceNotFound")
    path = paths.hoop_role_plan(tenant.namespace, "ro")

    def approved(body: Mapping[str, Any]) -> Run:
        run = Run(Plan.parse(body), "spec", new_input=True)
        run.statements = (Statement(Phase.GRANT, "shop", "GRANT"),)
        return run

    body = await api.get(path)
    first, second = approved(body), approved(body)
    await claim(api, first)
    assert first.due == first.statements
    with pytest.raises(ObjectConflict):
        await claim(api, second)
    withdrawn = approved(await api.get(path))
    await api.merge_patch(path, {"metadata": {"annotations": {"hoop.dev/approve": None}}})
    with pytest.raises(ObjectConflict):
        await claim(api, withdrawn)
    assert second.due == withdrawn.due == ()
    assert (await api.get(path))["status"]["lastAppliedSid"] == first.sid


async def test_deletion_needs_no_approval(
    tenant: Tenant, admin: Administrator, database: str, resource: str
) -> None:
    for name in ("new", "drifted"):
        await tenant.plan(name, resource, scopes=[database], **MANUAL)
    role = (await approve(tenant, "drifted"))["status"]["role"]
    await in_database(admin, database, "GRANT DELETE ON orders TO {}", role)
    await tenant.until_plans(["new", "drifted"], PENDING)
    for name in ("new", "drifted"):
        await tenant.delete(name)
        await tenant.until_gone(name)
    session = await admin.connect()
    rows = await session.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,))
    assert await rows.fetchall() == []


async def test_a_restart_while_plans_wait_writes_nothing(
    tenant: Tenant,
    admin: Administrator,
    database: str,
    postgres: Server,
    own_operator: Callable[[Mapping[str, str]], OperatorProcess],
) -> None:
    operator = own_operator({"HOOP_DRIFT_INTERVAL_SECONDS": "2"})
    mine = Tenant(tenant.api, tenant.namespace, operator.agent_id)
    await operator.start()
    resource = await mine.resource(postgres, user=postgres.user, password=postgres.password)
    await mine.plan("new", resource, scopes=[database], annotations={"hoop.dev/rotate-at": "now"}, **MANUAL)
    await mine.plan("wrong", resource, scopes=[database], annotations={"hoop.dev/approve": "x"}, **MANUAL)
    before = await mine.until_plans(["new", "wrong"], PENDING)
    assert "approves another plan" in ready(before["wrong"])[1]
    operator.kill()
    await operator.start()
    await looked(mine, admin, resource)
    after = await mine.plans()
    for name, plan in before.items():
        assert after[name]["metadata"]["resourceVersion"] == plan["metadata"]["resourceVersion"]


@pytest.mark.parametrize("approval", ["Automatic", None])
async def test_what_waits_is_applied_when_approval_is_not_asked_for_any_more(
    tenant: Tenant, database: str, resource: str, approval: str | None
) -> None:
    await tenant.plan("ro", resource, scopes=[database], **MANUAL)
    await pending(tenant, "ro")
    await tenant.change("ro", approval=approval)
    assert conditions(await applied(tenant, "ro"))["PendingApproval"] == "False"
