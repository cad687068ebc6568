"""What becomes of roles and passwords when objects are lost, restored or replaced."""

import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi, connect
from hoop_operator.errors import ObjectNotFound
from hoop_operator.naming import role_name
from integration.administrator import Administrator
from integration.operator_process import OperatorProcess
from integration.tenant import Tenant, eventually, ready, roles_of
from local import cluster
from local.postgresql import Server
from local.stack import Stack

Operators = Callable[[Mapping[str, str]], OperatorProcess]

PAGE = Path(__file__).parents[2] / "docs/recovery.md"


def saved(body: Mapping[str, Any], *metadata: str) -> dict[str, Any]:
    """An object as a backup tool brings it back: without uid, status and, unless named, owners."""
    kept = {"name", "labels", "annotations", "finalizers", *metadata}
    return {
        **{key: value for key, value in body.items() if key != "status"},
        "metadata": {key: value for key, value in body["metadata"].items() if key in kept},
    }


async def lose(api: KubernetesApi, path: str) -> None:
    """Have an object gone at once, whatever holds it."""
    with suppress(ObjectNotFound):
        await api.merge_patch(path, {"metadata": {"finalizers": None}})
        await api.delete(path)


@pytest.mark.version_independent
async def test_a_rebuilt_cluster_takes_up_its_roles_with_the_passwords_that_were_saved(
    api: KubernetesApi,
    namespace: str,
    own_operator: Operators,
    admin: Administrator,
    database: str,
    postgres: Server,
) -> None:
    operator = own_operator({"HOOP_DRIFT_INTERVAL_SECONDS": "3600", "HOOP_RETRY_SECONDS_MAX": "2"})
    await operator.start()
    tenant = Tenant(api, namespace, operator.agent_id)
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    names = ["ownerless", "stale", "alone"]
    for name in names:
        await tenant.plan(name, resource, scopes=[database], privileges=["SELECT"])
    plans = await tenant.until_plans(names)
    await tenant.change_secret("ownerless-credentials", added="by hand")
    await tenant.change_secret("stale-credentials", added="by hand")
    secrets = {name: await api.get(paths.secret(namespace, f"{name}-credentials")) for name in names}
    registered = (await tenant.resources())[resource]
    password = (await tenant.secret("ownerless"))["password"]

    operator.kill()
    for name in names:
        await lose(api, paths.hoop_role_plan(namespace, name))
        await lose(api, paths.secret(namespace, f"{name}-credentials"))
    await lose(api, paths.hoop_resource(namespace, resource))
    await api.create(paths.secrets(namespace), saved(secrets["ownerless"]))
    await api.create(paths.secrets(namespace), saved(secrets["stale"], "ownerReferences"))
    await api.create(paths.hoop_resources(namespace), saved(registered))
    for name in names:
        await api.create(paths.hoop_role_plans(namespace), saved(plans[name]))
    await operator.start()

    again = await tenant.until_plans(names)
    session = await admin.connect()
    for name in names:
        assert again[name]["metadata"]["uid"] != plans[name]["metadata"]["uid"]
        assert again[name]["status"]["roleOid"] == plans[name]["status"]["roleOid"]
        assert await roles_of(session, namespace, name) == [role_name(resource, name)]

        async def is_the_plans(name: str = name) -> bool:
            with suppress(ObjectNotFound):
                secret = await api.get(paths.secret(namespace, f"{name}-credentials"))
                owners = [owner["uid"] for owner in secret["metadata"]["ownerReferences"]]
                return owners == [again[name]["metadata"]["uid"]]
            return False

        await eventually(is_the_plans, what="the Secret is the plan's")
        async with await tenant.log_in(name, postgres):
            pass
    kept = await tenant.secret("ownerless")
    assert (kept["password"], kept["added"]) == (password, "by hand")
    for name in names:
        await tenant.delete(name)
        await tenant.until_gone(name)
        assert await roles_of(session, namespace, name) == []


@pytest.fixture
async def other_cluster(tmp_path: Path) -> AsyncIterator[tuple[Path, KubernetesApi]]:
    """The kubeconfig and the API server of a second control plane, which has our kinds and nothing else."""
    stack = Stack(tmp_path / "other")
    try:
        stack.start_control_plane()
        stack.apply_manifests()
        async with AsyncExitStack() as opened:
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv("KUBECONFIG", str(stack.kubeconfig))
                api = await opened.enter_async_context(connect())
            yield stack.kubeconfig, api
    finally:
        stack.destroy()


async def rows_of_roles(admin: Administrator, database: str, *names: str) -> list[tuple[Any, ...]]:
    """What the server has on roles, with the transactions that wrote it: no write goes unseen that changes nothing."""
    found: list[tuple[Any, ...]] = []
    for query in (
        "SELECT r.*, r.xmin::text, d.description, d.xmin::text FROM pg_authid r JOIN pg_shdescription d"
        " ON d.objoid = r.oid AND d.classoid = 'pg_authid'::regclass WHERE r.rolname = ANY (%s) ORDER BY r.oid",
        "SELECT c.relname, c.relacl::text FROM pg_class c WHERE c.relacl::text LIKE ANY"
        " (SELECT '%%' || name || '=%%' FROM unnest(%s::text[]) name) ORDER BY 1",
    ):
        rows = await (await admin.connect(database)).execute(query, ([*names],))
        found += await rows.fetchall()
    return found


@pytest.mark.version_independent
async def test_a_copy_of_a_cluster_with_another_instance_touches_no_role_of_the_original(
    api: KubernetesApi,
    namespace: str,
    own_operator: Operators,
    other_cluster: tuple[Path, KubernetesApi],
    admin: Administrator,
    database: str,
    postgres: Server,
    tmp_path: Path,
) -> None:
    settings = {"HOOP_DRIFT_INTERVAL_SECONDS": "1", "HOOP_RETRY_SECONDS_MAX": "1"}
    operator = own_operator(settings)
    await operator.start()
    original = Tenant(api, namespace, operator.agent_id)
    resource = await original.resource(postgres, user=postgres.user, password=postgres.password)
    names = ["bare", "with-status", "eager"]
    for name in names:
        await original.plan(name, resource, scopes=[database], privileges=["SELECT"])
    plans = await original.until_plans(names)
    secrets = {name: await original.secret(name) for name in names}
    roles = [role_name(resource, name) for name in names]
    before = await rows_of_roles(admin, database, *roles)
    assert len(before) > len(roles)

    kubeconfig, other_api = other_cluster
    copy = Tenant(other_api, namespace, operator.agent_id)
    cluster.kubectl(kubeconfig, "create", "namespace", namespace)
    for secret in (f"{resource}-admin", *(f"{name}-credentials" for name in names)):
        await other_api.create(
            paths.secrets(namespace), saved(await api.get(paths.secret(namespace, secret)))
        )
    registered = (await original.resources())[resource]
    await other_api.create(paths.hoop_resources(namespace), saved(registered))
    for name in names:
        await other_api.create(paths.hoop_role_plans(namespace), saved(plans[name]))
    with_status = paths.status(paths.hoop_role_plan(namespace, "with-status"))
    await other_api.merge_patch(with_status, {"status": plans["with-status"]["status"]})
    await copy.change("eager", privileges=["INSERT"], rotatePassword=True)
    await copy.annotate("eager", adopt="true", rotate_at="now")

    # The objects name the agent id of the original, as what is restored does.
    of_the_copy = {**settings, "HOOP_INSTANCE": "copy", "HOOP_AGENT_ID": operator.agent_id}
    second = OperatorProcess(kubeconfig, tmp_path / "copy.log", of_the_copy)
    try:
        for life in ("first", "second"):
            await second.start()
            for name in names:
                await copy.annotate(name, reconcile_at=f"{life} life")
            for name, plan in (await copy.until_plans(names, "RoleConflict")).items():
                assert f"belongs to the plan default/{namespace}/{name}" in ready(plan)[1]
            for process in (operator, second):
                process.kill()
            await operator.start()
        for name in names:
            await original.annotate(name, reconcile_at="beside the copy")
        await original.until_plans(names)
        await second.start()
        for name in names:
            await copy.delete(name)
            await copy.until_gone(name)
    finally:
        second.bury()
    assert await rows_of_roles(admin, database, *roles) == before
    for name in names:
        assert await original.secret(name) == secrets[name]
        async with await original.log_in(name, postgres):
            pass
        await original.delete(name)
        await original.until_gone(name)


async def as_in_git(tenant: Tenant, plan: str) -> str:
    """The plan as somebody has it in a file."""
    body = saved((await tenant.plans())[plan])
    del body["metadata"]["finalizers"]
    return json.dumps(body)


@pytest.mark.version_independent
async def test_a_replaced_object_gets_its_finalizer_back_and_rotates_nothing_again(
    tenant: Tenant, stack: Stack, database: str, resource: str
) -> None:
    spec: dict[str, Any] = {"scopes": [database], "privileges": ["SELECT"], "rotatePassword": True}
    await tenant.plan("ro", resource, annotations={"hoop.dev/rotate-at": "1"}, **spec)
    before = (await tenant.until_plans(["ro"]))["ro"]
    password = (await tenant.secret("ro"))["password"]
    manifest = await as_in_git(tenant, "ro")
    command = ("--namespace", tenant.namespace, "replace", "-f", "-")
    cluster.kubectl(stack.kubeconfig, *command, manifest=manifest)

    def is_held(plan: Mapping[str, Any]) -> bool:
        return bool(plan["metadata"].get("finalizers"))

    after = await tenant.until_plan("ro", is_held, "the finalizer is back")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["history"] == before["status"]["history"]
    await tenant.annotate("ro", reconcile_at="now")
    await tenant.until_plans(["ro"])
    assert (await tenant.secret("ro"))["password"] == password


@pytest.mark.version_independent
async def test_an_object_replaced_by_force_is_a_plan_that_was_deleted_and_made_again(
    tenant: Tenant, stack: Stack, admin: Administrator, database: str, resource: str, postgres: Server
) -> None:
    spec: dict[str, Any] = {"scopes": [database], "privileges": ["SELECT"]}
    options: dict[str, tuple[str, ...]] = {"removed": (), "retained": (), "orphaned": ("--cascade=orphan",)}
    for name in options:
        policy = "Delete" if name == "removed" else "Retain"
        await tenant.plan(name, resource, deletionPolicy=policy, **spec)
    before = await tenant.until_plans(options)
    passwords = {name: (await tenant.secret(name))["password"] for name in options}
    for name, more in options.items():
        command = ("--namespace", tenant.namespace, "replace", "--force", *more, "-f", "-")
        cluster.kubectl(stack.kubeconfig, *command, manifest=await as_in_git(tenant, name))
    after = await tenant.until_plans(options)
    for name in options:
        assert after[name]["metadata"]["uid"] != before[name]["metadata"]["uid"]
        is_same_role = after[name]["status"]["roleOid"] == before[name]["status"]["roleOid"]
        assert is_same_role == (name != "removed")
        async with await tenant.log_in(name, postgres):
            pass
    assert (await tenant.secret("orphaned"))["password"] == passwords["orphaned"]
    assert (await tenant.secret("removed"))["password"] != passwords["removed"]
    for name in options:
        await tenant.change(name, deletionPolicy="Delete")
        await tenant.delete(name)
        await tenant.until_gone(name)
        assert await roles_of(await admin.connect(), tenant.namespace, name) == []


@pytest.mark.version_independent
async def test_the_query_of_the_page_finds_roles_that_no_plan_has(
    tenant: Tenant, admin: Administrator, database: str, resource: str
) -> None:
    spec: dict[str, Any] = {"scopes": [database], "privileges": ["SELECT"]}
    for name in ("left", "held"):
        await tenant.plan(name, resource, deletionPolicy="Retain", **spec)
    await tenant.until_plans(["left", "held"])
    await tenant.delete("left")
    await tenant.until_gone("left")
    section = PAGE.read_text(encoding="utf-8").partition("## Roles that no plan has")[2]
    query = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)[0]
    session = await admin.connect()
    rows = await (await session.execute(query.encode())).fetchall()
    plans = {f"hoop.dev/role-plan: default/{tenant.namespace}/{name}" for name in await tenant.plans()}
    ours = {comment: name for name, comment in rows if f"/{tenant.namespace}/" in comment}
    assert {ours[comment] for comment in ours.keys() - plans} == {role_name(resource, "left")}
    # Made again and deleted, as the page says.
    await tenant.plan("left", resource, **spec)
    await tenant.until_plans(["left"])
    await tenant.change("held", deletionPolicy="Delete")
    for name in ("left", "held"):
        await tenant.delete(name)
        await tenant.until_gone(name)
        assert await roles_of(session, tenant.namespace, name) == []
