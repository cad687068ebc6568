"""An operator that has no rights but the Roles that the chart makes in the namespaces of its list."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from generated import render
from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from integration.operator_process import OperatorProcess
from integration.tenant import PATIENCE_SECONDS, Tenant, eventually
from local import cluster, kubeconfig
from local.postgresql import Server
from local.stack import Stack

pytestmark = pytest.mark.version_independent

MakeOperator = Callable[[Mapping[str, str]], OperatorProcess]
GRANTS: dict[str, Any] = {"scopes": ["postgres"], "privileges": ["SELECT"]}


@pytest.fixture
def serving(
    own_operator: MakeOperator, stack: Stack, tmp_path: Path
) -> Callable[[list[str]], OperatorProcess]:
    """Makes an operator that is told to serve some namespaces, with an account that has their Roles."""

    def make(namespaces: list[str]) -> OperatorProcess:
        process = own_operator({"HOOP_WATCH_NAMESPACES": json.dumps(namespaces), "HOOP_LOG_FORMAT": "text"})
        account = f"narrow-{process.agent_id[:8]}"
        release = render(
            f"--set=watchNamespaces={{{','.join(namespaces)}}},fullnameOverride={account},agentId={process.agent_id}",
            "--show-only=templates/serviceaccount.yaml",
            "--show-only=templates/rbac.yaml",
        )
        cluster.kubectl(stack.kubeconfig, "apply", "--filename=-", manifest=release)
        token = cluster.kubectl(stack.kubeconfig, "--namespace=hoop-system", "create", "token", account)
        process.kubeconfig = tmp_path / "kubeconfig"
        config = kubeconfig.with_token(kubeconfig.read(stack.kubeconfig), token.strip())
        kubeconfig.save(process.kubeconfig, config)
        return process

    return make


async def test_it_serves_its_namespaces_with_the_roles_that_the_chart_makes_there_alone(
    serving: Callable[[list[str]], OperatorProcess],
    api: KubernetesApi,
    new_namespace: Callable[[], str],
    postgres: Server,
) -> None:
    watched, elsewhere = [new_namespace(), new_namespace()], new_namespace()
    process = serving(watched)
    near, far, other = (Tenant(api, name, process.agent_id) for name in (*watched, elsewhere))
    selector = {"matchLabels": {"kubernetes.io/metadata.name": far.namespace}}
    login: dict[str, Any] = {"user": postgres.user, "password": postgres.password}
    resource = await near.resource(
        postgres, **login, allowedNamespaces={"from": "Selector", "selector": selector}
    )
    unseen = await other.resource(postgres, **login, allowedNamespaces={"from": "All"})
    await near.plan("ro", resource, **GRANTS)
    await far.plan("guest", resource, resourceRef={"name": resource, "namespace": near.namespace}, **GRANTS)
    await process.start()
    await near.until_plans(["ro"])
    await far.until_plans(["guest"])
    await api.delete(paths.secret(near.namespace, "ro-credentials"))

    async def restored() -> bool:
        return bool(await near.secret("ro"))

    await eventually(restored, what="the lost Secret is there again")
    for tenant, plan in ((near, "ro"), (far, "guest")):
        await tenant.delete(plan)
        await tenant.until_gone(plan)
    assert ": 403 " not in process.said()
    assert "forbidden" not in process.said().lower()

    await near.plan("stray", unseen, resourceRef={"name": unseen, "namespace": elsewhere}, **GRANTS)
    await near.until_plans(["stray"], "ReferenceNotAllowed")
    await near.delete("stray")
    await near.until_gone("stray")


async def test_a_namespace_without_its_role_keeps_no_other_from_being_served_and_is_served_once_it_has_one(
    serving: Callable[[list[str]], OperatorProcess],
    stack: Stack,
    api: KubernetesApi,
    new_namespace: Callable[[], str],
    postgres: Server,
) -> None:
    names = [new_namespace(), new_namespace()]
    process = serving(names)
    account = f"narrow-{process.agent_id[:8]}"
    kubectl = (stack.kubeconfig, f"--namespace={names[1]}")
    binding = cluster.kubectl(*kubectl, "get", "rolebinding", account, "--output=json")
    cluster.kubectl(*kubectl, "delete", "rolebinding", account)
    tenants = [Tenant(api, name, process.agent_id) for name in names]
    for tenant in tenants:
        resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
        await tenant.plan("ro", resource, **GRANTS)
    await process.start()
    await tenants[0].until_plans(["ro"])

    async def told() -> bool:
        why = f'cannot list resource "hoopresources" in API group "hoop.dev" in the namespace "{names[1]}"'
        return all(text in process.said() for text in (f"Namespace {names[1]} is not served", why))

    await eventually(told, what="the namespace that is not served is named")

    restored = {**json.loads(binding), "metadata": {"name": account}}
    cluster.kubectl(*kubectl, "create", "--filename=-", manifest=json.dumps(restored))
    await tenants[1].until_plans(["ro"], seconds=2 * PATIENCE_SECONDS)
    for tenant in tenants:
        await tenant.delete("ro")
        await tenant.until_gone("ro")
