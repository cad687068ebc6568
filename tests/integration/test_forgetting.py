"""What is gone leaves nothing behind in the operator's memory."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi, connect
from integration.tenant import Tenant, eventually
from integration.test_crash import EmbeddedOperator
from local.postgresql import Server

pytestmark = pytest.mark.version_independent


def held(part: Any, path: str = "", seen: frozenset[int] = frozenset()) -> Iterator[str]:
    """The containers that are not empty, in a part of the reconciler and all of its parts."""
    if isinstance(part, dict | set | list):
        if part:
            yield f"{path}: {part!r:.200}"
        return
    if not type(part).__module__.startswith("hoop_operator.reconcile") or id(part) in seen:
        return
    slots = getattr(type(part), "__slots__", ())
    attributes = vars(part) if hasattr(part, "__dict__") else {name: getattr(part, name) for name in slots}
    for name, value in attributes.items():
        if name != "_watches":  # of Secrets and ConfigMaps, which stay
            yield from held(value, f"{path}.{name}", seen | {id(part)})


async def test_nothing_is_kept_of_resources_and_plans_that_are_gone_however_they_fared(
    api: KubernetesApi, namespace: str, postgres: Server, database: str
) -> None:
    tenant = Tenant(api, namespace, str(uuid.uuid4()))
    async with connect() as own:
        operator = EmbeddedOperator(own, tenant, drift_seconds=1)
        await operator.start()
        try:
            good = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
            away = await tenant.resource(postgres, user=postgres.user, password=postgres.password, port=1)
            await tenant.plan("applied", good, scopes=[database], privileges=["SELECT"])
            await tenant.plan("broken", good, scopes=["nowhere"], privileges=["SELECT"])
            await tenant.plan("invalid", good, scopes=[f"{database}.pg_toast"], privileges=["SELECT"])
            await tenant.plan("waiting", away, scopes=[database], privileges=["SELECT"])
            await tenant.plan("lost", "no-resource", scopes=[database], privileges=["SELECT"])
            for plan, reason in {
                "applied": "Applied",
                "broken": "DatabaseNotFound",
                "invalid": "InvalidSpec",
                "waiting": "ResourceNotReady",
                "lost": "ResourceNotFound",
            }.items():
                await tenant.until_plans([plan], reason)
            await api.delete(paths.secret(namespace, "applied-credentials"))
            await eventually(lambda: tenant.secret("applied"), what="the Secret is back")
            reconciler = operator._reconciler
            assert [*held(reconciler._memory)]
            # No plan but the one that the server may cure is tried again by a clock; that one may be under way now.
            retried = {name for name in reconciler._clock._failures if name[0] == "plan"}  # type: ignore[index]
            assert retried == {("plan", (namespace, "broken"))}
            for plan in await tenant.plans():
                await api.delete(paths.hoop_role_plan(namespace, plan))
                await tenant.until_gone(plan)
            for resource in (good, away):
                await api.delete(paths.hoop_resource(namespace, resource))

            async def forgotten() -> bool:
                return not [*held(reconciler)]

            try:
                await eventually(forgotten, what="all is forgotten")
            except AssertionError as error:
                raise AssertionError(f"{error}: {[*held(reconciler)]}") from None
        finally:
            await operator.stop()
