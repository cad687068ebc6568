"""What the watches tell, in an order that they promise only for the events of one object."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hoop_operator.errors import ResourceReason
from hoop_operator.reconcile.objects import Key, Resource
from hoop_operator.reconcile.reconciler import Reconciler
from hoop_operator.reconcile.register import Registration
from hoop_operator.settings import Settings

KEY = Key("shop", "it")
SPECS: dict[str, dict[str, Any]] = {
    "HoopResource": {
        "type": "database",
        "subtype": "postgres",
        "envVarsFrom": [{"secretRef": {"name": "admin"}}],
    },
    "HoopRolePlan": {
        "resourceRef": {"name": "pg"},
        "type": "external",
        "role": "ro",
        "sourceRole": "readers",
    },
}


class SilentCluster:
    """An API server that answers nobody."""

    async def get(self, path: str) -> Any:
        del path
        await asyncio.Event().wait()


@pytest.fixture
async def reconciler() -> AsyncIterator[Reconciler]:
    api: Any = SilentCluster()
    made = Reconciler(api, Settings())
    yield made
    await made.stop()


def body(kind: str, uid: str, version: int) -> dict[str, Any]:
    metadata = {**KEY._asdict(), "uid": uid, "generation": 1, "resourceVersion": str(version)}
    return {"apiVersion": "hoop.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": SPECS[kind]}


@pytest.mark.parametrize("kind", SPECS)
async def test_what_is_heard_late_of_a_former_object_says_nothing_of_the_one_that_has_its_name(
    reconciler: Reconciler, kind: str
) -> None:
    def known() -> list[str]:
        memory = reconciler._memory
        return [
            found.uid for found in (memory.plans if kind == "HoopRolePlan" else memory.resources).values()
        ]

    seen, gone = (
        (reconciler.plan_seen, reconciler.plan_gone)
        if kind == "HoopRolePlan"
        else (reconciler.resource_seen, reconciler.resource_gone)
    )
    seen(body(kind, "former", 1))
    seen(body(kind, "latter", 4))
    assert known() == ["latter"]
    seen(body(kind, "former", 2))
    assert known() == ["latter"]
    gone(body(kind, "former", 3))
    assert known() == ["latter"]
    gone(body(kind, "latter", 5))
    assert known() == []


async def test_what_is_known_of_a_former_resource_is_not_taken_for_its_successors(
    reconciler: Reconciler,
) -> None:
    former = body("HoopResource", "former", 1)
    reconciler.resource_seen(former)
    registrations = reconciler._memory.registrations
    registrations[KEY] = Registration(Resource.parse(former), ResourceReason.REGISTERED)
    reconciler.resource_seen(former)
    assert KEY in registrations
    reconciler.resource_seen(body("HoopResource", "latter", 2))
    assert registrations == {}


async def test_a_plan_made_anew_does_not_wait_as_long_as_its_failing_predecessor(
    reconciler: Reconciler,
) -> None:
    reconciler.plan_seen(body("HoopRolePlan", "former", 1))
    clock = reconciler._clock
    clock.retry(("plan", KEY), lambda: None)
    assert clock.is_failing(("plan", KEY))
    reconciler.plan_seen(body("HoopRolePlan", "latter", 2))
    assert not clock.is_failing(("plan", KEY))
