"""Every way in which a plan can fail: named with its remedy, harmless, and healed by itself once the cause is gone."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from psycopg import sql

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.errors import ObjectNotFound
from hoop_operator.naming import role_name
from integration.administrator import Administrator
from integration.operator_process import OperatorProcess
from integration.proxy import Proxy
from integration.server_log import looks
from integration.tenant import Tenant, eventually, ready, roles_of
from local import cluster
from local.postgresql import Server
from local.stack import Stack

RETRIES = 3


@pytest.fixture
def other_namespace(new_namespace: Callable[[], str]) -> str:
    """A second namespace."""
    return new_namespace()


@pytest.fixture
async def proxy(postgres: Server) -> AsyncIterator[Proxy]:
    """A way to the server that can be cut."""
    proxy = Proxy(postgres.port)
    await proxy.open()
    yield proxy
    await proxy.close()


@pytest.fixture
async def group(admin: Administrator, namespace: str) -> AsyncIterator[str]:
    """A role that cannot log in, to be a source role; dropped after the test with all that is its own."""
    name = f"group_{namespace[5:]}"
    session = await admin.connect()
    await session.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
    yield name
    await session.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))


async def run(admin: Administrator, statement: str, *names: str, database: str = "postgres") -> None:
    """Run SQL with each `{}` replaced by a quoted name."""
    session = await admin.connect(database)
    text = statement.format(*(sql.Identifier(name).as_string(None) for name in names))
    await session.execute(text.encode())


async def failed(tenant: Tenant, plan: str, reason: str, *parts: str) -> dict[str, Any]:
    """Wait until a plan has failed for a reason, and see that its message holds all parts."""
    found = (await tenant.until_plans([plan], reason))[plan]
    status, message = found["status"], ready(found)[1]
    assert [part for part in parts if part not in message] == [], message
    assert (status["status"], status["message"]) == ("failed", message)
    assert status["history"][0]["message"] == message[:1024]
    return found


async def holds_nothing(admin: Administrator, tenant: Tenant, resource: str, plan: str) -> None:
    """Assert that neither a role nor a Secret was made for a plan."""
    session = await admin.connect()
    rows = await session.execute("SELECT FROM pg_roles WHERE rolname = %s", (role_name(resource, plan),))
    assert await rows.fetchall() == []
    assert await tenant.secret(plan) == {}
    assert "finalizers" not in (await tenant.plans())[plan]["metadata"]


@pytest.mark.parametrize(
    ("spec", "annotations", "parts"),
    [
        ({"scopes": ["pg.pg_catalog"]}, {}, ("spec.scopes", "pg_catalog", "remove it")),
        ({"scopes": ["a.information_schema", "b.pg_toast"]}, {}, ("information_schema", "pg_toast")),
        ({"scopes": ["x" * 64]}, {}, ("spec.scopes", "63 bytes")),
        ({}, {"hoop.dev/adopt": "yes"}, ('"true"', "<namespace>/<plan>")),
        (
            {"scopes": ["a.pg_catalog"]},
            {"hoop.dev/adopt": "yes"},
            ("pg_catalog", "hoop.dev/adopt"),
        ),
        (
            {"secretTemplate": {"data": {"CA": "${ca.crt}"}}},
            {},
            ('spec.secretTemplate.data["CA"]', "SSLROOTCERT"),
        ),
    ],
    ids=["system schema", "two system schemas", "too long", "adopt", "all", "template"],
)
async def test_an_invalid_spec_names_every_field_that_is_wrong(
    tenant: Tenant,
    admin: Administrator,
    database: str,
    resource: str,
    spec: dict[str, Any],
    annotations: dict[str, str],
    parts: tuple[str, ...],
) -> None:
    await tenant.plan(
        "ro",
        resource,
        annotations=annotations,
        **{"scopes": [database], "privileges": ["SELECT"], **spec},
    )
    await failed(tenant, "ro", "InvalidSpec", *parts)
    await holds_nothing(admin, tenant, resource, "ro")


async def test_a_source_role_that_is_the_plans_own_role_is_invalid(tenant: Tenant, resource: str) -> None:
    name = role_name(resource, "ext")
    await tenant.plan("ext", resource, type="external", sourceRole=name)
    await failed(tenant, "ext", "InvalidSpec", "own role", name)


async def test_a_resource_that_does_not_exist_is_named_and_its_coming_heals(
    tenant: Tenant, database: str, postgres: Server, api: KubernetesApi
) -> None:
    await tenant.plan("ro", "missing", scopes=[database], privileges=["SELECT"])
    await failed(
        tenant, "ro", "ResourceNotFound", "HoopResource missing", tenant.namespace, "spec.resourceRef"
    )
    other = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await api.create(
        paths.hoop_resources(tenant.namespace),
        {
            "apiVersion": "hoop.dev/v1alpha1",
            "kind": "HoopResource",
            "metadata": {"name": "missing"},
            "spec": (await tenant.resources())[other]["spec"] | {"resourceName": other},
        },
    )
    await tenant.until_plans(["ro"])


async def test_a_resource_that_is_not_ready_says_why_and_its_new_secret_wakes_the_plan(
    tenant: Tenant, database: str, postgres: Server, resource: str
) -> None:
    await tenant.change_secret(f"{resource}-admin", password="wrong")
    await tenant.until_resource(resource, "AuthenticationFailed")
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    await failed(tenant, "ro", "ResourceNotReady", resource, "AuthenticationFailed", "USER and PASS")
    await tenant.change_secret(f"{resource}-admin", password=postgres.password)
    await tenant.until_plans(["ro"])


async def test_a_finalizer_that_a_refused_plan_brings_along_holds_no_resource_and_reveals_none(
    tenant: Tenant, api: KubernetesApi, other_namespace: str, resource: str
) -> None:
    guest = Tenant(api, other_namespace)
    reference = {"name": resource, "namespace": tenant.namespace}
    await guest.plan("spy", resource, resourceRef=reference, scopes=["postgres"], privileges=["SELECT"])
    await failed(guest, "spy", "ReferenceNotAllowed")
    path = paths.hoop_role_plan(other_namespace, "spy")
    await api.merge_patch(path, {"metadata": {"finalizers": ["hoop.dev/operator"]}})
    await guest.annotate("spy", reconcile_at="now")
    await failed(guest, "spy", "ReferenceNotAllowed")
    await tenant.change_secret(f"{resource}-admin", password="wrong")
    await tenant.until_resource(resource, "AuthenticationFailed")
    assert (await tenant.resources())[resource]["status"]["plans"] == 0
    await guest.delete("spy")
    await guest.until_gone("spy")
    assert [reason for _, reason, _ in await guest.events("spy")] == ["ReferenceNotAllowed"]


async def test_a_resource_of_another_namespace_has_to_allow_the_plans(
    tenant: Tenant,
    api: KubernetesApi,
    stack: Stack,
    admin: Administrator,
    other_namespace: str,
    database: str,
    resource: str,
) -> None:
    guest = Tenant(api, other_namespace)

    async def asks(name: str) -> None:
        reference = {"name": resource, "namespace": tenant.namespace}
        await guest.plan(name, resource, resourceRef=reference, scopes=[database], privileges=["SELECT"])

    await asks("ro")
    forbidden = await failed(guest, "ro", "ReferenceNotAllowed", "spec.allowedNamespaces", other_namespace)
    missing = {"name": "missing", "namespace": tenant.namespace}
    await guest.plan("rm", resource, resourceRef=missing, scopes=[database], privileges=["SELECT"])
    alike = await failed(guest, "rm", "ReferenceNotAllowed")
    assert ready(alike)[1] == ready(forbidden)[1].replace(resource, "missing")
    assert "finalizers" not in forbidden["metadata"]
    await tenant.change_resource(
        resource, allowedNamespaces={"from": "Selector", "selector": {"matchLabels": {"team": "shop"}}}
    )
    cluster.kubectl(stack.kubeconfig, "label", "namespace", other_namespace, "team=shop")
    status = (await guest.until_plans(["ro"]))["ro"]["status"]
    cluster.kubectl(stack.kubeconfig, "label", "namespace", other_namespace, "team=bar", "--overwrite")
    await failed(guest, "ro", "ReferenceNotAllowed")
    await run(admin, "REVOKE SELECT ON orders FROM {}", status["role"], database=database)
    await guest.annotate("ro", reconcile_at="now", rotate_at="now")
    await failed(guest, "ro", "ReferenceNotAllowed")
    session = await admin.connect(database)
    row = await (
        await session.execute("SELECT has_table_privilege(%s, 'orders', 'SELECT')", (status["role"],))
    ).fetchone()
    assert row == (False,)
    await guest.delete("ro")
    await guest.until_gone("ro")
    assert await roles_of(session, other_namespace, "ro") == []
    await tenant.change_resource(resource, allowedNamespaces={"from": "All", "selector": None})
    await asks("again")
    await guest.until_plans(["again"])


async def test_a_resource_that_takes_no_plans_says_so(
    tenant: Tenant, api: KubernetesApi, namespace: str
) -> None:
    await api.create(
        paths.hoop_resources(namespace),
        {
            "apiVersion": "hoop.dev/v1alpha1",
            "kind": "HoopResource",
            "metadata": {"name": "web"},
            "spec": {"type": "application", "subtype": "httpproxy", "envVars": {"REMOTE_URL": "http://web"}},
        },
    )
    await tenant.plan("ro", "web", scopes=["shop"], privileges=["SELECT"])
    await failed(tenant, "ro", "UnsupportedResource", "application/httpproxy", "database/postgres")


@pytest.mark.parametrize(
    ("guardrails", "spec", "part"),
    [
        ({"privileges": ["SELECT"]}, {"privileges": ["SELECT", "DELETE"]}, "spec.privileges DELETE"),
        ({"privileges": []}, {}, "spec.privileges SELECT"),
        ({"scopes": ["test_*.reports"]}, {}, ".public"),
        ({"scopes": []}, {}, "spec.guardrails.scopes"),
        (
            {"sourceRoles": ["app_*"]},
            {"type": "external", "sourceRole": "pg_read_all_data"},
            'spec.sourceRole "pg_read_all_data"',
        ),
    ],
    ids=["privilege", "no privileges", "scope", "no scopes", "source role"],
)
async def test_a_guardrail_refuses_what_is_beyond_it(
    tenant: Tenant,
    admin: Administrator,
    database: str,
    resource: str,
    guardrails: dict[str, Any],
    spec: dict[str, Any],
    part: str,
) -> None:
    await tenant.change_resource(resource, guardrails=guardrails)
    asked = {"scopes": [database], "privileges": ["SELECT"], **spec}
    await tenant.plan("ro", resource, **asked)
    await failed(tenant, "ro", "GuardrailViolation", part, "spec.guardrails")
    await holds_nothing(admin, tenant, resource, "ro")
    await tenant.change_resource(resource, guardrails=None)
    await tenant.until_plans(["ro"])


async def test_a_guardrail_tightened_later_stops_everything_but_takes_nothing_away(
    tenant: Tenant, admin: Administrator, api: KubernetesApi, database: str, resource: str, postgres: Server
) -> None:
    await tenant.plan("rw", resource, scopes=[database], privileges=["SELECT", "DELETE"])
    role = (await tenant.until_plans(["rw"]))["rw"]["status"]["role"]
    login = await tenant.log_in("rw", postgres)
    password = (await tenant.secret("rw"))["password"]
    await tenant.change_resource(resource, guardrails={"privileges": ["SELECT"]})
    await failed(tenant, "rw", "GuardrailViolation", "DELETE")
    await run(
        admin,
        "REVOKE SELECT ON orders FROM {}; GRANT TRUNCATE ON orders TO {}",
        role,
        role,
        database=database,
    )
    await api.delete(paths.secret(tenant.namespace, "rw-credentials"))
    await tenant.annotate("rw", rotate_at="now", reconcile_at="now")
    await failed(tenant, "rw", "GuardrailViolation", "DELETE")
    assert await tenant.secret("rw") == {}
    rows = await login.execute(
        "SELECT p FROM unnest('{SELECT,DELETE,TRUNCATE}'::text[]) p WHERE has_table_privilege('orders', p)"
    )
    assert {row[0] for row in await rows.fetchall()} == {"DELETE", "TRUNCATE"}
    await login.close()
    assert password
    await tenant.delete("rw")
    await tenant.until_gone("rw")
    assert await roles_of(await admin.connect(), tenant.namespace, "rw") == []


@pytest.mark.parametrize(
    ("danger", "part"),
    [
        ("ALTER ROLE {0} CREATEROLE", "CREATEROLE"),
        ("ALTER ROLE {0} CREATEDB", "CREATEDB"),
        ("ALTER ROLE {0} BYPASSRLS", "BYPASSRLS"),
        ("ALTER ROLE {0} REPLICATION", "REPLICATION"),
        ("ALTER ROLE {0} SUPERUSER", "superuser"),
        ("GRANT pg_write_all_data TO {0}", '"pg_write_all_data", which it reaches'),
        ("GRANT pg_monitor TO {0} WITH INHERIT FALSE, SET FALSE, ADMIN TRUE", '"pg_monitor"'),
        ("GRANT postgres TO {0}", '"postgres", which it reaches'),
    ],
)
async def test_a_dangerous_source_role_needs_a_literal_guardrail(
    tenant: Tenant, admin: Administrator, resource: str, group: str, danger: str, part: str
) -> None:
    if admin.server.version < "16" and "INHERIT" in danger:
        pytest.skip("memberships have options of their own from PostgreSQL 16 on")
    await run(admin, danger, group)
    await tenant.plan("ext", resource, type="external", sourceRole=group)
    await failed(tenant, "ext", "DangerousSourceRole", group, part, "spec.guardrails.sourceRoles")
    await holds_nothing(admin, tenant, resource, "ext")
    await tenant.change_resource(resource, guardrails={"sourceRoles": [f"{group[:-1]}*"]})
    await tenant.annotate("ext", reconcile_at="now")
    await failed(tenant, "ext", "DangerousSourceRole", part)
    await tenant.change_resource(resource, guardrails={"sourceRoles": [group]})
    await tenant.until_plans(["ext"])


async def test_the_admin_and_another_plans_role_are_dangerous_source_roles(
    tenant: Tenant, database: str, resource: str
) -> None:
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    await tenant.until_plans(["ro"])
    await tenant.plan("a", resource, type="external", sourceRole="postgres")
    await tenant.plan("b", resource, type="external", sourceRole=role_name(resource, "ro"))
    await failed(tenant, "a", "DangerousSourceRole", "is the admin itself")
    await failed(tenant, "b", "DangerousSourceRole", "belongs to a plan")


async def test_a_source_role_that_does_not_exist_is_named_and_its_coming_heals(
    tenant: Tenant, admin: Administrator, resource: str, namespace: str
) -> None:
    name = f"Later_{namespace[5:]}"
    await tenant.plan("ext", resource, type="external", sourceRole=name)
    await failed(tenant, "ext", "SourceRoleNotFound", f'"{name}"', "spec.sourceRole")
    await run(admin, "CREATE ROLE {}", name)
    await tenant.until_plans(["ext"])
    await tenant.delete("ext")
    await tenant.until_gone("ext")
    await run(admin, "DROP ROLE {}", name)


async def test_databases_and_schemas_that_cannot_be_had_are_all_listed_and_nothing_is_granted_meanwhile(
    tenant: Tenant, admin: Administrator, database: str, resource: str
) -> None:
    closed = await admin.create_database()
    await run(admin, "ALTER DATABASE {} ALLOW_CONNECTIONS false", closed)
    scopes = [f"{database}.reports", f"{database}.Public", f"{database}_missing", closed, "template1"]
    await tenant.plan("ro", resource, scopes=scopes, privileges=["SELECT"])
    await failed(
        tenant,
        "ro",
        "DatabaseNotFound",
        f'"{database}_missing" does not exist',
        f'"{closed}" takes no connections',
        '"template1" is a template database',
        f'schema "reports" does not exist in database "{database}"',
        'schema "Public" does not exist',
    )
    await holds_nothing(admin, tenant, resource, "ro")
    await tenant.change("ro", scopes=[database, f"{database}.reports"])
    await failed(tenant, "ro", "SchemaNotFound", '"reports"', "create it")
    await run(admin, "CREATE SCHEMA reports", database=database)
    await tenant.until_plans(["ro"])


async def test_after_a_failed_check_revokes_are_made_and_grants_are_not(
    tenant: Tenant, admin: Administrator, database: str, resource: str
) -> None:
    await tenant.plan("rw", resource, scopes=[database], privileges=["SELECT", "DELETE"])
    role = (await tenant.until_plans(["rw"]))["rw"]["status"]["role"]
    await tenant.change("rw", scopes=[database, f"{database}.missing"], privileges=["SELECT", "INSERT"])
    await failed(tenant, "rw", "SchemaNotFound")
    session = await admin.connect(database)
    rows = await session.execute(
        "SELECT DISTINCT privilege_type FROM information_schema.role_table_grants WHERE grantee = %s", (role,)
    )
    assert await rows.fetchall() == [("SELECT",)]


async def test_a_role_that_we_did_not_make_stays_untouched(
    tenant: Tenant, admin: Administrator, database: str, resource: str
) -> None:
    name = role_name(resource, "ro")
    await run(admin, "CREATE ROLE {} NOLOGIN CREATEDB", name)
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    await failed(tenant, "ro", "RoleConflict", name, "not created by this operator", "spec.role")
    session = await admin.connect()
    row = await (
        await session.execute(
            "SELECT rolcanlogin, rolcreatedb, shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = %s",
            (name,),
        )
    ).fetchone()
    assert row == (False, True, None)
    assert await tenant.secret("ro") == {}
    await run(admin, "DROP ROLE {}", name)
    await tenant.until_plans(["ro"])


async def test_a_lost_comment_is_written_anew_and_another_plans_comment_is_respected(
    tenant: Tenant, admin: Administrator, database: str, resource: str
) -> None:
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    role = (await tenant.until_plans(["ro"]))["ro"]["status"]["role"]
    session = await admin.connect()
    await run(admin, "COMMENT ON ROLE {} IS NULL", role)

    async def claimed() -> bool:
        return await roles_of(session, tenant.namespace, "ro") == [role]

    await eventually(claimed, what="the comment is back")
    await run(admin, "COMMENT ON ROLE {} IS 'hoop.dev/role-plan: default/elsewhere/ro'", role)
    await failed(tenant, "ro", "RoleConflict", "default/elsewhere/ro")
    await tenant.delete("ro")
    await tenant.until_gone("ro")
    rows = await session.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,))
    assert len(await rows.fetchall()) == 1
    await run(admin, "DROP OWNED BY {}", role, database=database)
    await run(admin, "DROP OWNED BY {0}; DROP ROLE {0}", role)


async def test_a_secret_that_we_did_not_make_stays_untouched_and_nothing_is_granted_meanwhile(
    tenant: Tenant, api: KubernetesApi, admin: Administrator, database: str, resource: str
) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "ro-credentials"},
        "stringData": {"a": "b"},
    }
    made = await api.create(paths.secrets(tenant.namespace), body)
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    plan = await failed(tenant, "ro", "SecretConflict", "ro-credentials", "spec.secretName")
    assert "finalizers" not in plan["metadata"]
    session = await admin.connect()
    assert await roles_of(session, tenant.namespace, "ro") == []
    path = paths.secret(tenant.namespace, "ro-credentials")
    assert (await api.get(path))["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    await api.delete(path)
    await tenant.until_plans(["ro"])
    await tenant.plan(
        "thief", resource, scopes=[database], privileges=["SELECT"], secretName="ro-credentials"
    )
    await failed(tenant, "thief", "SecretConflict", "HoopRolePlan ro")


async def test_a_plan_never_makes_up_the_secret_that_a_resource_waits_for(
    tenant: Tenant, api: KubernetesApi, database: str, resource: str
) -> None:
    waiting = {
        "apiVersion": "hoop.dev/v1alpha1",
        "kind": "HoopResource",
        "metadata": {"name": "later"},
        "spec": {
            "type": "database",
            "subtype": "postgres",
            "envVarsFrom": [{"secretRef": {"name": "later-admin"}}],
        },
    }
    await api.create(paths.hoop_resources(tenant.namespace), waiting)
    await tenant.until_resource("later", "CredentialsUnresolved")
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"], secretName="later-admin")
    await failed(tenant, "ro", "SecretConflict", "later-admin", "spec.secretName")
    with pytest.raises(ObjectNotFound):
        await api.get(paths.secret(tenant.namespace, "later-admin"))


async def test_grants_that_the_role_passed_on_are_not_cascaded(
    tenant: Tenant, admin: Administrator, database: str, resource: str, group: str
) -> None:
    await tenant.plan("rw", resource, scopes=[database], privileges=["SELECT", "DELETE"])
    role = (await tenant.until_plans(["rw"]))["rw"]["status"]["role"]
    await tenant.change("rw", suspend=True)
    await tenant.until_plans(["rw"], "Suspended")
    session = await admin.connect(database)
    names = {"role": sql.Identifier(role), "group": sql.Identifier(group)}
    await session.execute(sql.SQL("GRANT DELETE ON orders TO {role} WITH GRANT OPTION").format(**names))
    await session.execute(sql.SQL("SET ROLE {role}").format(**names))
    await session.execute(sql.SQL("GRANT DELETE ON orders TO {group}").format(**names))
    await session.execute("RESET ROLE")
    await tenant.change("rw", suspend=False, privileges=["SELECT"])
    await failed(
        tenant,
        "rw",
        "DependentGrants",
        group,
        "nothing is cascaded",
        f'SET LOCAL ROLE "{role}"; REVOKE DELETE',
    )
    await session.execute(sql.SQL("SET ROLE {role}").format(**names))
    await session.execute(sql.SQL("REVOKE DELETE ON orders FROM {group}").format(**names))
    await tenant.until_plans(["rw"])


async def test_what_the_admin_may_not_do_comes_with_the_sql_that_lets_it(
    tenant: Tenant, admin: Administrator, database: str, postgres: Server, group: str, namespace: str
) -> None:
    limited = f"limited_{namespace[5:]}"
    await run(admin, "CREATE ROLE {} LOGIN CREATEROLE PASSWORD 'limited'", limited)
    await run(admin, "ALTER DATABASE {} OWNER TO {}", database, limited)
    await run(admin, "ALTER SCHEMA public OWNER TO {}", limited, database=database)
    await run(
        admin,
        "ALTER TABLE orders OWNER TO {}; ALTER TABLE customers OWNER TO {}",
        group,
        limited,
        database=database,
    )
    await run(admin, "GRANT CREATE ON SCHEMA public TO {}", group, database=database)
    resource = await tenant.resource(postgres, user=limited, password="limited")
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    await tenant.plan("ext", resource, type="external", sourceRole=group)
    await failed(tenant, "ro", "InsufficientPrivilege", limited, f'GRANT "{group}" TO "{limited}"')
    if postgres.version >= "16":
        message = f'GRANT "{group}" TO "{limited}" WITH ADMIN OPTION;'
        await failed(tenant, "ext", "InsufficientPrivilege", message)
    await run(admin, "GRANT {} TO {} WITH ADMIN OPTION", group, limited)
    await tenant.until_plans(["ro"])
    await tenant.until_plans(["ext"])
    for plan in ("ro", "ext"):
        await tenant.delete(plan)
        await tenant.until_gone(plan)
    for role in (limited, group):
        await run(admin, "REASSIGN OWNED BY {0} TO postgres; DROP OWNED BY {0}", role, database=database)
    await run(admin, "DROP OWNED BY {}", limited)
    await run(admin, "DROP ROLE {}", limited)


async def test_a_server_that_goes_away_is_told_of_once_and_its_return_heals(
    tenant: Tenant, admin: Administrator, proxy: Proxy, postgres: Server, database: str
) -> None:
    resource = await tenant.resource(
        postgres, user=postgres.user, password=postgres.password, port=proxy.port
    )
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    await tenant.until_plans(["ro"])

    async def unused() -> bool:
        return not proxy.in_use

    # The next round begins with a look at the resource, which tells its plan. One cut off would have words of its own.
    await looks(postgres, database)
    await eventually(unused, what="the round is over")
    await proxy.close()
    await failed(tenant, "ro", "ResourceNotReady", "ServerUnreachable")
    proxy.refusing = True
    await proxy.open()

    async def settled() -> str:
        body = (await tenant.plans())["ro"]
        return str(body["metadata"]["resourceVersion"]) if "closed" in ready(body)[1] else ""

    version = await eventually(settled, what="the other message")
    attempts = proxy.accepted

    async def tried_again() -> bool:
        return proxy.accepted >= attempts + RETRIES

    await eventually(tried_again, what="more attempts")
    assert (await tenant.plans())["ro"]["metadata"]["resourceVersion"] == version
    proxy.refusing = False
    await tenant.until_plans(["ro"])

    async def told() -> list[tuple[str, str, str]]:
        events = await tenant.events("ro")
        return events if any(kind == "Normal" for kind, _, _ in events) else []

    events = await eventually(told, what="an event about the recovery")
    assert [kind for kind, _, _ in events].count("Normal") == 1
    for words in ("refused", "closed"):
        assert (
            len([note for _, reason, note in events if reason == "ResourceNotReady" and words in note]) == 1
        )


async def test_a_run_that_loses_the_server_says_so_and_the_plan_goes_on_when_it_is_back(
    api: KubernetesApi,
    namespace: str,
    own_operator: Callable[[Mapping[str, str]], OperatorProcess],
    proxy: Proxy,
    postgres: Server,
    database: str,
) -> None:
    operator = own_operator({"HOOP_DRIFT_INTERVAL_SECONDS": "3600", "HOOP_RETRY_SECONDS_MAX": "2"})
    await operator.start()
    tenant = Tenant(api, namespace, operator.agent_id)
    resource = await tenant.resource(
        postgres, user=postgres.user, password=postgres.password, port=proxy.port
    )
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    await tenant.until_plans(["ro"])
    await proxy.close()
    await tenant.change("ro", privileges=["SELECT", "INSERT"])

    async def lost() -> str:
        notes = [note for _, reason, note in await tenant.events("ro") if reason == "ServerUnreachable"]
        return notes[0] if notes else ""

    assert str(proxy.port) in await eventually(lost, what="an event about the lost server")
    await proxy.open()
    plan = (await tenant.until_plans(["ro"]))["ro"]
    assert "ServerUnreachable" not in str(plan["status"]["conditions"])


async def test_a_run_that_meets_a_lock_fails_alone_and_is_made_when_the_lock_is_gone(
    tenant: Tenant, admin: Administrator, database: str, postgres: Server, resource: str
) -> None:
    locker = await admin.connect(database)
    await locker.execute("BEGIN")
    await locker.execute("GRANT SELECT ON orders TO pg_monitor")
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    await failed(tenant, "ro", "ApplyFailed", "lock timeout", "GRANT SELECT", "tried again")
    await locker.execute("ROLLBACK")
    await tenant.until_plans(["ro"])
    async with await tenant.log_in("ro", postgres) as session:
        await session.execute("SELECT FROM orders")


async def test_the_same_failure_met_again_writes_nothing_and_a_new_input_always_does(
    tenant: Tenant, database: str, resource: str, postgres: Server
) -> None:
    await tenant.plan("ro", resource, scopes=[database, f"{database}.missing"], privileges=["SELECT"])
    before = await failed(tenant, "ro", "SchemaNotFound")
    await looks(postgres, database, RETRIES)
    again = (await tenant.plans())["ro"]
    assert again["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    await tenant.annotate("ro", reconcile_at="now")
    asked = await failed(tenant, "ro", "SchemaNotFound")
    await tenant.change("ro", privileges=["SELECT", "INSERT"])
    changed = await failed(tenant, "ro", "SchemaNotFound")
    assert len({plan["status"]["sid"] for plan in (before, asked, changed)}) == 3

    async def told() -> list[tuple[str, str, str]]:
        return await tenant.events("ro")

    ((kind, reason, note),) = await eventually(told, what="an event")
    assert (kind, reason, note) == ("Warning", "SchemaNotFound", ready(changed)[1])
