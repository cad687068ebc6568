"""Taking over what is there already: roles and Secrets that nobody claims, and those of a plan that is gone."""

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.rows import TupleRow

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.cluster.finalizers import remove_finalizer
from hoop_operator.errors import PlanReason
from hoop_operator.naming import role_name
from hoop_operator.planner.model import Adoption
from integration.administrator import Administrator
from integration.roles import Roles, literal, messages, quoted
from integration.tenant import PATIENCE_SECONDS, Tenant, eventually, ready
from local import cluster
from local.postgresql import Server
from local.stack import Stack

OLD_PASSWORD = "as-long-as-anybody-can-remember"


@pytest.fixture
def neighbour(new_namespace: Callable[[], str], api: KubernetesApi) -> Tenant:
    """Somebody with another namespace."""
    return Tenant(api, new_namespace())


async def run(admin: Administrator, *statements: str, database: str = "postgres") -> None:
    session = await admin.connect(database)
    for statement in statements:
        await session.execute(statement.encode())


async def look(admin: Administrator, name: str) -> tuple[Any, ...]:
    """OID, whether it may log in and make databases, comment and verifier of a role."""
    session = await admin.connect()
    row = await (
        await session.execute(
            "SELECT oid::int8, rolcanlogin, rolcreatedb, shobj_description(oid, 'pg_authid'), rolpassword"
            " FROM pg_authid WHERE rolname = %s",
            (name,),
        )
    ).fetchone()
    assert row is not None
    return row


async def make_secret(api: KubernetesApi, namespace: str, name: str, **more: Any) -> dict[str, Any]:
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, **more.pop("metadata", {})},
        **more,
    }
    return await api.create(paths.secrets(namespace), body)


async def adopt(tenant: Tenant, plan: str, value: str | None) -> None:
    change = {"metadata": {"annotations": {"hoop.dev/adopt": value}}}
    await tenant.api.merge_patch(paths.hoop_role_plan(tenant.namespace, plan), change)


async def versions(api: KubernetesApi, namespace: str, plan: str) -> list[str]:
    bodies = [
        await api.get(paths.hoop_role_plan(namespace, plan)),
        await api.get(paths.secret(namespace, f"{plan}-credentials")),
    ]
    return [body["metadata"]["resourceVersion"] for body in bodies]


async def log_in(
    server: Server, user: str, password: str, database: str
) -> psycopg.AsyncConnection[TupleRow]:
    return await psycopg.AsyncConnection.connect(
        host=server.host, port=server.port, user=user, password=password, dbname=database
    )


async def test_an_unclaimed_role_and_secret_become_the_plans_with_the_password_they_have(
    tenant: Tenant, api: KubernetesApi, admin: Administrator, database: str, resource: str, postgres: Server
) -> None:
    name = role_name(resource, "ro")
    await run(
        admin,
        f"CREATE ROLE {quoted(name)} LOGIN CREATEDB PASSWORD {literal(OLD_PASSWORD)}",
        f"COMMENT ON ROLE {quoted(name)} IS 'of the reporting team'",
    )
    await run(admin, f"GRANT DELETE ON customers TO {quoted(name)}", database=database)
    oid, _, _, _, verifier = await look(admin, name)
    data = {"password": OLD_PASSWORD, "username": "somebody", "theirs": "x"}
    metadata = {"labels": {"team": "reporting"}}
    before = await make_secret(api, tenant.namespace, "ro-credentials", stringData=data, metadata=metadata)
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    (plan,) = (await tenant.until_plans(["ro"], "RoleConflict")).values()
    assert 'hoop.dev/adopt: "true"' in ready(plan)[1]
    assert await look(admin, name) == (oid, True, True, "of the reporting team", verifier)

    await adopt(tenant, "ro", "true")
    await tenant.until_plans(["ro"])

    comment = f"hoop.dev/role-plan: default/{tenant.namespace}/ro"
    assert await look(admin, name) == (oid, True, False, comment, verifier)
    values = await tenant.secret("ro")
    assert (values["password"], values["username"], values["theirs"]) == (OLD_PASSWORD, name, "x")
    secret = await api.get(paths.secret(tenant.namespace, "ro-credentials"))
    assert secret["metadata"]["labels"]["team"] == "reporting"
    assert secret["type"] == "servicebinding.io/postgresql" != before["type"]
    assert [owner["name"] for owner in secret["metadata"]["ownerReferences"]] == ["ro"]
    async with await tenant.log_in("ro", postgres) as session:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await session.execute("DELETE FROM customers")

    async def told() -> list[str]:
        return [note for _, reason, note in await tenant.events("ro") if reason == "Adopted"]

    (note,) = await eventually(told, what="an event tells of it")
    assert name in note
    assert "its comment was: of the reporting team" in note
    assert "ro-credentials" in note

    await tenant.annotate("ro", reconcile_at="afterwards")
    await tenant.until_plans(["ro"])
    settled = await versions(api, tenant.namespace, "ro")
    await _another_look(tenant, admin, database, resource)
    assert await versions(api, tenant.namespace, "ro") == settled
    assert await told() == [note]
    await adopt(tenant, "ro", None)
    await tenant.annotate("ro", reconcile_at="without")
    await tenant.until_plans(["ro"])
    assert (await look(admin, name))[0] == oid
    assert (await tenant.secret("ro")) == values


async def _another_look(tenant: Tenant, admin: Administrator, database: str, resource: str) -> None:
    """Wait until a further plan was carried out, and then mended on the drift clock with all others of its resource."""
    await tenant.plan("witness", resource, scopes=[database], privileges=["SELECT"])
    await tenant.until_plans(["witness"])
    witness = quoted(role_name(resource, "witness"))
    await run(admin, f"ALTER ROLE {witness} CREATEDB")

    async def mended() -> bool:
        return not (await look(admin, role_name(resource, "witness")))[2]

    await eventually(mended, what="the drift is mended")


async def test_where_only_the_secret_is_there_the_new_role_gets_its_password(
    tenant: Tenant, api: KubernetesApi, database: str, resource: str, postgres: Server
) -> None:
    kind = "servicebinding.io/postgresql"
    made = {
        plan: await make_secret(
            api, tenant.namespace, f"{plan}-credentials", type=kind, stringData={"password": password}
        )
        for plan, password in (("kept", OLD_PASSWORD), ("empty", ""))
    }
    for plan in made:
        spec: dict[str, Any] = {"scopes": [database], "privileges": ["SELECT"], "rotationInterval": "24h"}
        await tenant.plan(plan, resource, **spec)
    found = await tenant.until_plans(made, "SecretConflict")
    assert ['hoop.dev/adopt: "true"' in ready(plan)[1] for plan in found.values()] == [True, True]
    for plan in made:
        await adopt(tenant, plan, "true")
    await tenant.until_plans(made)
    for plan, body in made.items():
        secret = await api.get(paths.secret(tenant.namespace, f"{plan}-credentials"))
        assert secret["metadata"]["uid"] == body["metadata"]["uid"]
        async with await tenant.log_in(plan, postgres):
            pass
    assert (await tenant.secret("kept"))["password"] == OLD_PASSWORD


async def test_what_is_to_be_taken_over_stays_as_it_is_until_that_is_approved(
    tenant: Tenant, api: KubernetesApi, admin: Administrator, database: str, resource: str, postgres: Server
) -> None:
    name = role_name(resource, "ro")
    await run(admin, f"CREATE ROLE {quoted(name)} LOGIN CREATEDB PASSWORD {literal(OLD_PASSWORD)}")
    before = await look(admin, name)
    made = await make_secret(api, tenant.namespace, "ro-credentials", stringData={"password": "another"})
    spec: dict[str, Any] = {"scopes": [database], "privileges": ["SELECT"], "approval": "Manual"}
    await tenant.plan("ro", resource, annotations={"hoop.dev/adopt": "true"}, **spec)
    plan = (await tenant.until_plans(["ro"], "PendingApproval"))["ro"]
    assert f'COMMENT ON ROLE "{name}"' in " ".join(plan["status"]["plan"]["statements"])
    assert await look(admin, name) == before
    assert await api.get(paths.secret(tenant.namespace, "ro-credentials")) == made
    await tenant.annotate("ro", approve=plan["status"]["plan"]["checksum"])
    await tenant.until_plans(["ro"])
    assert (await tenant.secret("ro"))["password"] == "another"
    async with await tenant.log_in("ro", postgres):
        pass


async def test_no_secret_that_others_work_with_is_taken_over(
    tenant: Tenant, api: KubernetesApi, admin: Administrator, database: str, resource: str
) -> None:
    config_map = await api.create(paths.config_maps(tenant.namespace), {"metadata": {"name": "theirs"}})
    controller = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": "theirs",
        "uid": config_map["metadata"]["uid"],
        "controller": True,
    }
    login = {"username": "u", "password": "p"}
    made: dict[str, dict[str, Any]] = {
        "basic": {"type": "kubernetes.io/basic-auth", "stringData": login},
        "token": {"type": "bootstrap.kubernetes.io/token", "stringData": login},
        "chart": {"type": "helm.sh/release.v1", "stringData": login},
        "release": {"stringData": login, "metadata": {"labels": {"owner": "helm"}}},
        "controlled": {"stringData": login, "metadata": {"ownerReferences": [controller]}},
    }
    for name, more in made.items():
        await make_secret(api, tenant.namespace, name, **more)
    names = [*made, f"{resource}-admin"]
    before = [(await api.get(paths.secret(tenant.namespace, name))) for name in names]
    plans = [f"p{number}" for number in range(len(names))]
    for plan, name in zip(plans, names, strict=True):
        spec = {"scopes": [database], "privileges": ["SELECT"], "secretName": name}
        await tenant.plan(plan, resource, annotations={"hoop.dev/adopt": "true"}, **spec)
    found = await tenant.until_plans(plans, "SecretConflict")
    assert [plan for plan in plans if "adopt" in ready(found[plan])[1]] == []
    # A Secret that the plan had once does not become its own by that while a resource reads it.
    forged = {"status": {"secretName": f"{resource}-admin"}}
    await api.merge_patch(paths.status(paths.hoop_role_plan(tenant.namespace, plans[-1])), forged)
    await tenant.annotate(plans[-1], reconcile_at="now")
    await tenant.until_plans(plans, "SecretConflict")
    assert [(await api.get(paths.secret(tenant.namespace, name))) for name in names] == before


async def test_a_role_that_the_admin_depends_on_is_not_taken_over(roles: Roles) -> None:
    database = await roles.database()
    clerk = await roles.role("clerk", "CREATEROLE")
    group = await roles.role("group")
    await roles.run("postgres", f"GRANT {quoted(group)} TO {quoted(clerk)}")
    held, owner, free = (roles.desired(label, adoption=Adoption()) for label in ("held", "owner", "free"))
    for desired in (held, owner, free):
        await roles.run("postgres", f"CREATE ROLE {quoted(desired.name)} CREATEDB")
    await roles.run(
        "postgres",
        f"GRANT {quoted(held.name)} TO {quoted(group)}",
        f"ALTER DATABASE {quoted(database)} OWNER TO {quoted(owner.name)}",
    )
    await roles.act_as(clerk, database)
    for desired in (held, owner):
        (message,) = messages(await roles.apply(desired), PlanReason.ROLE_CONFLICT)
        assert f'the admin "{clerk}" depends on it' in message
    planned = await roles.apply(free)
    if roles.version >= 16:
        # To administer a role is not to depend on it: so it can be made the admin's to alter, and adopted then.
        (message,) = messages(planned, PlanReason.INSUFFICIENT_PRIVILEGE)
        remedy = message.partition("run: ")[2]
        assert "WITH ADMIN OPTION, INHERIT FALSE, SET FALSE;" in remedy
        for statement in remedy.rstrip(";").split("; "):
            await roles.run("postgres", statement)
        await roles.settle(free)
    comments = await roles.rows(
        "postgres",
        "SELECT rolname, shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = ANY (%(names)s)",
        names=[held.name, owner.name, free.name],
    )
    assert dict(comments) == {held.name: None, owner.name: None, free.name: free.identity.comment}


async def test_plans_of_two_namespaces_that_adopt_one_role_at_once_never_share_it(
    tenant: Tenant, neighbour: Tenant, admin: Administrator, database: str, resource: str
) -> None:
    await tenant.change_resource(resource, allowedNamespaces={"from": "All"})
    name = role_name(resource, "ro")
    await run(admin, f"CREATE ROLE {quoted(name)}")
    spec: dict[str, Any] = {"scopes": [database], "privileges": ["SELECT"]}
    spec["resourceRef"] = {"name": resource, "namespace": tenant.namespace}
    both = (tenant, neighbour)
    annotations = {"hoop.dev/adopt": "true"}
    await asyncio.gather(*(one.plan("ro", resource, annotations=annotations, **spec) for one in both))

    async def reasons() -> list[str]:
        found = [ready((await one.plans())["ro"])[0] for one in both]
        return found if sorted(found) == ["Applied", "RoleConflict"] else []

    outcome = await eventually(reasons, what="one has the role, the other is told")
    winner = both[outcome.index("Applied")]
    assert (await look(admin, name))[3] == f"hoop.dev/role-plan: default/{winner.namespace}/ro"


async def test_a_renamed_plan_takes_over_role_and_secret_of_one_that_is_gone_and_not_before(
    tenant: Tenant, api: KubernetesApi, stack: Stack, admin: Administrator, database: str, resource: str
) -> None:
    spec: dict[str, Any] = {"role": "ro", "scopes": [database], "privileges": ["SELECT"]}
    spec["secretName"] = "reader-login"
    await tenant.plan("old", resource, deletionPolicy="Retain", **spec)
    await tenant.until_plans(["old"])
    name = role_name(resource, "ro")
    oid, _, _, _, verifier = await look(admin, name)
    await tenant.plan("new", resource, **spec)
    (plan,) = (await tenant.until_plans(["new"], "RoleConflict")).values()
    assert f"hoop.dev/adopt: {tenant.namespace}/old" in ready(plan)[1]
    await adopt(tenant, "new", f"{tenant.namespace}/old")
    await tenant.until_plan(
        "new", lambda plan: "still exists" in ready(plan)[1], "the old plan is in the way"
    )
    path = paths.hoop_role_plan(tenant.namespace, "old")
    await api.merge_patch(path, {"metadata": {"finalizers": ["hoop.dev/operator", "example.com/slow"]}})
    orphaning = ("delete", "hrp", "old", "--cascade=orphan", "--wait=false")
    cluster.kubectl(stack.kubeconfig, "--namespace", tenant.namespace, *orphaning)
    await tenant.until_plan(
        "new",
        lambda plan: "is being deleted" in ready(plan)[1],
        "the old plan is in the way until it is gone",
    )
    assert (await look(admin, name))[3] == f"hoop.dev/role-plan: default/{tenant.namespace}/old"
    login = paths.secret(tenant.namespace, "reader-login")

    async def orphaned() -> bool:
        # The garbage collector of a new cluster may take half a minute to hear of our kinds.
        return "ownerReferences" not in (await api.get(login))["metadata"]

    await eventually(orphaned, seconds=4 * PATIENCE_SECONDS, what="the Secret is left behind")
    await remove_finalizer(api, (await tenant.plans())["old"], "example.com/slow")
    await tenant.until_gone("old")
    await tenant.until_plans(["new"])
    comment = f"hoop.dev/role-plan: default/{tenant.namespace}/new"
    assert await look(admin, name) == (oid, True, False, comment, verifier)
    secret = await api.get(login)
    assert [owner["name"] for owner in secret["metadata"]["ownerReferences"]] == ["new"]


async def test_a_plan_moves_to_another_namespace_with_its_role_and_gets_a_fresh_password(
    tenant: Tenant, neighbour: Tenant, admin: Administrator, database: str, resource: str, postgres: Server
) -> None:
    await tenant.change_resource(resource, allowedNamespaces={"from": "All"})
    spec: dict[str, Any] = {"scopes": [database], "privileges": ["SELECT"]}
    spec["resourceRef"] = {"name": resource, "namespace": tenant.namespace}
    await tenant.plan("ro", resource, deletionPolicy="Retain", **spec)
    await tenant.until_plans(["ro"])
    password = (await tenant.secret("ro"))["password"]
    name = role_name(resource, "ro")
    oid = (await look(admin, name))[0]
    await tenant.delete("ro")
    await tenant.until_gone("ro")
    await neighbour.plan("ro", resource, **spec)
    await neighbour.until_plans(["ro"], "RoleConflict")
    await adopt(neighbour, "ro", f"{tenant.namespace}/ro")
    await neighbour.until_plans(["ro"])
    assert (await look(admin, name))[0] == oid
    async with await neighbour.log_in("ro", postgres):
        pass
    with pytest.raises(psycopg.OperationalError):
        await log_in(postgres, name, password, database)
    await tenant.plan("ro", resource, **spec)
    (plan,) = (await tenant.until_plans(["ro"], "RoleConflict")).values()
    assert f"default/{neighbour.namespace}/ro" in ready(plan)[1]
