"""What becomes of role, data and object when a plan is deleted, whatever state the rest of the world is in."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiohttp import web
from psycopg import sql
from psycopg.rows import TupleRow

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.errors import ObjectNotFound
from hoop_operator.naming import role_name
from integration.administrator import Administrator
from integration.api_proxy import ApiProxy, PassOn, kind_of, let_pass
from integration.namespaces import CLUSTER_WIDE
from integration.operator_process import OperatorProcess
from integration.proxy import Proxy
from integration.tenant import PATIENCE_SECONDS, Tenant, eventually, ready, roles_of
from local import cluster, processes
from local.postgresql import Server
from local.stack import Stack

NO_DRIFT = {"HOOP_DRIFT_INTERVAL_SECONDS": "3600", "HOOP_RETRY_SECONDS_MAX": "2"}

Operators = Callable[[Mapping[str, str]], OperatorProcess]


@pytest.fixture
async def proxy(postgres: Server) -> AsyncIterator[Proxy]:
    """A way to the server that can be cut."""
    proxy = Proxy(postgres.port)
    await proxy.open()
    yield proxy
    await proxy.close()


@pytest.fixture
async def role(tenant: Tenant, database: str, resource: str) -> str:
    """The role of the plan `rw`, which may do much and is Ready."""
    privileges = ["SELECT", "INSERT", "CREATE", "EXECUTE"]
    await tenant.plan("rw", resource, scopes=[database, "postgres"], privileges=privileges)
    await tenant.until_plans(["rw"])
    return role_name(resource, "rw")


@pytest.fixture
def no_garbage_collector(stack: Stack) -> Iterator[None]:
    """Nothing is collected during the test, as in the moment after an owner has gone."""
    with stack.lock():
        processes.stop(cluster.record(stack.directory, "kube-controller-manager"))
        yield
        stack.start_control_plane()


async def exists(admin: Administrator, role: str) -> bool:
    session = await admin.connect()
    rows = await session.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,))
    return await rows.fetchall() != []


async def ended(api: KubernetesApi, namespace: str) -> bool:
    try:
        await api.get(paths.namespace(namespace))
    except ObjectNotFound:
        return True
    return False


async def drop(admin: Administrator, role: str, *databases: str) -> None:
    """Drop a role that a test left behind on purpose."""
    name = sql.Identifier(role)
    for database in databases:
        await (await admin.connect(database)).execute(sql.SQL("DROP OWNED BY {}").format(name))
    await (await admin.connect()).execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(name))


async def one(session: psycopg.AsyncConnection[TupleRow], query: str, *parameters: object) -> Any:
    row = await (await session.execute(query.encode(), parameters)).fetchone()
    assert row is not None
    return row[0]


async def take_finalizers(api: KubernetesApi, path: str) -> None:
    await api.merge_patch(path, {"metadata": {"finalizers": None}})


async def test_deletion_ends_the_sessions_keeps_the_data_and_drops_the_role_everywhere(
    tenant: Tenant, api: KubernetesApi, admin: Administrator, database: str, postgres: Server, role: str
) -> None:
    session = await tenant.log_in("rw", postgres)
    await session.execute("CREATE TABLE made (id int); INSERT INTO made VALUES (1)")
    await session.execute("CREATE FUNCTION answer() RETURNS int LANGUAGE sql RETURN 42")
    await tenant.delete("rw")
    await tenant.until_gone("rw")
    assert not await exists(admin, role)
    with pytest.raises(psycopg.OperationalError):
        await session.execute("SELECT 1")
    await session.close()
    mine = await admin.connect(database)
    assert await one(mine, "SELECT count(*) FROM made") == 1
    assert await one(mine, "SELECT answer()") == 42
    assert await one(mine, "SELECT tableowner FROM pg_tables WHERE tablename = 'made'") == "postgres"

    async def collected() -> bool:
        try:
            await api.get(paths.secret(tenant.namespace, "rw-credentials"))
        except ObjectNotFound:
            return True
        return False

    await eventually(collected, what="the Secret goes with its plan")


async def test_a_retained_role_keeps_its_login_and_the_plan_made_again_takes_it_up(
    tenant: Tenant, admin: Administrator, database: str, resource: str, postgres: Server
) -> None:
    spec: dict[str, Any] = {"scopes": [database], "privileges": ["SELECT"], "deletionPolicy": "Retain"}
    await tenant.plan("ro", resource, **spec)
    before = (await tenant.until_plans(["ro"]))["ro"]["status"]
    uri = (await tenant.secret("ro"))["uri"]
    await tenant.delete("ro")
    await tenant.until_gone("ro")
    async with await psycopg.AsyncConnection.connect(uri) as session:
        await session.execute("SELECT FROM orders")
    ((kind, reason, note),) = await tenant.events("ro")
    assert (kind, reason) == ("Normal", "RoleRetained")
    assert note.startswith(f"role {before['role']} stays on the server")
    await tenant.plan("ro", resource, **spec | {"deletionPolicy": "Delete"})
    after = (await tenant.until_plans(["ro"]))["ro"]["status"]
    assert after["roleOid"] == before["roleOid"]
    async with await tenant.log_in("ro", postgres):
        pass
    await tenant.delete("ro")
    await tenant.until_gone("ro")
    assert not await exists(admin, before["role"])


async def test_an_abandoned_plan_goes_without_touching_the_server(
    tenant: Tenant, admin: Administrator, role: str, database: str, postgres: Server
) -> None:
    uri = (await tenant.secret("rw"))["uri"]
    await tenant.annotate("rw", abandon="true")
    await tenant.delete("rw")
    await tenant.until_gone("rw")
    async with await psycopg.AsyncConnection.connect(uri):
        pass
    await drop(admin, role, database)


async def test_the_secret_of_a_role_that_is_gone_waits_for_no_garbage_collector(
    tenant: Tenant, api: KubernetesApi, role: str, no_garbage_collector: None
) -> None:
    await tenant.delete("rw")
    await tenant.until_gone("rw")
    with pytest.raises(ObjectNotFound):
        await api.get(paths.secret(tenant.namespace, "rw-credentials"))


async def test_a_plan_deleted_with_orphan_leaves_its_secret(
    tenant: Tenant, api: KubernetesApi, stack: Stack, role: str
) -> None:
    cluster.kubectl(
        stack.kubeconfig, "-n", tenant.namespace, "delete", "hrp", "rw", "--cascade=orphan", "--timeout=120s"
    )
    assert (
        "ownerReferences" not in (await api.get(paths.secret(tenant.namespace, "rw-credentials")))["metadata"]
    )


async def test_a_suspended_plan_can_be_deleted(tenant: Tenant, admin: Administrator, role: str) -> None:
    await tenant.change("rw", suspend=True)
    await tenant.until_plans(["rw"], "Suspended")
    await tenant.delete("rw")
    await tenant.until_gone("rw")
    assert not await exists(admin, role)


async def test_a_plan_that_never_worked_goes_at_once(tenant: Tenant, resource: str) -> None:
    await tenant.plan("ro", resource, scopes=["no_such_database"], privileges=["SELECT"])
    await tenant.until_plans(["ro"], "DatabaseNotFound")
    await tenant.delete("ro")
    assert "ro" not in await tenant.plans()


async def test_while_the_server_is_away_deletion_waits_says_so_and_goes_on_by_itself(
    tenant: Tenant, admin: Administrator, database: str, postgres: Server, proxy: Proxy
) -> None:
    resource = await tenant.resource(
        postgres, user=postgres.user, password=postgres.password, port=proxy.port
    )
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    await tenant.until_plans(["ro"])
    await proxy.close()
    await tenant.until_resource(resource, "ServerUnreachable")
    await tenant.delete("ro")

    def waits(plan: Mapping[str, Any]) -> bool:
        return "cannot be removed" in ready(plan)[1]

    plan = await tenant.until_plan("ro", waits, "the plan says why it waits")
    assert ready(plan)[0] == "ResourceNotReady"
    assert 'hoop.dev/abandon: "true"' in ready(plan)[1]
    await proxy.open()
    await tenant.until_gone("ro")
    assert not await exists(admin, role_name(resource, "ro"))


async def test_what_hangs_on_the_role_blocks_its_deletion_by_name_and_the_rest_is_done(
    tenant: Tenant, admin: Administrator, database: str, postgres: Server, role: str
) -> None:
    session = await admin.connect(database)
    policy = sql.SQL("CREATE POLICY visible ON orders TO {} USING (true)").format(sql.Identifier(role))
    await session.execute(policy)
    password = (await tenant.secret("rw"))["password"]
    await tenant.delete("rw")

    def blocked(plan: Mapping[str, Any]) -> bool:
        return ready(plan)[0] == "DependentObjects"

    plan = await tenant.until_plan("rw", blocked, "the policy is named")
    assert "visible" in ready(plan)[1]
    assert "goes on by itself" in ready(plan)[1]
    assert not await one(session, "SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", role)
    assert not await one(session, "SELECT has_table_privilege(%s, 'orders', 'SELECT')", role)
    assert password not in str(plan)
    await session.execute("DROP POLICY visible ON orders")
    await tenant.until_gone("rw")
    assert not await exists(admin, role)


async def test_a_routine_that_would_run_as_the_owner_of_the_database_blocks_deletion_until_it_is_settled(
    tenant: Tenant, admin: Administrator, database: str, postgres: Server, role: str
) -> None:
    async with await tenant.log_in("rw", postgres) as session:
        await session.execute(
            "CREATE FUNCTION trap() RETURNS name LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user'"
        )
    await tenant.delete("rw")

    def blocked(plan: Mapping[str, Any]) -> bool:
        return ready(plan)[0] == "DependentObjects"

    plan = await tenant.until_plan("rw", blocked, "the routine is named")
    session = await admin.connect(database)
    assert await one(session, "SELECT trap()") == role
    await session.execute(ready(plan)[1].rpartition(" run: ")[2].encode())
    await tenant.until_gone("rw")
    assert await one(session, "SELECT trap()") == "postgres"
    assert not await exists(admin, role)


async def test_without_its_resource_a_plan_goes_by_the_connection_that_last_worked(
    tenant: Tenant, api: KubernetesApi, admin: Administrator, resource: str, role: str
) -> None:
    await api.delete(paths.hoop_resource(tenant.namespace, resource))
    await tenant.until_resource(resource, "InUse")
    assert "HoopRolePlans rw" in ready((await tenant.resources())[resource])[1]
    await take_finalizers(api, paths.hoop_resource(tenant.namespace, resource))
    await tenant.until_plans(["rw"], "ResourceNotFound")
    await tenant.delete("rw")
    await tenant.until_gone("rw")
    assert not await exists(admin, role)


async def test_without_its_resource_and_any_memory_of_it_a_plan_goes_with_a_warning_that_names_the_role(
    api: KubernetesApi,
    namespace: str,
    own_operator: Operators,
    admin: Administrator,
    database: str,
    postgres: Server,
) -> None:
    operator = own_operator(NO_DRIFT)
    await operator.start()
    tenant = Tenant(api, namespace, operator.agent_id)
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    await tenant.until_plans(["ro"])
    role = role_name(resource, "ro")
    await operator.stop(PATIENCE_SECONDS)
    await api.delete(paths.hoop_resource(namespace, resource))
    await take_finalizers(api, paths.hoop_resource(namespace, resource))
    await tenant.delete("ro")
    await operator.start()
    await tenant.until_gone("ro")
    assert await exists(admin, role)
    warnings = [note for kind, reason, note in await tenant.events("ro") if reason == "RoleLeftBehind"]
    assert [role in note for note in warnings] == [True]
    assert role in operator.said()
    await drop(admin, role, database)


async def test_without_its_resource_and_its_server_a_plan_goes_with_a_warning_that_names_the_role(
    tenant: Tenant, api: KubernetesApi, admin: Administrator, database: str, postgres: Server, proxy: Proxy
) -> None:
    resource = await tenant.resource(
        postgres, user=postgres.user, password=postgres.password, port=proxy.port
    )
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    await tenant.until_plans(["ro"])
    role = role_name(resource, "ro")
    await proxy.close()
    await api.delete(paths.hoop_resource(tenant.namespace, resource))
    await take_finalizers(api, paths.hoop_resource(tenant.namespace, resource))
    await tenant.delete("ro")
    await tenant.until_gone("ro")
    assert ("Warning", "RoleLeftBehind") in [(kind, reason) for kind, reason, _ in await tenant.events("ro")]
    await drop(admin, role, database)


async def test_a_resource_deleted_in_the_moment_that_a_plan_begins_waits_for_its_role(
    own_operator: Callable[[Mapping[str, str]], OperatorProcess],
    api: KubernetesApi,
    namespace: str,
    postgres: Server,
    admin: Administrator,
    database: str,
    tmp_path: Path,
) -> None:
    process = own_operator(NO_DRIFT)
    proxy = ApiProxy(process.kubeconfig)
    await proxy.open()
    process.kubeconfig = proxy.save_kubeconfig(tmp_path / "proxied")
    tenant = Tenant(api, namespace, process.agent_id)
    used = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    unused = await tenant.resource(postgres, user="nobody", password="none", port=1)

    async def gone(name: str) -> bool:
        return name not in await tenant.resources()

    async def delete_at_the_finalizer(request: web.Request, pass_on: PassOn) -> web.StreamResponse:
        if request.method == "PATCH" and kind_of(request) == "hooproleplans":
            proxy.interfere = let_pass
            for name in (used, unused):
                await api.delete(paths.hoop_resource(namespace, name))
            # It hears of this one later: then it knows of the other deletion, too.
            await eventually(partial(gone, unused), what="the unused resource is gone")
        return await pass_on()

    try:
        await process.start()
        await tenant.until_resource(used)
        await tenant.until_resource(unused, "ServerUnreachable")
        proxy.interfere = delete_at_the_finalizer
        await tenant.plan("rw", used, scopes=[database], privileges=["SELECT"])
        await tenant.until_plans(["rw"])
        assert await exists(admin, role_name(used, "rw"))
        await tenant.until_resource(used, "InUse")
        await tenant.delete("rw")
        await eventually(partial(gone, used), what="the resource is gone")
        assert not await exists(admin, role_name(used, "rw"))
    finally:
        await proxy.close()


@CLUSTER_WIDE
async def test_a_namespace_ends_with_everything_in_it_and_leaves_no_role(
    tenant: Tenant,
    api: KubernetesApi,
    stack: Stack,
    admin: Administrator,
    database: str,
    resource: str,
    role: str,
) -> None:
    await tenant.plan("ext", resource, type="external", sourceRole="pg_read_all_data")
    await tenant.plan("broken", resource, scopes=["no_such_database"], privileges=["SELECT"])
    await tenant.until_plans(["ext"])
    cluster.kubectl(stack.kubeconfig, "delete", "namespace", tenant.namespace, "--wait=false")
    await eventually(lambda: ended(api, tenant.namespace), what="the namespace is gone")
    assert not await exists(admin, role)
    assert not await exists(admin, role_name(resource, "ext"))
    cluster.kubectl(stack.kubeconfig, "create", "namespace", tenant.namespace)


@CLUSTER_WIDE
async def test_a_namespace_ends_even_if_nobody_remembers_how_to_reach_the_server(
    api: KubernetesApi,
    namespace: str,
    stack: Stack,
    own_operator: Operators,
    admin: Administrator,
    database: str,
    postgres: Server,
) -> None:
    operator = own_operator(NO_DRIFT)
    await operator.start()
    tenant = Tenant(api, namespace, operator.agent_id)
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    await tenant.until_plans(["ro"])
    await operator.stop(PATIENCE_SECONDS)
    cluster.kubectl(stack.kubeconfig, "delete", "namespace", namespace, "--wait=false")

    async def without_credentials() -> bool:
        return not (await api.get(paths.secrets(namespace)))["items"]

    await eventually(without_credentials, what="the credentials are gone")
    await operator.start()
    await eventually(lambda: ended(api, namespace), what="the namespace is gone")
    role = role_name(resource, "ro")
    assert f"role {role} was left behind" in operator.said()
    await drop(admin, role, database)
    cluster.kubectl(stack.kubeconfig, "create", "namespace", namespace)


async def test_an_object_made_again_is_recognised_and_takes_over_role_and_secret_with_the_password(
    tenant: Tenant,
    api: KubernetesApi,
    database: str,
    resource: str,
    postgres: Server,
    no_garbage_collector: None,
) -> None:
    spec: dict[str, Any] = {"scopes": [database], "privileges": ["SELECT"]}
    await tenant.plan("ro", resource, **spec, annotations={"hoop.dev/abandon": "true"})
    before = (await tenant.until_plans(["ro"]))["ro"]
    password = (await tenant.secret("ro"))["password"]
    await tenant.delete("ro")
    await tenant.until_gone("ro")
    await tenant.plan("ro", resource, **spec)
    after = (await tenant.until_plans(["ro"]))["ro"]
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert after["status"]["roleOid"] == before["status"]["roleOid"]
    assert (await tenant.secret("ro"))["password"] == password
    body = await api.get(paths.secret(tenant.namespace, "ro-credentials"))
    assert [owner["uid"] for owner in body["metadata"]["ownerReferences"]] == [after["metadata"]["uid"]]
    async with await tenant.log_in("ro", postgres):
        pass


async def test_a_role_that_is_not_ours_any_more_is_left_behind_with_a_warning(
    tenant: Tenant, admin: Administrator, database: str, role: str
) -> None:
    session = await admin.connect()
    comment = sql.SQL("COMMENT ON ROLE {} IS 'hoop.dev/role-plan: default/elsewhere/rw'")
    await session.execute(comment.format(sql.Identifier(role)))
    await tenant.until_plans(["rw"], "RoleConflict")
    await tenant.delete("rw")
    await tenant.until_gone("rw")
    assert await exists(admin, role)
    warnings = [note for _, reason, note in await tenant.events("rw") if reason == "RoleLeftBehind"]
    assert [role in note and "elsewhere" in note for note in warnings] == [True]
    assert await roles_of(session, "elsewhere", "rw") == [role]
    await drop(admin, role, database)


async def test_a_forged_status_has_no_foreign_role_dropped(
    tenant: Tenant, api: KubernetesApi, admin: Administrator, role: str
) -> None:
    session = await admin.connect()
    foreign = f"foreign_{role}"[:63]
    await session.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(foreign)))
    forged = {
        "role": foreign,
        "roleOid": await one(session, "SELECT oid::int8 FROM pg_roles WHERE rolname = %s", foreign),
        "systemIdentifier": await one(session, "SELECT system_identifier::text FROM pg_control_system()"),
    }
    await api.merge_patch(paths.status(paths.hoop_role_plan(tenant.namespace, "rw")), {"status": forged})
    await tenant.delete("rw")
    await tenant.until_gone("rw")
    assert await exists(admin, foreign)
    assert not await exists(admin, role)
    await session.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(foreign)))
