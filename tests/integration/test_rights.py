"""Every right that the chart gives the operator is needed, and where one is missing the operator says which."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import pytest
import yaml

from generated import MANIFESTS, NAMESPACE, render
from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.cluster.secrets import read_secret
from hoop_operator.errors import ClusterError
from integration.operator_process import OperatorProcess
from integration.tenant import PATIENCE_SECONDS, Tenant, eventually
from local import cluster, kubeconfig
from local.postgresql import Server
from local.stack import Stack

pytestmark = pytest.mark.version_independent

RBAC = "/apis/rbac.authorization.k8s.io/v1"
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
SETTINGS = {
    "HOOP_RETRY_SECONDS_MAX": "1",
    "HOOP_DRIFT_INTERVAL_SECONDS": "3600",
    "HOOP_LEASE_SECONDS": "5",
    "HOOP_LOG_FORMAT": "text",
}


class Right(NamedTuple):
    """A verb on one kind of object, in the whole cluster or in the operator's own namespace."""

    kind: str
    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


def rules_of_the_operator() -> dict[str, list[dict[str, Any]]]:
    """The rules of its ClusterRole and of its Role."""
    return {
        manifest["kind"]: manifest["rules"]
        for manifest in yaml.safe_load_all((MANIFESTS / "rbac.yaml").read_text())
        if manifest is not None
        and manifest["kind"] in {"ClusterRole", "Role"}
        and manifest["metadata"]["name"] in {"hoop-system:hoop-operator", "hoop-operator-lease"}
    }


RULES = rules_of_the_operator()
RIGHTS = [
    Right(kind, group, resource, verb)
    for kind, rules in RULES.items()
    for rule in rules
    for group in rule["apiGroups"]
    for resource in rule["resources"]
    for verb in rule["verbs"]
]


def rules_without(right: Right, rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            **rule,
            "resources": [resource],
            "verbs": [verb for verb in rule["verbs"] if (resource, verb) != (right.resource, right.verb)]
            # A rule has to have a verb.
            or ["none"],
        }
        for rule in rules
        for resource in rule["resources"]
    ]


class Account:
    """An account of its own for one operator, with what the chart gives it."""

    def __init__(self, stack: Stack, api: KubernetesApi, agent_id: str, leases: str) -> None:
        self.api = api
        self.name = f"rights-{secrets.token_hex(3)}"
        self.user = f"system:serviceaccount:{NAMESPACE}:{self.name}"
        values = (f"fullnameOverride={self.name}", f"agentId={agent_id}", f"settings.leaseNamespace={leases}")
        self.manifest = render(
            *(f"--set={value}" for value in values),
            "--show-only=templates/serviceaccount.yaml",
            "--show-only=templates/rbac.yaml",
        )
        self.roles = {
            "ClusterRole": f"{RBAC}/clusterroles/{NAMESPACE}:{self.name}",
            "Role": f"{RBAC}/namespaces/{leases}/roles/{self.name}-lease",
        }
        cluster.kubectl(stack.kubeconfig, "create", "--filename=-", manifest=self.manifest)

    async def lose(self, right: Right, namespace: str, name: str = "") -> None:
        await self._set(
            right, rules_without(right, await self.rules(right.kind)), namespace, name, allowed=False
        )

    async def rules(self, kind: str) -> list[dict[str, Any]]:
        rules: list[dict[str, Any]] = (await self.api.get(self.roles[kind]))["rules"]
        return rules

    async def restore(
        self, right: Right, rules: list[dict[str, Any]], namespace: str, name: str = ""
    ) -> None:
        await self._set(right, rules, namespace, name, allowed=True)

    async def _set(
        self, right: Right, rules: list[dict[str, Any]], namespace: str, name: str, *, allowed: bool
    ) -> None:
        """Change a role, and wait until the API server goes by it."""
        await self.api.merge_patch(self.roles[right.kind], {"rules": rules})
        resource, _, subresource = right.resource.partition("/")
        attributes = {
            "group": right.group,
            "resource": resource,
            "subresource": subresource,
            "verb": right.verb,
            "namespace": namespace,
            "name": name,
        }
        review = {"spec": {"user": self.user, "resourceAttributes": attributes}}

        async def in_force() -> bool:
            answer = await self.api.create(REVIEWS, review)
            return bool(answer["status"]["allowed"] is allowed)

        await eventually(in_force, what=f"{right} is in force")


class Scene:
    """An operator under that account, with two namespaces."""

    def __init__(
        self, process: OperatorProcess, account: Account, near: Tenant, far: Tenant, server: Server
    ) -> None:
        self.process = process
        self.account = account
        self.near = near
        self.far = far
        self.server = server

    async def work(self) -> None:
        """Have the operator do all that it can do."""
        near, far, label = self.near, self.far, f"r{secrets.token_hex(3)}"
        config_map = {"metadata": {"name": label}, "data": {"DB": "postgres"}}
        await near.api.create(paths.config_maps(near.namespace), config_map)
        login: dict[str, Any] = {"user": self.server.user, "password": self.server.password}
        selector = {"matchLabels": {"kubernetes.io/metadata.name": far.namespace}}
        resource = await near.resource(
            self.server, **login, allowedNamespaces={"from": "Selector", "selector": selector}
        )
        await near.change_resource(
            resource,
            envVarsFrom=[
                {"secretRef": {"name": f"{resource}-admin"}},
                {"configMapRef": {"name": label}},
            ],
        )
        grants: dict[str, Any] = {"scopes": ["postgres"], "privileges": ["SELECT"]}
        await near.plan(f"{label}-lost", f"{label}-none", role=f"{label}n", **grants)
        await near.until_resource(resource)
        await near.plan(label, resource, **grants)
        reference = {"name": resource, "namespace": near.namespace}
        await far.plan(label, resource, resourceRef=reference, role=f"{label}f", **grants)
        await near.until_plans([label])
        await far.until_plans([label])
        await near.annotate(label, rotate_at="now")

        async def rotated() -> bool:
            return bool((await near.plans())[label]["status"].get("observedRotateAt"))

        await eventually(rotated, what="the password is rotated")
        for tenant in (near, far):
            await tenant.delete(label)
            await tenant.until_gone(label)
        await near.delete(f"{label}-lost")
        await near.api.delete(paths.hoop_resource(near.namespace, resource))

    async def work_on(self) -> None:
        """Have it do so again and again, whatever comes of it."""
        while True:
            with suppress(AssertionError, ClusterError):
                await self.work()

    async def clear(self) -> None:
        """Have all that was left undone taken away."""
        self.process.kill()
        await self.process.start()
        for tenant in (self.near, self.far):
            for plan in await tenant.plans():
                await tenant.delete(plan)
            for resource in await tenant.resources():
                await tenant.api.delete(paths.hoop_resource(tenant.namespace, resource))

        async def gone() -> bool:
            return not any(
                [await tenant.plans() or await tenant.resources() for tenant in (self.near, self.far)]
            )

        await eventually(gone, what="nothing is left")


@pytest.fixture(scope="module")
def namespaces(stack: Stack) -> Iterator[tuple[str, str]]:
    names = tuple(f"rights-{secrets.token_hex(4)}" for _ in range(2))
    for name in names:
        cluster.kubectl(stack.kubeconfig, "create", "namespace", name)
    yield names[0], names[1]
    for name in names:
        cluster.kubectl(stack.kubeconfig, "delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
async def scene(
    stack: Stack,
    api: KubernetesApi,
    postgres: Server,
    namespaces: tuple[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Scene]:
    directory = tmp_path_factory.mktemp("rights")
    config = directory / "kubeconfig"
    process = OperatorProcess(config, directory / "log", SETTINGS)
    account = Account(stack, api, process.agent_id, namespaces[0])
    token = cluster.kubectl(
        stack.kubeconfig, f"--namespace={NAMESPACE}", "create", "token", account.name, "--duration=1h"
    )
    kubeconfig.save(config, kubeconfig.with_token(kubeconfig.read(stack.kubeconfig), token.strip()))
    near, far = (Tenant(api, name, process.agent_id) for name in namespaces)
    scene = Scene(process, account, near, far, postgres)
    await process.start()
    await scene.work()
    assert ": 403 " not in process.said()
    yield scene
    await scene.clear()
    process.bury()
    cluster.kubectl(stack.kubeconfig, "delete", "--filename=-", manifest=account.manifest)


@pytest.mark.parametrize("right", RIGHTS, ids=str)
async def test_without_any_of_its_rights_the_operator_cannot_do_its_work_and_says_why(
    scene: Scene, right: Right
) -> None:
    process, account = scene.process, scene.account
    namespace, name = scene.near.namespace, ""
    if right.resource == "leases" and right.verb != "create":
        name = f"hoop-operator-{process.agent_id}"
    rules = await account.rules(right.kind)
    said_before = len(process.said())
    await account.lose(right, namespace, name)
    if right.resource == "leases":
        process.settings["HOOP_LEASE_NAMESPACE"] = namespace
    if right.verb in {"list", "watch"} or right.resource == "leases":
        process.kill()
        process.spawn()

    async def complained() -> bool:
        return f'cannot {right.verb} resource "{right.resource}"' in process.said()[said_before:]

    complaint = asyncio.create_task(
        eventually(complained, seconds=3 * PATIENCE_SECONDS, what=f"it says that it may not {right}")
    )
    work = asyncio.create_task(scene.work_on())
    try:
        await complaint
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await account.restore(right, rules, namespace, name)
        process.settings.pop("HOOP_LEASE_NAMESPACE", None)
    assert process.running
    if right.resource == "leases":
        # One that is elected ends when a busy machine keeps it from renewing its lease in time.
        process.kill()
        process.spawn()


async def test_an_object_that_waits_for_a_right_has_an_event_that_names_it(scene: Scene) -> None:
    near, account = scene.near, scene.account
    right = Right("ClusterRole", "", "configmaps", "get")
    rules = await account.rules(right.kind)
    await account.lose(right, near.namespace)
    resource = await near.resource(scene.server, user=scene.server.user, password=scene.server.password)
    await near.change_resource(resource, envVarsFrom=[{"configMapRef": {"name": "settings"}}])

    async def told() -> list[str]:
        events = (await near.api.get(paths.events(near.namespace)))["items"]
        return [
            event["note"]
            for event in events
            if (event["reason"], event["regarding"]["name"]) == ("AccessDenied", resource)
        ]

    try:
        (note,) = await eventually(told, what="an event")
    finally:
        await account.restore(right, rules, near.namespace)
    assert 'cannot get resource "configmaps"' in note
    assert "give it that right" in note
    await near.until_resource(resource, "CredentialsUnresolved")
    assert await told() == [note]


async def test_a_secret_that_may_not_be_deleted_is_told_and_goes_when_it_may(scene: Scene) -> None:
    near, account = scene.near, scene.account
    right = Right("ClusterRole", "", "secrets", "delete")
    rules = await account.rules(right.kind)
    role = {"name": "app", "secret": {"VALUE": "1"}}
    resource = await near.resource(
        scene.server, user=scene.server.user, password=scene.server.password, roles=[role]
    )
    await near.until_resource(resource)
    path = paths.hoop_resource(near.namespace, resource)
    await account.lose(right, near.namespace)
    try:
        await near.change_resource(resource, roles=[])
        await near.until_resource(resource, "SecretConflict")
        message = (await near.api.get(path))["status"]["message"]
    finally:
        await account.restore(right, rules, near.namespace)
    assert 'cannot delete resource "secrets"' in message
    await near.until_resource(resource)
    assert await read_secret(near.api, near.namespace, f"{resource}-app-connection") is None
