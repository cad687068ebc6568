"""The two kinds as a person may read them, and what it takes to plan for them from where the person sits."""

import re
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

import yaml

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.cluster.namespaces import namespace_labels
from hoop_operator.cluster.secrets import read_config_map, read_secret
from hoop_operator.credentials.connection import Connection
from hoop_operator.credentials.follow import Follower
from hoop_operator.errors import AccessDenied, ObjectNotFound
from hoop_operator.reconcile.admission import deciding_selector
from hoop_operator.reconcile.manifests import NAMESPACE_NAME_LABEL, Manifests
from hoop_operator.reconcile.objects import Key, Plan, Reading, Resource
from hoop_operator.reconcile.register import connection_of
from hoop_operator.settings import Settings

# What begins like a number, as `1e10`, `0o17` and `-_1` are; and `y` and `n`, which are true and false.
_NO_TEXT_ELSEWHERE = re.compile(r"[-+.0-9]|[yYnN]$")

PLAN_KIND, RESOURCE_KIND = "HoopRolePlan", "HoopResource"


async def read_plan(api: KubernetesApi, key: Key) -> Plan:
    """The HoopRolePlan of a name.

    Raises
    ------
    ClusterError
        There is none, or it may not be read.
    """
    return Plan.parse(await _read(api, paths.hoop_role_plan(*key), PLAN_KIND, key))


async def read_resource(api: KubernetesApi, key: Key) -> Resource:
    """The HoopResource of a name.

    Raises
    ------
    ClusterError
        There is none, or it may not be read.
    """
    return Resource.parse(await _read(api, paths.hoop_resource(*key), RESOURCE_KIND, key))


async def _read(api: KubernetesApi, path: str, kind: str, key: Key) -> Mapping[str, Any]:
    try:
        return await api.get(path)
    except ObjectNotFound as error:
        other, other_path = (
            (RESOURCE_KIND, paths.hoop_resource(*key))
            if kind == PLAN_KIND
            else (PLAN_KIND, paths.hoop_role_plan(*key))
        )
        if await _exists(api, other_path):
            raise ObjectNotFound(
                f"{key} is a {other}, and this is about a {kind}; look with: kubectl hoop status {key.name} "
                f"-n {key.namespace}",
                status=error.status,
            ) from None
        raise ObjectNotFound(
            f"{kind} {key} does not exist; look with: kubectl hoop status -n {key.namespace}, or name another "
            f"namespace with -n",
            status=error.status,
        ) from None


async def _exists(api: KubernetesApi, path: str) -> bool:
    """Whether there is an object that the person may see."""
    try:
        await api.get(path)
    except (ObjectNotFound, AccessDenied):
        return False
    return True


async def list_plans(api: KubernetesApi, namespace: str | None) -> list[Plan]:
    """The HoopRolePlans of a namespace, or of the cluster, by name."""
    return sorted(
        [Plan.parse(item) async for item in _items(api, paths.hoop_role_plans(namespace), PLAN_KIND)],
        key=lambda plan: plan.key,
    )


async def list_resources(api: KubernetesApi, namespace: str | None) -> list[Resource]:
    """The HoopResources of a namespace, or of the cluster, by name."""
    return sorted(
        [Resource.parse(item) async for item in _items(api, paths.hoop_resources(namespace), RESOURCE_KIND)],
        key=lambda resource: resource.key,
    )


async def _items(api: KubernetesApi, path: str, kind: str) -> Any:
    async for page in api.pages(path):
        for item in page["items"]:
            yield {"kind": kind, **item}


async def plans_on(api: KubernetesApi, resource: Resource) -> tuple[list[Plan], bool]:
    """The plans of a resource, and whether those of all namespaces could be looked at."""
    try:
        plans, everywhere = await list_plans(api, None), True
    except AccessDenied:
        plans, everywhere = await list_plans(api, resource.key.namespace), False
    return [plan for plan in plans if plan.resource_key == resource.key and not plan.deleting], everywhere


async def add_sources(api: KubernetesApi, manifests: Manifests) -> None:
    """Read from the cluster the resources that plans name, and all that these depend on, unless it is there already.

    Raises
    ------
    AccessDenied
        Something may not be read, which the message names.
    """
    for plan in manifests.plans.values():
        if plan.resource_key not in manifests.resources:
            try:
                resource = await read_resource(api, plan.resource_key)
            except ObjectNotFound:
                continue  # the plan's own failure, in the operator's words
            manifests.resources[resource.key] = resource
    for resource in manifests.resources.values():
        for reading in filter(None, resource.sources):
            if reading not in manifests.contents and (data := await _contents(api, reading)) is not None:
                manifests.contents[reading] = data
    for plan in manifests.plans.values():
        namespace = plan.key.namespace
        asked = deciding_selector(plan, manifests.resources.get(plan.resource_key)) is not None
        if asked and namespace not in manifests.namespaces:
            labels = await namespace_labels(api, namespace)
            if labels is not None:
                manifests.namespaces[namespace] = {**labels, NAMESPACE_NAME_LABEL: namespace}


async def _contents(api: KubernetesApi, reading: Reading) -> Mapping[str, bytes] | None:
    try:
        if reading.kind == "ConfigMap":
            return await read_config_map(api, reading.namespace, reading.name)
        secret = await read_secret(api, reading.namespace, reading.name)
    except AccessDenied as error:
        raise AccessDenied(
            f"you may not read the {reading.kind} {reading.namespace}/{reading.name}, which has the credentials of "
            f"the server's admin; this takes the verb get on {reading.kind.lower()}s there",
            status=error.status,
        ) from None
    return secret.data if secret else None


async def gather(api: KubernetesApi, resource: Resource, plans: Iterable[Plan]) -> Manifests:
    """A resource and plans of it, with all that they depend on, as files would hold it."""
    manifests = Manifests(resources={resource.key: resource}, plans={plan.key: plan for plan in plans})
    await add_sources(api, manifests)
    return manifests


def with_endpoint(resource: Resource, host: str | None, port: int | None) -> Resource:
    """The resource as it is reached from where the person sits, by a forwarded port for instance."""
    given = {"HOST": host, "PORT": None if port is None else str(port)}
    named = {name: value for name, value in given.items() if value is not None}
    kept = {
        key: value for key, value in resource.spec.env_vars.items() if key.rpartition(":")[2] not in named
    }
    return Resource(resource.body, resource.spec.model_copy(update={"env_vars": {**kept, **named}}))


async def admin_connection(resource: Resource, manifests: Manifests, settings: Settings) -> Connection | None:
    """The connection of a resource's admin; None where it is no PostgreSQL server.

    References are followed as far as the settings allow, which are the person's: what a resource names may be theirs.

    Raises
    ------
    ResourceFailure
        All that is wrong with the credentials.
    """
    contents = [manifests.contents.get(source) if source else None for source in resource.sources]
    values = await Follower(settings).follow(resource.references, resource.key.namespace)
    return connection_of(resource, contents, settings.allowed_hosts, values)


def as_yaml(body: Mapping[str, Any]) -> str:
    """A manifest. Characters stand in it as they are, unless one of them cannot be seen or means something to YAML."""
    text = _dump(body, allow_unicode=True)
    return text if text.replace("\n", "").isprintable() else _dump(body, allow_unicode=False)


def _dump(body: Mapping[str, Any], *, allow_unicode: bool) -> str:
    text: str = yaml.dump(body, Dumper=_Dumper, sort_keys=False, allow_unicode=allow_unicode, width=120)
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes what kubectl, whose YAML is not PyYAML's, would take for a number or for true or false."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "'" if _NO_TEXT_ELSEWHERE.match(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def settings_for(resource: Resource | None, instance: str) -> Settings:
    """The settings of the operator that serves a resource, as far as plans depend on them."""
    agent_id = resource.spec.agent_id if resource is not None else None
    return Settings(instance=instance, agent_id=None if agent_id is None else UUID(agent_id))
